"""The model one block at a time, so that a deep model or a long prompt fits: of each block only the stream that enters
it is kept, and whatever else one wants to see of a block is computed again from that when it is looked at.

All blocks of a model are one compiled program, whatever their number. Prompts are padded to powers of two, to the
right, which a causal model does not see and the mask hides from any other.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.inference.decode import bucket
from llm.model.block import Block
from llm.model.norms import Norm
from llm.model.taps import Edits
from llm.model.transformer import Transformer

FEWEST = 32  # tokens that a prompt is padded to
LENS_ROWS = 64  # positions whose logits are computed at once


class Prompt(NamedTuple):
    """A padded row.

    Attributes:
        tokens: ids, 0 behind `length`.
        length: how many are real.
    """

    tokens: Int[Array, 'padded']
    length: Int[Array, '']


def pad(tokens: tuple[int, ...], config: ModelConfig) -> Prompt:
    """Rounds the length up, so that few programs are compiled."""
    size = bucket(max(len(tokens), FEWEST), config.context_length)
    return Prompt(np.array(tokens + (0,) * (size - len(tokens)), np.int32), np.int32(len(tokens)))


class Entry(NamedTuple):
    """What happens before the first block.

    Attributes:
        token: rows of the embedding table, times the embedding scale.
        position: what is added to them, or None.
        stream: what enters the first block.
    """

    token: Float[Array, 'padded width']
    position: Float[Array, 'padded width'] | None
    stream: Float[Array, 'padded width']


@functools.partial(jax.jit, static_argnames='config')
def enter(config: ModelConfig, params: Any, prompt: Prompt) -> Entry:
    """From ids to the stream that enters the first block."""
    stream, state = _apply(config, params, prompt, lambda x, layers, context: x, mutable=['intermediates'])
    seen = state['intermediates']
    added = seen['position_embedding'][0][0] if 'position_embedding' in seen else None
    return Entry(seen['token_embedding'][0][0], added, stream[0])


Captured = dict[str, Array]  # by site, without the axis of rows
View = Callable[..., Any]  # from (captured, parameters of the layer, prompt, arguments) to what is shown


@functools.partial(jax.jit, static_argnames=('config', 'view'))
def look(
    config: ModelConfig,
    view: View,
    params: Any,
    prompt: Prompt,
    layer: Int[Array, ''],
    stream: Float[Array, 'padded width'],
    edits: Edits | None,
    arguments: Any,
) -> Any:
    """Runs one block on the stream that enters it, and returns what `view` makes of its sites.

    Args:
        config: the model's, for reading.
        view: a function at the top level of a module; only what it uses is computed.
        params: the whole model's.
        prompt: that the stream belongs to.
        layer: which block.
        stream: what enters it.
        edits: of this block, without an axis of layers.
        arguments: for the view.
    """

    def one(x, layers, context):
        windows, _, _ = layers
        block = jax.tree.map(lambda leaf: leaf[layer], params['blocks'])
        settings = (None if windows is None else windows[layer], None, edits)
        variables = {'params': block}
        _, state = Block(config, parent=None).apply(
            variables, stream[None].astype(x.dtype), settings, context, mutable=['intermediates']
        )
        return view(_captured(state['intermediates']), block, prompt, arguments)

    return _apply(config, params, prompt, one)


def _apply(config, params, prompt, blocks, **options):
    real = (jnp.arange(prompt.tokens.shape[0]) < prompt.length).astype(jnp.int32)
    model = Transformer(config)
    return model.apply({'params': params}, prompt.tokens[None], segment_ids=real[None], blocks=blocks, **options)


def _captured(tree):
    """Sites by name, wherever in the block they are, of the only row."""
    found = {}
    for name, value in tree.items():
        found |= _captured(value) if isinstance(value, dict) else {name: value[0][0]}
    return found


@functools.partial(jax.jit, static_argnames='config')
def final_norm(config: ModelConfig, params: Any, stream: Float[Array, '*batch width']) -> Float[Array, '*batch width']:
    """What the head reads of a stream."""
    return Norm(config).apply({'params': params['final_norm']}, stream)


def unembed(
    config: ModelConfig, params: Any, hidden: Float[Array, '*batch width']
) -> Float[Array, '*batch vocabulary']:
    """Logits of what the final norm gives."""
    return Transformer(config).apply({'params': params}, hidden, method='unembed')


@functools.partial(jax.jit, static_argnames='config')
def logits(config: ModelConfig, params: Any, stream: Float[Array, 'rows width']) -> Float[Array, 'rows vocabulary']:
    """Logits of streams, as if what comes after the last block came next."""
    return unembed(config, params, final_norm(config, params, stream)).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames='config')
def _token_losses(config, params, stream, targets):
    log_probs = jax.nn.log_softmax(logits(config, params, stream), axis=-1)
    return -jnp.take_along_axis(log_probs, targets[:, None], axis=-1)[:, 0]


def token_losses(config: ModelConfig, params: Any, stream: np.ndarray, tokens: tuple[int, ...]) -> np.ndarray:
    """Nats of each token given those before it, NaN for the first; logits of a few positions at a time."""
    found = np.full(len(tokens), np.nan, np.float32)
    for start in range(0, len(tokens) - 1, LENS_ROWS):
        rows = min(LENS_ROWS, len(tokens) - 1 - start)
        piece = padded_rows(stream[start : start + rows], LENS_ROWS)
        targets = padded_rows(np.array(tokens[start + 1 : start + 1 + rows], np.int32), LENS_ROWS)
        found[start + 1 : start + 1 + rows] = np.asarray(_token_losses(config, params, piece, targets))[:rows]
    return found


def padded_rows(rows: np.ndarray, size: int) -> np.ndarray:
    """`rows` and zeros behind them."""
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])
