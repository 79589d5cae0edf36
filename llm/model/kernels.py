"""Kernels kept for reading alone: no gradient is taken, so each lies as its product reads it fastest.

A parameter tree may have one of these wherever it could have an array `kernel`; `llm.inference.prepared` makes such
trees, and `llm.inference.quantization` kernels of fewer bits. `multiply` is their product; embeddings look up `rows`.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.dtypes import activation_dtype
from llm.parallel.axes import partitioned

FEWEST_ROWS = 4  # of a product of 16-bit or 8-bit numbers: one row takes a path several times as slow as four do


class Kernel:
    """The interface: a matrix of `outer` rows, one for each number of the result, of `inner` numbers each."""

    @property
    def outer(self) -> int:
        raise NotImplementedError

    def multiply(self, x: Float[Array, '*batch inner'], config: ModelConfig) -> Float[Array, '*batch outer']:
        """x @ kernel, in `activation_dtype`."""
        raise NotImplementedError

    def rows(self, ids: Int[Array, '*batch']) -> Float[Array, '*batch inner']:
        """Some of its rows."""
        raise NotImplementedError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Transposed(Kernel):
    """A kernel output by output, already in the type that it is multiplied in."""

    values: Float[Array, 'outer inner']

    @property
    def outer(self) -> int:
        return self.values.shape[0]

    def multiply(self, x: Float[Array, '*batch inner'], config: ModelConfig) -> Float[Array, '*batch outer']:
        x = x.astype(self.values.dtype)
        rows = x.reshape(-1, x.shape[-1])
        product = dot_rows(rows, self.values, activation_dtype(config))
        return product.reshape(*x.shape[:-1], self.outer)

    def rows(self, ids: Int[Array, '*batch']) -> Float[Array, '*batch inner']:
        return self.values[ids]


def dot_rows(x: Array, y: Array, dtype: jnp.dtype) -> Array:
    """x (rows, inner) times y (outer, inner): each row of the one with each of the other, accumulated in `dtype`."""
    across = (((1,), (1,)), ((), ()))
    if jax.default_backend() != 'cpu' or partitioned():
        return jax.lax.dot_general(x, y, across, preferred_element_type=dtype)
    rows = x.shape[0]
    if rows < FEWEST_ROWS and x.dtype.itemsize < 4:
        x = jnp.pad(x, ((0, FEWEST_ROWS - rows), (0, 0)))
    # A conversion that the compiler fuses into the product takes its fast path away.
    return jax.lax.dot_general(jax.lax.optimization_barrier(x), y, across, preferred_element_type=dtype)[:rows]
