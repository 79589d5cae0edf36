"""The two- or three-matrix network that each token passes through alone."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.config import ModelConfig
from llm.model.linear import Linear, multiply_together, row_major_products
from llm.model.taps import Edits, tap
from llm.parallel.axes import constrain

ACTIVATIONS = {
    'gelu': jax.nn.gelu,  # tanh form (Hendrycks & Gimpel 2016), as in GPT-2
    'gelu_exact': functools.partial(jax.nn.gelu, approximate=False),
    'relu': jax.nn.relu,
    'relu2': lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021, Primer
    'swiglu': jax.nn.silu,  # Shazeer 2020; the gate's activation
    'geglu': jax.nn.gelu,
    'geglu_exact': functools.partial(jax.nn.gelu, approximate=False),
}


class FeedForward(nn.Module):
    """down(activation(up x)), or down(activation(gate x) * up x) when gated."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, 'batch length width'], edits: Edits | None = None
    ) -> Float[Array, 'batch length width']:
        config = self.config
        use_bias = 'feed_forward' in config.biases
        names = ('gate', 'up') if config.gated else ('up',)
        parts = multiply_together(
            x, [Linear(config.hidden_width, config, use_bias=use_bias, name=name) for name in names]
        )
        if row_major_products():
            hidden = _activated_on_cpu(config.activation, config.compute_dtype, *parts)
        else:
            hidden = _activated(config.activation, *parts)
        hidden = constrain(hidden, 'batch', 'length', 'hidden')
        hidden = tap(self, 'neurons', hidden, edits)
        return Linear(config.width, config, use_bias=use_bias, role='output', name='down')(hidden)


def _activated(activation, first, *others):
    hidden = ACTIVATIONS[activation](first)
    return hidden * others[0] if others else hidden


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _activated_on_cpu(activation, dtype, *parts):
    """`_activated`, keeping its inputs in `dtype` and nothing else for the backward pass."""
    return _activated(activation, *parts)


def _forward(activation, dtype, *parts):
    return _activated(activation, *parts), tuple(part.astype(dtype) for part in parts)


def _backward(activation, dtype, saved, gradient):
    first, *others = (part.astype(gradient.dtype) for part in saved)
    value, slope = _value_and_slope(activation, first)
    if not others:
        return (gradient * slope,)
    return gradient * others[0] * slope, gradient * value


_activated_on_cpu.defvjp(_forward, _backward)


def _value_and_slope(activation, x):
    """The activation and its derivative, written out: fewer operations than differentiating makes."""
    if activation in ('relu', 'relu2'):
        positive = jax.nn.relu(x)
        return (positive, (x > 0).astype(x.dtype)) if activation == 'relu' else (positive * positive, 2 * positive)
    if activation == 'swiglu':
        gate = jax.nn.sigmoid(x)
        return x * gate, gate * (1 + x * (1 - gate))
    if activation in ('gelu_exact', 'geglu_exact'):  # x Phi(x), whose slope is Phi(x) + x phi(x)
        below = 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)
        return x * below, below + x * jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5
    rate, cubic = (2 / math.pi) ** 0.5, 0.044715  # of the tanh form of GELU
    square = x * x
    tanh = jnp.tanh(rate * x * (1 + cubic * square))
    half = 0.5 + 0.5 * tanh
    return x * half, half + 0.5 * rate * x * (1 - tanh * tanh) * (1 + 3 * cubic * square)
