"""Multi-head attention with grouped queries (Vaswani et al. 2017; Ainslie et al. 2023)."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm.config import ModelConfig
from llm.model import attention_backends
from llm.model.attention_reference import dot_product_attention
from llm.model.dtypes import activation_dtype
from llm.model.kv_cache import LayerCache
from llm.model.linear import Linear, multiply_together
from llm.model.masks import UNBOUNDED, inside_window
from llm.model.norms import Norm
from llm.model.parametrization import attention_scale
from llm.model.positions import alibi_slopes
from llm.model.rope import apply_rope
from llm.model.taps import ON_SCORES, Edits, tap, tapped
from llm.parallel.axes import constrain


class Context(NamedTuple):
    """What every layer shares: computed once, before the first block."""

    mask: Bool[Array, '#batch query key'] | None  # without the layer's window; None runs the config's backend
    segment_ids: Int[Array, 'batch query'] | None  # documents packed in a row, from 1; 0 is padding
    query_index: Int[Array, '#batch query']
    key_index: Int[Array, '#batch key']
    rope: tuple[Array, Array] | None  # cosines and sines
    distance: Float[Array, 'batch query key'] | None  # between the positions of query and key, for ALiBi
    write_at: Int[Array, 'batch'] | None  # where new keys go in the cache; None without one
    example_ids: Int[Array, 'batch']  # which row of the global batch this is, for dropout
    local_rope: tuple[Array, Array] | None = None  # of layers with a window, where theirs are others
    source: Float[Array, 'batch source width'] | None = None  # what the encoder made of the text that is read
    source_mask: Bool[Array, '#batch query source'] | None = None  # which of it each query may read


class Attention(nn.Module):
    """Queries, keys and values from the residual stream; what the heads read goes back to it."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'batch length width'],
        context: Context,
        window: Int[Array, ''] | None,
        cached: LayerCache | None,
        edits: Edits | None = None,
    ) -> tuple[Float[Array, 'batch length width'], LayerCache | None]:
        """Returns the update to the residual stream, and the cache, if there is one, with the new keys and values."""
        config = self.config
        query, key, value = self._projections(x)
        if config.qk_norm:
            query = Norm(config, kind='rmsnorm', name='query_norm')(query)
            key = Norm(config, kind='rmsnorm', name='key_norm')(key)
        if context.rope is not None:
            angles = context.rope
            if context.local_rope is not None:
                angles = tuple(
                    jnp.where(window < UNBOUNDED, local, shared) for local, shared in zip(context.local_rope, angles)
                )
            query, key = apply_rope(query, angles), apply_rope(key, angles)
        query = constrain(query, 'batch', 'heads', 'length', None)
        key, value = (constrain(x, 'batch', 'heads', None, None) for x in (key, value))  # of all positions
        query, key = tap(self, 'queries', query, edits), tap(self, 'keys', key, edits)
        value = tap(self, 'values', value, edits)
        if cached is not None:
            cached = cached.write(key, value, context.write_at)
            key, value = cached.read()
        settings = {
            'scale': attention_scale(config),
            'softcap': config.attention_softcap,
            'dtype': jnp.dtype(config.compute_dtype),
        }
        if context.mask is None:
            attend = attention_backends.backend(attention_backends.running(config))
            shared = config.layer_windows[0]  # a backend's window is part of its program, so it is every layer's
            mixed = attend(query, key, value, segment_ids=context.segment_ids, window=shared, **settings)
        else:
            mixed = self._reference(query, key, value, context, window, settings, edits)
        mixed = tap(self, 'head_outputs', mixed, edits)
        mixed = mixed.astype(activation_dtype(config)).swapaxes(1, 2).reshape(*x.shape[:2], -1)
        use_bias = 'attention_output' in config.biases
        return Linear(config.width, config, use_bias=use_bias, role='output', name='output')(mixed), cached

    def _reference(self, query, key, value, context, window, settings, edits):
        """The formula, which any backend is held against."""
        mask, bias = context.mask, None
        if window is not None:
            mask = mask & inside_window(context.query_index, context.key_index, window)
        if context.distance is not None:
            bias = -alibi_slopes(self.config.num_heads)[None, :, None, None] * context.distance[:, None, :, :]
        attend = functools.partial(dot_product_attention, **settings)
        if tapped(self, ON_SCORES, edits):
            attend = functools.partial(attend, tap=lambda site, x: tap(self, site, x, edits))
        elif self.config.remat == 'none':
            # Saving queries, keys and values and repeating the softmax is cheaper than moving (length x length) arrays.
            # With remat the block does that already, and a second time would be for nothing.
            attend = jax.checkpoint(attend)
        return attend(query, key, value, mask, bias=bias)[0]

    def _projections(self, x):
        """Queries, keys and values, each (batch, its heads, length, head_dim)."""
        config = self.config
        heads = {'query': config.num_heads, 'key': config.kv_heads, 'value': config.kv_heads}
        layers = [
            Linear(number * config.key_size, config, use_bias=name in config.biases, name=name)
            for name, number in heads.items()
        ]
        split = lambda y: y.reshape(*x.shape[:2], -1, config.key_size).swapaxes(1, 2)
        return [split(y) for y in multiply_together(x, layers)]
