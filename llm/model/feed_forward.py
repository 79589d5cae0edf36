"""The two- or three-matrix network that each token passes through alone."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.config import ModelConfig
from llm.model.dtypes import wide
from llm.model.linear import Linear, row_major_products

ACTIVATIONS = {
    'gelu': jax.nn.gelu,  # tanh form (Hendrycks & Gimpel 2016), as in GPT-2
    'relu': jax.nn.relu,
    'relu2': lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021, Primer
    'swiglu': jax.nn.silu,  # Shazeer 2020; the gate's activation
    'geglu': jax.nn.gelu,
}


class FeedForward(nn.Module):
    """down(activation(up x)), or down(activation(gate x) * up x) when gated."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, 'batch length width']) -> Float[Array, 'batch length width']:
        config = self.config
        use_bias = 'feed_forward' in config.biases
        parts = [Linear(config.hidden_width, config, use_bias=use_bias, name='up')(x)]
        if config.gated:
            parts = [Linear(config.hidden_width, config, use_bias=use_bias, name='gate')(x), *parts]
        activate = _activated_on_cpu if row_major_products() else _activated
        hidden = activate(config.activation, config.compute_dtype, *parts)
        self.sow('intermediates', 'neurons', hidden)
        return Linear(config.width, config, use_bias=use_bias, role='output', name='down')(hidden)


def _activated(activation, dtype, first, *others):
    hidden = ACTIVATIONS[activation](first)
    return hidden * others[0] if others else hidden


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _activated_on_cpu(activation, dtype, *parts):
    """`_activated`, keeping its inputs in `dtype` and nothing else for the backward pass, which repeats it."""
    return _activated(activation, dtype, *parts)


def _forward(activation, dtype, *parts):
    return _activated(activation, dtype, *parts), tuple(part.astype(dtype) for part in parts)


def _backward(activation, dtype, saved, gradient):
    parts = [part.astype(wide(dtype)) for part in saved]
    return jax.vjp(functools.partial(_activated, activation, dtype), *parts)[1](gradient)


_activated_on_cpu.defvjp(_forward, _backward)
