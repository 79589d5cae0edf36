"""What is shown of one block: small functions of what was captured there, compiled with it (see `layers.look`).

Each takes the block's captured sites, its parameters, the prompt and its own arguments, and returns arrays whose
padding its caller cuts off.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.analysis import lens
from llm.explorer.layers import Captured, Prompt

THUMBNAIL = 32  # cells of a thumbnail's side
STREAMS = ('residual_before', 'attention_output', 'residual_between', 'feed_forward_output', 'residual_after')
TAIL = 64  # last positions whose heads are kept with a trace, for attribution


def _norms(x):
    return jnp.linalg.norm(x.astype(jnp.float32), axis=-1)


def passing(captured: Captured, block: Any, prompt: Prompt, at: Int[Array, '']) -> dict[str, Array]:
    """What the pass through the whole model keeps of each block.

    Args:
        captured, block, prompt: see above.
        at: where the window of `TAIL` positions begins whose parts are kept.
    """
    parts = {
        'after': captured['residual_after'],
        'between_norm': _norms(captured['residual_between']),
        'attention_norm': _norms(captured['attention_output']),
    }
    if 'feed_forward_output' in captured:
        parts['feed_forward_norm'] = _norms(captured['feed_forward_output'])
    return parts | window(captured, block, prompt, at)


def window(captured: Captured, block: Any, prompt: Prompt, at: Int[Array, '']) -> dict[str, Array]:
    """What heads and feed-forward contribute at `TAIL` positions from `at`: for attribution."""
    size = min(TAIL, prompt.tokens.shape[0])
    cut = lambda x, axis: jax.lax.dynamic_slice_in_dim(x, at, size, axis)
    names = ('head_outputs', *STREAMS)
    return {name: cut(captured[name], 1 if name == 'head_outputs' else 0) for name in names if name in captured}


def attention(captured: Captured, block: Any, prompt: Prompt, _: None) -> tuple[Array, Array]:
    """Scores before the mask and weights after the softmax of all heads, each (heads, query, key)."""
    return captured['scores'], captured['pattern']


def head(captured: Captured, block: Any, prompt: Prompt, number: Int[Array, '']) -> tuple[Array, Array]:
    """The same of one head, for prompts so long that all would be too much."""
    return captured['scores'][number], captured['pattern'][number]


def row(captured: Captured, block: Any, prompt: Prompt, query: Int[Array, '']) -> tuple[Array, Array]:
    """The same of one query in all heads, each (heads, key)."""
    return captured['scores'][:, query], captured['pattern'][:, query]


def heads(captured: Captured, block: Any, prompt: Prompt, _: None) -> dict[str, Array]:
    """Every head at a glance: its pattern in few cells, and what it mostly looks at on this prompt."""
    pattern = captured['pattern']
    padded = pattern.shape[-1]
    at, length = jnp.arange(padded), prompt.length
    real = at < length
    pattern = jnp.where(real[None, :, None] & real[None, None, :], pattern, 0.0)
    nats = jnp.where(pattern > 0, -pattern * jnp.log(jnp.where(pattern > 0, pattern, 1.0)), 0.0)
    # Padding, as tokens that occur once, has no copies; as queries that look nowhere it only counts in a mean over all.
    tokens = jnp.where(real, prompt.tokens, -1 - at)
    scores = {name: score[0] for name, score in lens.head_scores(pattern[None, None], tokens[None]).items()}
    scores['previous'] = scores['previous'] * (padded - 1) / (length - 1)
    return scores | {
        'entropy': jnp.sum(nats, axis=(1, 2)) / length,
        'first': jnp.sum(pattern[:, :, 0], axis=1) / length,
        'thumbnails': pooled(pattern, -(-length // THUMBNAIL), min(THUMBNAIL, padded)),
    }


def pooled(
    pattern: Float[Array, 'heads query key'], cell: Int[Array, ''], size: int
) -> Float[Array, 'heads size size']:
    """The largest weight of each cell of `cell` tokens a side; cells past `size` are left out."""
    group = jnp.arange(pattern.shape[-1]) // cell
    by_query = jax.ops.segment_max(pattern.swapaxes(0, 1), group, num_segments=size)  # (size, heads, key)
    by_key = jax.ops.segment_max(
        by_query.transpose(2, 0, 1), group, num_segments=size
    )  # (size of key, of query, heads)
    return jnp.maximum(by_key.transpose(2, 1, 0), 0.0)


def _whole(site):
    def view(captured, block, prompt, _):
        return captured[site]

    return view


WHOLE = {site: _whole(site) for site in ('head_outputs', 'neurons', 'attention_output', 'feed_forward_output')}
