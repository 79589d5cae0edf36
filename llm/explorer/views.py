"""What is shown of one block: small functions of what was captured there, compiled with it (see `layers.look`).

Each takes the block's captured sites, its parameters, the prompt and its own arguments, and returns arrays whose
padding its caller cuts off.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.explorer.layers import Captured, Prompt

THUMBNAIL = 32  # cells of a thumbnail's side
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
    kept = {'head_outputs': cut(captured['head_outputs'], 1), 'attention_output': cut(captured['attention_output'], 0)}
    if 'feed_forward_output' in captured:
        kept['feed_forward_output'] = cut(captured['feed_forward_output'], 0)
    return kept


def head(captured: Captured, block: Any, prompt: Prompt, number: Int[Array, '']) -> tuple[Array, Array]:
    """Scores before the mask and weights after the softmax of one head, each (query, key)."""
    return captured['scores'][number], captured['pattern'][number]


def row(captured: Captured, block: Any, prompt: Prompt, query: Int[Array, '']) -> tuple[Array, Array]:
    """The same of one query in all heads, each (heads, key)."""
    return captured['scores'][:, query], captured['pattern'][:, query]


def heads(captured: Captured, block: Any, prompt: Prompt, _: None) -> dict[str, Array]:
    """Every head at a glance: its pattern in few cells, and what it mostly looks at."""
    pattern = captured['pattern']
    padded = pattern.shape[-1]
    real = jnp.arange(padded) < prompt.length
    pattern = jnp.where(real[None, :, None] & real[None, None, :], pattern, 0.0)
    length = prompt.length.astype(jnp.float32)
    bits = jnp.where(pattern > 0, -pattern * jnp.log(jnp.where(pattern > 0, pattern, 1.0)), 0.0)
    cell = jnp.maximum(-(-prompt.length // THUMBNAIL), 1)
    return {
        'entropy': jnp.sum(bits, axis=(1, 2)) / length,
        'first': jnp.sum(pattern[:, :, 0], axis=1) / length,
        'thumbnails': pooled(pattern, cell, min(THUMBNAIL, padded)),
        **_copies(pattern, prompt),
    }


def _copies(pattern, prompt):
    """Mean weight on the previous token, on earlier copies of a query's token, and on what followed them.

    The scores of Olsson et al. 2022, on the user's own prompt: over the queries that have such keys; NaN if none has.
    """
    padded = pattern.shape[-1]
    at, tokens = jnp.arange(padded), prompt.tokens
    real = at < prompt.length
    earlier = (at[:, None] > at[None, :]) & real[:, None]
    same = earlier & (tokens[:, None] == tokens[None, :])
    followed = jnp.pad(same[:, :-1], ((0, 0), (1, 0)))  # key j follows a copy of the query's token at j - 1
    keys = {'previous': earlier & (at[:, None] == at[None, :] + 1), 'duplicate': same, 'induction': followed & earlier}
    found = {}
    for name, wanted in keys.items():
        queries = jnp.sum(jnp.any(wanted, axis=1))
        weight = jnp.sum(jnp.where(wanted[None], pattern, 0.0), axis=(1, 2))
        found[name] = jnp.where(queries > 0, weight / queries, jnp.nan)
    return found


def pooled(pattern: Float[Array, 'heads query key'], cell: Int[Array, ''], size: int) -> Float[Array, 'heads size size']:
    """The largest weight of each cell of `cell` tokens a side; cells past `size` are left out."""
    group = jnp.arange(pattern.shape[-1]) // cell
    by_query = jax.ops.segment_max(pattern.swapaxes(0, 1), group, num_segments=size)  # (size, heads, key)
    by_key = jax.ops.segment_max(by_query.transpose(2, 0, 1), group, num_segments=size)  # (size of key, of query, heads)
    return jnp.maximum(by_key.transpose(2, 1, 0), 0.0)


def block(captured: Captured, block: Any, prompt: Prompt, position: Int[Array, '']) -> dict[str, Array]:
    """The stream through a block at one position, and how much each head adds to it."""
    names = ['residual_before', 'attention_output', 'residual_between', 'residual_after', 'feed_forward_output']
    found = {name: captured[name][position] for name in names if name in captured}
    mixed = captured['head_outputs'][:, position]  # (heads, head_dim)
    kernel = block['attention']['output']['kernel'].reshape(*mixed.shape, -1)
    added = jnp.einsum('hd,hdw->hw', mixed, kernel.astype(mixed.dtype))
    return found | {'heads': _norms(added)}


def neurons(captured: Captured, block: Any, prompt: Prompt, position: Int[Array, '']) -> tuple[Array, Array]:
    """The activations at one position, and how far each neuron moves the stream: |activation| x norm of its row."""
    values = captured['neurons'][position].astype(jnp.float32)
    return values, jnp.abs(values) * _norms(block['feed_forward']['down']['kernel'])


def neuron(captured: Captured, block: Any, prompt: Prompt, number: Int[Array, '']) -> Array:
    """One neuron's activation at every position."""
    return captured['neurons'][:, number]


def site(name: str):
    """The view of all of a site's values: the same function for the same name."""
    return _SITES[name]


def _whole(name):
    def view(captured, block, prompt, _):
        return captured[name]

    return view


_SITES = {
    name: _whole(name)
    for name in ('head_outputs', 'neurons', 'attention_output', 'feed_forward_output', 'residual_after')
}
