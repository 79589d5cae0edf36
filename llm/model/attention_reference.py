"""Attention as the formula has it: every score and every weight, so that they can be shown."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm.model.dtypes import wide
from llm.model.masks import inside_window, make_mask

NEGATIVE = -1e30  # finite, so that a row with nothing to attend to (padding) stays finite


def dot_product_attention(
    query: Float[Array, 'batch heads query head_dim'],
    key: Float[Array, 'batch kv_heads key head_dim'],
    value: Float[Array, 'batch kv_heads key head_dim'],
    mask: Bool[Array, '#batch query key'],
    *,
    scale: float,
    softcap: float | None = None,
    bias: Float[Array, '#batch heads query key'] | None = None,
    dtype: jnp.dtype = jnp.float32,
    tap: Callable[[str, Array], Array] | None = None,
) -> tuple[Float[Array, 'batch heads query head_dim'], Float[Array, 'batch heads query key']]:
    """softmax(cap(scale q k^T) + bias) v, with the softmax in float32.

    Query head h reads key head h // (heads / kv_heads). `tap(site, value)`, if given, is shown 'scores', before the
    mask, and 'pattern', the weights; what it returns takes their place (see `llm.model.taps`). Returns the mixed values
    and the attention weights.
    """
    batch, heads, length, head_dim = query.shape
    kv_heads, keys = key.shape[1:3]
    high = wide(query.dtype)
    grouped = query.reshape(batch, kv_heads, heads // kv_heads * length, head_dim)
    scores = jnp.einsum('bhqd,bhkd->bhqk', grouped.astype(dtype), key.astype(dtype), preferred_element_type=high)
    scores = scores.reshape(batch, heads, length, keys) * jnp.asarray(scale, high)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores + jnp.broadcast_to(bias.astype(high), scores.shape)
    if tap is not None:
        scores = tap('scores', scores)
    scores = jnp.where(mask[:, None, :, :], scores, jnp.asarray(NEGATIVE, high))
    weights = jax.nn.softmax(scores, axis=-1)
    if tap is not None:
        weights = tap('pattern', weights)
    grouped_weights = weights.reshape(batch, kv_heads, heads // kv_heads * length, keys)
    mixed = jnp.einsum(
        'bhqk,bhkd->bhqd', grouped_weights.astype(dtype), value.astype(dtype), preferred_element_type=high
    )
    return mixed.reshape(batch, heads, length, head_dim).astype(query.dtype), weights


def attend(
    query: Float[Array, 'batch heads length head_dim'],
    key: Float[Array, 'batch kv_heads length head_dim'],
    value: Float[Array, 'batch kv_heads length head_dim'],
    *,
    segment_ids: Int[Array, 'batch length'] | None,
    window: int | None,
    scale: float,
    softcap: float | None,
    dtype: jnp.dtype,
) -> Float[Array, 'batch heads length head_dim']:
    """Causal attention with the interface of a backend (see `attention_backends`): what the others are held against."""
    index = jnp.arange(query.shape[2], dtype=jnp.int32)[None, :]
    mask = make_mask('causal', index, index, query_segments=segment_ids, key_segments=segment_ids)
    if window is not None:
        mask = mask & inside_window(index, index, jnp.int32(window))
    mixed, _ = dot_product_attention(query, key, value, mask, scale=scale, softcap=softcap, dtype=dtype)
    return mixed
