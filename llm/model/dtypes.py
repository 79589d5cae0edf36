"""Which precision is used where."""

import jax
import jax.numpy as jnp
import numpy as np

from llm.config import ModelConfig


def wide(dtype: jnp.dtype | str) -> jnp.dtype:
    """The type for softmax, norms, angles and losses: float32, or float64 for float64."""
    return np.promote_types(dtype, np.float32)


def activation_dtype(config: ModelConfig) -> jnp.dtype:
    """What a product returns and the residual stream holds.

    Accelerators move half the bytes with 16-bit activations. A CPU multiplies bfloat16 fast only into float32.
    """
    dtype = jnp.dtype(config.compute_dtype)
    return wide(dtype) if jax.default_backend() == 'cpu' else dtype
