"""Rotary position embedding (Su et al. 2021), in the half-split layout of Llama."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def rope_angles(
    positions: Int[Array, 'batch length'], head_dim: int, base: float, dtype: jnp.dtype = jnp.float32
) -> tuple[Float[Array, 'batch length half'], Float[Array, 'batch length half']]:
    """Cosine and sine of position x frequency, in `dtype`; frequency i is base^(-2i / head_dim)."""
    exponents = jnp.arange(0, head_dim, 2, dtype=dtype) / head_dim
    frequencies = 1.0 / (base**exponents)
    angles = positions.astype(dtype)[:, :, None] * frequencies[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(
    x: Float[Array, 'batch heads length head_dim'],
    angles: tuple[Float[Array, 'batch length half'], Float[Array, 'batch length half']],
) -> Float[Array, 'batch heads length head_dim']:
    """Rotates the pair (i, i + head_dim / 2) by its angle, in the angles' precision."""
    cos, sin = (angle[:, None, :, :] for angle in angles)
    first, second = jnp.split(x.astype(cos.dtype), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
