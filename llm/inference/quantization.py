"""Weights of 8 or 4 bits: fewer bytes to keep, and to read at every step of decoding.

Weights alone are rounded; activations keep about 16 bits. A CPU multiplies 8-bit integers fastest, so there an
activation goes in as two of them, a rounded one and what the rounding left: x = s (a + b / 254). On accelerators the
weights are widened on their way into the product.

    int8    one scale for each output: w = scale x q, q in [-127, 127]
    int4    32 neighbours share a factor of 1 to 15 on the output's scale: w = scale x factor x q, q in [-7, 7]. So
            factor x q fits 8 bits, and one product of 8-bit integers serves all groups. 4.25 bits a weight.

Norms, biases and learned positions stay as they are; an embedding table, tied or not, has int8 at the least: there are
few numbers in a row of it to share an error.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8, UInt8

from llm.config import ModelConfig
from llm.model.dtypes import activation_dtype
from llm.model.kernels import Kernel, dot_rows
from llm.parallel.axes import partitioned

Bits = Literal['int8', 'int4']
GROUP = 32  # weights that share a factor
FACTORS = 15
LARGEST = {'int8': 127, 'int4': 7}
PARTS = 254  # the second part of an activation counts in this fraction of the first


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Kernel(Kernel):
    """w[o, i] = scale[o] x values[o, i]."""

    values: Int8[Array, 'outer inner']
    scale: Float[Array, 'outer']

    @classmethod
    def of(cls, kernel: Float[Array, 'outer inner']) -> 'Int8Kernel':
        """Rounds each row to the nearest, its largest number to 127."""
        kernel = kernel.astype(jnp.float32)
        scale = _nonzero(jnp.max(jnp.abs(kernel), axis=1) / LARGEST['int8'])
        return cls(jnp.round(kernel / scale[:, None]).astype(jnp.int8), scale)

    @property
    def outer(self) -> int:
        return self.values.shape[0]

    def multiply(self, x: Float[Array, '*batch inner'], config: ModelConfig) -> Float[Array, '*batch outer']:
        return _product(x, self.values, self.scale, config)

    def rows(self, ids: Int[Array, '*batch']) -> Float[Array, '*batch inner']:
        return self.values[ids].astype(jnp.float32) * self.scale[ids][..., None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int4Kernel(Kernel):
    """w[o, i] = scale[o] x factors[o, i // 32] x q[o, i].

    Attributes:
        packed: two numbers a byte: the low half holds q of the first half of the columns, the high half the others'.
            Columns are padded to a multiple of 64 with zeros.
        factors: of each group, 1 to 15.
        scale: of each row.
        inner: columns without the padding.
    """

    packed: UInt8[Array, 'outer half']
    factors: Int8[Array, 'outer groups']
    scale: Float[Array, 'outer']
    inner: int = dataclasses.field(metadata={'static': True})

    @classmethod
    def of(cls, kernel: Float[Array, 'outer inner']) -> 'Int4Kernel':
        """Takes for each group the factor with the least squared error, clipping included."""
        outer, inner = kernel.shape
        kernel = jnp.pad(kernel.astype(jnp.float32), ((0, 0), (0, -inner % (2 * GROUP))))
        groups = kernel.reshape(outer, -1, GROUP)
        scale = _nonzero(jnp.max(jnp.abs(kernel), axis=1) / (LARGEST['int4'] * FACTORS))

        def rounded(factor):
            step = scale[:, None, None] * factor
            return jnp.clip(jnp.round(groups / step), -LARGEST['int4'], LARGEST['int4']), step

        def better(factor, best):
            values, step = rounded(factor.astype(jnp.float32))
            error = jnp.sum(jnp.square(values * step - groups), axis=2)
            less = error < best[0]
            return jnp.where(less, error, best[0]), jnp.where(less, factor.astype(jnp.int8), best[1])

        start = jnp.full(groups.shape[:2], jnp.inf), jnp.ones(groups.shape[:2], jnp.int8)
        _, factors = jax.lax.fori_loop(1, FACTORS + 1, better, start)
        values, _ = rounded(factors[:, :, None].astype(jnp.float32))
        return cls(pack(values.astype(jnp.int8).reshape(kernel.shape)), factors, scale, inner)

    @property
    def outer(self) -> int:
        return self.packed.shape[0]

    def multiply(self, x: Float[Array, '*batch inner'], config: ModelConfig) -> Float[Array, '*batch outer']:
        values = _in_eight_bits(self.packed, self.factors)
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, values.shape[1] - self.inner)])
        return _product(x, values, self.scale, config)

    def rows(self, ids: Int[Array, '*batch']) -> Float[Array, '*batch inner']:
        flat = ids.reshape(-1)
        values = _in_eight_bits(self.packed[flat], self.factors[flat])[:, : self.inner].astype(jnp.float32)
        return (values * self.scale[flat][:, None]).reshape(*ids.shape, self.inner)


def pack(values: Int8[Array, 'outer inner']) -> UInt8[Array, 'outer half']:
    """Two numbers from -8 to 7 in a byte."""
    low, high = jnp.split(jax.lax.bitcast_convert_type(values, jnp.uint8), 2, axis=1)
    return (low & 15) | (high << 4)


def unpack(packed: UInt8[Array, 'outer half']) -> Int8[Array, 'outer inner']:
    """What `pack` packed."""
    signed = lambda x: jax.lax.bitcast_convert_type(x, jnp.int8)
    return jnp.concatenate([signed(packed << 4) >> 4, signed(packed) >> 4], axis=1)


def _in_eight_bits(packed, factors):
    """factor x q, at most 105."""
    values = unpack(packed)
    return (values.reshape(*factors.shape, GROUP) * factors[:, :, None]).reshape(values.shape)


def _product(x, values, scale, config):
    """x times scale x values, values of 8 bits."""
    dtype = activation_dtype(config)
    rows = x.reshape(-1, x.shape[-1])
    if jax.default_backend() == 'cpu' and not partitioned():
        rows = rows.astype(jnp.float32)
        unit = _nonzero(jnp.max(jnp.abs(rows), axis=1, keepdims=True) / LARGEST['int8'])
        coarse = jnp.round(rows / unit)
        fine = jnp.round((rows - coarse * unit) * (PARTS / unit))
        # The two by a choice, not joined: the compiler would take the one or the other number by number.
        both = jnp.where(jnp.arange(2)[:, None, None] == 0, coarse[None], fine[None]).astype(jnp.int8)
        sums = dot_rows(both.reshape(2 * len(rows), -1), values, jnp.dtype(jnp.int32)).astype(jnp.float32)
        product = (sums[: len(rows)] + sums[len(rows) :] / PARTS) * unit * scale[None, :]
    else:
        compute = jnp.dtype(config.compute_dtype)
        product = dot_rows(rows.astype(compute), values.astype(compute), jnp.dtype(jnp.float32)) * scale[None, :]
    return product.astype(dtype).reshape(*x.shape[:-1], values.shape[0])


def _nonzero(scale):
    """A row of zeros is zeros at any scale; one that is not finite must show."""
    return jnp.where(scale == 0, 1.0, scale)
