"""Muon (Jordan et al. 2024): momentum whose matrices are replaced by the nearest orthogonal ones.

Ours rather than `optax.contrib.muon`, which corrects the bias of momentum and of gradient by different powers, and so
steps in another direction than the published algorithm and torch's.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration
ITERATIONS = 5


def scale_by_muon(momentum: Float[Array, ''] | float) -> optax.GradientTransformation:
    """Nesterov momentum, orthogonalised; kernels are (..., in, out) and each matrix is taken on its own.

    The result is scaled by sqrt(max(1, out / in)), so that its effect on activations does not depend on the shape.
    """

    def update(gradients, velocity, params=None):
        mix = lambda v, g: momentum * v + (1 - momentum) * g
        velocity = jax.tree.map(mix, velocity, gradients)
        return jax.tree.map(lambda v, g: _orthogonalised(mix(v, g)), velocity, gradients), velocity

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def _orthogonalised(x: Float[Array, '... fan_in fan_out']) -> Float[Array, '... fan_in fan_out']:
    """U V^T of the singular value decomposition, roughly: a few Newton-Schulz steps on the smaller Gram matrix."""
    fan_in, fan_out = x.shape[-2:]
    a, b, c = COEFFICIENTS
    x = x.mT if fan_in > fan_out else x
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=(-2, -1), keepdims=True), 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.mT if fan_in > fan_out else x
    return x * max(1.0, fan_out / fan_in) ** 0.5
