"""The two- or three-matrix network that each token passes through alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.config import ModelConfig
from llm.model.linear import Linear
from llm.parallel.axes import constrain

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
        activation = ACTIVATIONS[config.activation]
        hidden = Linear(config.hidden_width, config, use_bias=use_bias, name='up')(x)
        if config.gated:
            gate = Linear(config.hidden_width, config, use_bias=use_bias, name='gate')(x)
            hidden = activation(gate) * hidden
        else:
            hidden = activation(hidden)
        hidden = constrain(hidden, 'batch', 'length', 'hidden')
        self.sow('intermediates', 'neurons', hidden)
        return Linear(config.width, config, use_bias=use_bias, role='output', name='down')(hidden)
