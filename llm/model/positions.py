"""Positions that are added: to the embeddings (learned, sinusoidal) or to the attention scores (ALiBi)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.initializers import random_parameter


class LearnedPositions(nn.Module):
    """One vector per position below `context_length` (Radford et al. 2018)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, positions: Int[Array, 'batch length']) -> Float[Array, 'batch length width']:
        config = self.config
        init = nn.initializers.normal(config.init_std)
        shape = (config.context_length, config.width)
        return random_parameter(self, 'table', init, shape, config.param_dtype)[positions]


def sinusoidal(
    positions: Int[Array, 'batch length'], width: int, dtype: jnp.dtype = jnp.float32
) -> Float[Array, 'batch length width']:
    """Sines in even columns, cosines in odd ones (Vaswani et al. 2017, section 3.5), in `dtype`."""
    columns = jnp.arange(width)
    exponents = (columns // 2 * 2).astype(dtype) / width
    angles = positions.astype(dtype)[:, :, None] / (10_000.0**exponents)[None, None, :]
    return jnp.where(columns[None, None, :] % 2 == 0, jnp.sin(angles), jnp.cos(angles))


def alibi_slopes(num_heads: int) -> np.ndarray:
    """Slope of each head (Press et al. 2022): a geometric series from 2^(-8/n) for n a power of two.

    For other head counts, the series of the next smaller power of two, then every second one of the next larger.
    """
    whole = 2 ** int(np.log2(num_heads))
    slopes = [2.0 ** (-8 * (i + 1) / whole) for i in range(whole)]
    slopes += [2.0 ** (-4 * (2 * i + 1) / whole) for i in range(num_heads - whole)]
    return np.array(slopes, np.float32)
