"""The model one block at a time, so that a deep model or a long prompt fits: of each block only the stream that enters
it is kept, and whatever else one wants to see of a block is computed again from that when it is looked at.

All blocks of a model are one compiled program, whatever their number (two, where some have a window and some none).
Prompts are padded to powers of two, to the right, which a causal model does not see and the mask hides from any other.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.analysis import lens
from llm.config import ModelConfig
from llm.inference.decode import bucket
from llm.model.taps import SITES, Edit, Edits
from llm.model.transformer import Transformer

FEWEST = 32  # tokens that a prompt is padded to
AT_ONCE = 64  # positions whose logits are computed together


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


def padded_rows(rows: np.ndarray, size: int) -> np.ndarray:
    """`rows`, and zeros behind them."""
    return np.concatenate([rows, np.zeros((size - len(rows), *rows.shape[1:]), rows.dtype)])


def one_layer(config: ModelConfig, layer: int) -> ModelConfig:
    """A model of one block that is like that of `layer`."""
    window = config.layer_windows[layer]
    local = None if window is None else config.local_rope_base
    return dataclasses.replace(config, num_layers=1, windows=(window,), local_rope_base=local)


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


def enter(config: ModelConfig, params: Any, prompt: Prompt) -> Entry:
    """From ids to the stream that enters the first block."""
    return _enter(one_layer(config, 0), params, prompt)


@functools.partial(jax.jit, static_argnames='config')
def _enter(config, params, prompt):
    captured = _run(config, params, prompt, 0, {})
    return Entry(captured['token_embedding'], captured.get('position_embedding'), captured['residual_before'])


Captured = dict[str, Array]  # by site, without the axes of layers and rows
View = Callable[[Captured, Any, Prompt, Any], Any]  # (sites, the block's parameters, prompt, arguments) -> arrays


def look(
    config: ModelConfig,
    view: View,
    params: Any,
    prompt: Prompt,
    layer: int,
    stream: Float[Array, 'padded width'],
    edits: Edits | None,
    arguments: Any = None,
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
    return _look(one_layer(config, layer), view, params, prompt, np.int32(layer), stream, edits, arguments)


@functools.partial(jax.jit, static_argnames=('config', 'view'))
def _look(config, view, params, prompt, layer, stream, edits, arguments):
    edits = {name: Edit(edit.scale[None], edit.offset[None]) for name, edit in (edits or {}).items()}
    edits['residual_before'] = Edit(jnp.zeros((1, 1, 1, 1)), stream[None, None])
    block = jax.tree.map(lambda leaf: leaf[layer], params['blocks'])
    return view(_run(config, params, prompt, layer, edits), block, prompt, arguments)


def _run(config, params, prompt, layer, edits):
    alone = params | {'blocks': jax.tree.map(lambda leaf: leaf[layer][None], params['blocks'])}
    real = (jnp.arange(prompt.tokens.shape[0]) < prompt.length).astype(jnp.int32)
    _, state = Transformer(config).apply(
        *({'params': alone}, prompt.tokens[None]),
        segment_ids=real[None],
        with_logits=False,
        edits=edits,
        mutable=['intermediates'],
    )
    return dict(_sites(state['intermediates'], ()))


def _sites(tree, scope):
    """Every site with its value for the only row (of the only layer)."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _sites(value, (*scope, name))
        elif name in SITES:
            yield name, value[0][0, 0] if SITES[name].layered else value[0][0]


@functools.partial(jax.jit, static_argnames='config')
def logits(config: ModelConfig, params: Any, stream: Float[Array, 'rows width']) -> Float[Array, 'rows vocabulary']:
    """What the head says of streams, through the final norm."""
    return lens.unembed(params, config, stream).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames='config')
def _token_losses(config, params, stream, targets):
    log_probs = jax.nn.log_softmax(logits(config, params, stream), axis=-1)
    return -jnp.take_along_axis(log_probs, targets[:, None], axis=-1)[:, 0]


def token_losses(config: ModelConfig, params: Any, stream: np.ndarray, tokens: tuple[int, ...]) -> np.ndarray:
    """Nats of each token given those before it, NaN for the first; the logits of a few positions at a time.

    Args:
        config, params: the model.
        stream: (length, width), what leaves the last block.
        tokens: the prompt.
    """
    found = np.full(len(tokens), np.nan, np.float32)
    for start in range(0, len(tokens) - 1, AT_ONCE):
        targets = np.array(tokens[start + 1 : start + 1 + AT_ONCE], np.int32)
        rows = len(targets)
        piece = padded_rows(stream[start : start + rows], AT_ONCE)
        losses = _token_losses(config, params, piece, padded_rows(targets, AT_ONCE))
        found[start + 1 : start + 1 + rows] = np.asarray(losses)[:rows]
    return found


@functools.partial(jax.jit, static_argnames='config')
def final_norm(config: ModelConfig, params: Any, stream: Float[Array, '*batch width']) -> Float[Array, '*batch width']:
    """What the head reads of a stream."""
    return Transformer(config).apply({'params': params}, stream, method=lambda model, x: model.final_norm(x))
