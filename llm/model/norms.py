"""RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016), computed in float32 at least."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.config import ModelConfig
from llm.model.dtypes import wide


class Norm(nn.Module):
    """Normalises the last axis to unit scale (and zero mean, for LayerNorm), then multiplies by a learned scale.

    Attributes:
        config: kind, epsilon, unit offset, dtypes.
        kind: overrides `config.norm`; queries and keys always use RMSNorm without a bias.
    """

    config: ModelConfig
    kind: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, '*batch width']) -> Float[Array, '*batch width']:
        config = self.config
        kind = self.kind or config.norm
        param_dtype = jnp.dtype(config.param_dtype)
        start = nn.initializers.zeros if config.norm_unit_offset else nn.initializers.ones
        scale = self.param('scale', start, (x.shape[-1],), param_dtype)
        high = wide(x.dtype)
        y, scale = x.astype(high), scale.astype(high)
        if config.norm_unit_offset:
            scale = 1 + scale
        if kind == 'layernorm':
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + config.norm_epsilon)
        y = y * jnp.broadcast_to(scale, y.shape)
        if self.kind is None and 'norm' in config.biases:
            bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), param_dtype)
            y = y + jnp.broadcast_to(bias.astype(high), y.shape)
        return y.astype(x.dtype)
