"""Scaled dot-product attention with grouped queries (Vaswani et al. 2017; Ainslie et al. 2023)."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm.config import ModelConfig
from llm.model import kv_cache
from llm.model.dtypes import activation_dtype, wide
from llm.model.linear import Linear
from llm.model.masks import inside_window
from llm.model.norms import Norm
from llm.model.positions import alibi_slopes
from llm.model.rope import apply_rope
from llm.parallel.axes import constrain

NEGATIVE = -1e30  # finite, so that a row with nothing to attend to (padding) stays finite


class Context(NamedTuple):
    """What every layer shares: computed once, before the first block."""

    mask: Bool[Array, '#batch query key']  # without the layer's window
    query_index: Int[Array, '#batch query']
    key_index: Int[Array, '#batch key']
    rope: tuple[Array, Array] | None  # cosines and sines
    distance: Float[Array, 'batch query key'] | None  # query position - key position, for ALiBi
    write_at: Int[Array, 'batch'] | None  # where new keys go in the cache; None without one
    example_ids: Int[Array, 'batch']  # which row of the global batch this is, for dropout


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
) -> tuple[Float[Array, 'batch heads query head_dim'], Float[Array, 'batch heads query key']]:
    """softmax(cap(scale q k^T) + bias) v, with the softmax in float32.

    Query head h reads key head h // (heads / kv_heads). Returns the mixed values and the attention weights.
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
    scores = jnp.where(mask[:, None, :, :], scores, jnp.asarray(NEGATIVE, high))
    weights = jax.nn.softmax(scores, axis=-1)
    grouped_weights = weights.reshape(batch, kv_heads, heads // kv_heads * length, keys)
    mixed = jnp.einsum(
        'bhqk,bhkd->bhqd', grouped_weights.astype(dtype), value.astype(dtype), preferred_element_type=high
    )
    return mixed.reshape(batch, heads, length, head_dim).astype(query.dtype), weights


class Attention(nn.Module):
    """Queries, keys and values from the residual stream; what the heads read goes back to it."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'batch length width'],
        context: Context,
        window: Int[Array, ''] | None,
        cached: tuple[Array, Array] | None,
    ) -> tuple[Float[Array, 'batch length width'], tuple[Array, Array] | None]:
        """Returns the update to the residual stream, and this layer's keys and values if there is a cache."""
        config = self.config
        query = self._heads('query', config.num_heads, x)
        key = self._heads('key', config.kv_heads, x)
        value = self._heads('value', config.kv_heads, x)
        if config.qk_norm:
            query = Norm(config, kind='rmsnorm', name='query_norm')(query)
            key = Norm(config, kind='rmsnorm', name='key_norm')(key)
        if context.rope is not None:
            query, key = apply_rope(query, context.rope), apply_rope(key, context.rope)
        query = constrain(query, 'batch', 'heads', 'length', None)
        key, value = (constrain(x, 'batch', 'heads', None, None) for x in (key, value))  # of all positions
        if cached is not None:
            key = kv_cache.write(cached[0], key, context.write_at)
            value = kv_cache.write(cached[1], value, context.write_at)
            cached = (key, value)
        mask, bias = context.mask, None
        if window is not None:
            mask = mask & inside_window(context.query_index, context.key_index, window)
        if config.position == 'alibi':
            bias = -alibi_slopes(config.num_heads)[None, :, None, None] * context.distance[:, None, :, :]
        attend = functools.partial(
            dot_product_attention,
            scale=config.attention_scale or config.key_size**-0.5,
            softcap=config.attention_softcap,
            dtype=jnp.dtype(config.compute_dtype),
        )
        # Saving queries, keys and values and repeating the softmax is cheaper than moving (length x length) arrays.
        mixed, weights = jax.checkpoint(attend)(query, key, value, mask, bias=bias)
        self.sow('intermediates', 'weights', weights)
        mixed = mixed.astype(activation_dtype(config)).swapaxes(1, 2).reshape(*x.shape[:2], -1)
        use_bias = 'attention_output' in config.biases
        return Linear(config.width, config, use_bias=use_bias, role='output', name='output')(mixed), cached

    def _heads(self, name: str, heads: int, x):
        config = self.config
        projected = Linear(heads * config.key_size, config, use_bias=name in config.biases, name=name)(x)
        return projected.reshape(*x.shape[:2], heads, config.key_size).swapaxes(1, 2)
