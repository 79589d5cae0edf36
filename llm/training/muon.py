"""Muon (Jordan et al. 2024): momentum whose matrices are replaced by the nearest orthogonal ones.

Ours rather than `optax.contrib.muon`, which corrects the bias of momentum and of gradient by different powers, and so
steps in another direction than the published algorithm and torch's.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from llm.config import ModelConfig
from llm.model.linear import matmul

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5


def scale_by_muon(momentum: Float[Array, ''] | float, config: ModelConfig) -> optax.GradientTransformation:
    """Nesterov momentum, orthogonalised; kernels are (layers, in, out) and each layer's matrix is taken on its own.

    The result is scaled by sqrt(max(1, out / in)), so that its effect on activations does not depend on the shape.

    Args:
        momentum: decay of the velocity.
        config: the iteration multiplies in its `compute_dtype`, as the model does.
    """
    over_layers = jax.lax.map if jax.default_backend() == 'cpu' else lambda function, x: jax.vmap(function)(x)

    def update(gradients, velocity, params=None):
        mix = lambda v, g: momentum * v + (1 - momentum) * g
        velocity = jax.tree.map(mix, velocity, gradients)
        orthogonalise = lambda kernels: over_layers(lambda kernel: _orthogonalised(kernel, config), kernels)
        return jax.tree.map(lambda v, g: orthogonalise(mix(v, g)), velocity, gradients), velocity

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def _orthogonalised(kernel: Float[Array, 'fan_in fan_out'], config: ModelConfig) -> Float[Array, 'fan_in fan_out']:
    """U V^T of the singular value decomposition, roughly: a few Newton-Schulz steps on the smaller Gram matrix."""
    fan_in, fan_out = kernel.shape
    a, b, c = COEFFICIENTS
    x = kernel.T if fan_in > fan_out else kernel
    x = x / jnp.maximum(jnp.linalg.norm(x), 1e-7)
    for _ in range(ITERATIONS):
        gram = matmul(x, x.T, config)
        x = a * x + matmul(b * gram + c * matmul(gram, gram, config), x, config)
    x = x.T if fan_in > fan_out else x
    return x.astype(kernel.dtype) * max(1.0, fan_out / fan_in) ** 0.5
