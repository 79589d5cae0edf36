"""RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016), computed in float32 at least."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.config import ModelConfig
from llm.model.dtypes import wide
from llm.model.linear import row_major_products


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
        if row_major_products():
            # Two axes: on a CPU, sums over the last of four are several times slower.
            rows = y.reshape(-1, y.shape[-1])
            y = _normalised_on_cpu(kind, config.norm_epsilon, config.compute_dtype, rows, scale).reshape(y.shape)
        else:
            y = _normalised(kind, config.norm_epsilon, y)[0] * jnp.broadcast_to(scale, y.shape)
        if self.kind is None and 'norm' in config.biases:
            bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],), param_dtype)
            y = y + jnp.broadcast_to(bias.astype(high), y.shape)
        return y.astype(x.dtype)


def _normalised(kind, epsilon, x):
    """The rows without their mean (for LayerNorm) over their root mean square, and one over that."""
    if kind == 'layernorm':
        x = x - jnp.mean(x, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + epsilon)
    return x * inverse, inverse


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _normalised_on_cpu(kind, epsilon, dtype, x, scale):
    """`_normalised` times the scale, keeping the normalised rows in `dtype` for the backward pass."""
    return _forward(kind, epsilon, dtype, x, scale)[0]


def _forward(kind, epsilon, dtype, x, scale):
    normalised, inverse = _normalised(kind, epsilon, x)
    return normalised * scale[None, :], (normalised.astype(dtype), inverse, scale)


def _backward(kind, epsilon, dtype, saved, gradient):
    normalised, inverse, scale = saved
    normalised = normalised.astype(gradient.dtype)
    scale_gradient = jnp.sum(gradient * normalised, axis=0)
    gradient = gradient * scale[None, :]
    along = jnp.mean(gradient * normalised, axis=-1, keepdims=True)
    rest = gradient - normalised * along
    if kind == 'layernorm':
        rest = rest - jnp.mean(gradient, axis=-1, keepdims=True)
    return rest * inverse, scale_gradient


_normalised_on_cpu.defvjp(_forward, _backward)
