"""Rotary position embedding (Su et al. 2021), in the half-split layout of Llama."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.dtypes import wide

Angles = tuple[Float[Array, 'batch length half'], Float[Array, 'batch length half']]


def rope_angles(
    positions: Int[Array, 'batch length'] | Int[Array, 'batch length half'],
    head_dim: int,
    base: float,
    dtype: jnp.dtype = jnp.float32,
    stretch: Callable[[Array], Array] | None = None,
) -> Angles:
    """Cosine and sine of position x frequency, in `dtype`; frequency i is base^(-2i / head_dim), or what `stretch`
    makes of it. Positions may be one for each pair of a head, as in images."""
    exponents = jnp.arange(0, head_dim, 2, dtype=dtype) / head_dim
    frequencies = 1.0 / (base**exponents)
    if stretch is not None:
        frequencies = stretch(frequencies)
    places = positions if positions.ndim == 3 else positions[:, :, None]
    angles = places.astype(dtype) * frequencies[None, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def model_angles(
    positions: Int[Array, 'batch length'] | Int[Array, 'batch length half'], config: ModelConfig
) -> tuple[Angles, Angles | None]:
    """The angles of a model: of its layers, and of those that have a window where they have a base of their own."""
    dtype = wide(config.compute_dtype)
    stretch = None if config.rope_scaling == 'none' else lambda frequencies: stretched(frequencies, config)
    angles = rope_angles(positions, config.key_size, config.rope_base, dtype, stretch)
    if config.rope_scaling == 'yarn':
        cos, sin = angles
        angles = cos * yarn_amplitude(config), sin * yarn_amplitude(config)
    if config.local_rope_base is None:
        return angles, None
    return angles, rope_angles(positions, config.key_size, config.local_rope_base, dtype)


def stretched(frequencies: Float[Array, 'half'], config: ModelConfig) -> Float[Array, 'half']:
    """Lower frequencies, so that a longer context turns no pair further than the one it was trained on.

    `linear` divides all by `rope_factor` (Chen et al. 2023). The others leave the fast ones alone: a pair that makes
    more than `rope_fast_turns` in `rope_original_context` keeps its frequency, one that makes fewer than
    `rope_slow_turns` gets it divided, and in between the two are mixed, linearly in turns (`llama3`: Grattafiori et al.
    2024) or in the pair's number (`yarn`: Peng et al. 2023).
    """
    if config.rope_scaling == 'linear':
        return frequencies / config.rope_factor
    if config.rope_scaling == 'llama3':
        turns = config.rope_original_context / (2 * math.pi / frequencies)
        kept = (turns - config.rope_slow_turns) / (config.rope_fast_turns - config.rope_slow_turns)
    else:
        first, last = _yarn_ramp(config)
        pair = jnp.arange(frequencies.shape[0], dtype=frequencies.dtype)
        kept = 1 - (pair - first) / (last - first)
    kept = jnp.clip(kept, 0.0, 1.0)
    return (1 - kept) * (frequencies / config.rope_factor) + kept * frequencies


def _yarn_ramp(config: ModelConfig) -> tuple[float, float]:
    """The pairs between which frequencies go from kept to divided."""

    def pair(turns):  # the one, not whole, that makes so many turns in the original context
        wavelength = config.rope_original_context / turns
        return config.key_size * math.log(wavelength / (2 * math.pi)) / (2 * math.log(config.rope_base))

    first, last = pair(config.rope_fast_turns), pair(config.rope_slow_turns)
    if config.rope_whole_pairs:
        first, last = math.floor(first), math.ceil(last)
    first, last = float(max(first, 0)), float(min(last, config.key_size - 1))
    return first, last + 0.001 if first == last else last


def yarn_amplitude(config: ModelConfig) -> float:
    """What YaRN multiplies cosines and sines with, and so the scores twice (Peng et al. 2023, section 3.4)."""
    if config.rope_amplitude is not None:
        return config.rope_amplitude
    return 0.1 * math.log(max(config.rope_factor, 1.0)) + 1.0


def apply_rope(
    x: Float[Array, 'batch heads length head_dim'], angles: Angles
) -> Float[Array, 'batch heads length head_dim']:
    """Rotates the pair (i, i + head_dim / 2) by its angle, in the angles' precision."""
    cos, sin = (angle[:, None, :, :] for angle in angles)
    first, second = jnp.split(x.astype(cos.dtype), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
