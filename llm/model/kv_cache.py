"""Keys and values of the tokens already read, so that decoding does not recompute the past."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from llm.config import ModelConfig
from llm.model.linear import row_major_products


class KVCache(NamedTuple):
    """An immutable pytree: the model takes one and returns the next.

    Attributes:
        keys, values: what each layer stored, in `stored_dtype`; slots at or past a row's length hold nothing.
        lengths: tokens stored in each row.
    """

    keys: Shaped[Array, 'layers batch kv_heads capacity head_dim']
    values: Shaped[Array, 'layers batch kv_heads capacity head_dim']
    lengths: Int[Array, 'batch']

    @classmethod
    def create(cls, config: ModelConfig, batch: int, capacity: int) -> 'KVCache':
        """An empty cache for `batch` rows of at most `capacity` tokens."""
        shape = (config.num_layers, batch, config.kv_heads, capacity, config.key_size)
        empty = jnp.zeros(shape, stored_dtype(config.compute_dtype))
        return cls(empty, empty, jnp.zeros((batch,), jnp.int32))

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]


def stored_dtype(dtype: str) -> jnp.dtype:
    """What a cache holds numbers of `dtype` in: themselves, but on a CPU the bits of 16-bit ones.

    There the compiler writes one bfloat16 into an array by converting all of it to float32 and back.
    """
    dtype = jnp.dtype(dtype)
    return jnp.dtype(jnp.uint16) if jax.default_backend() == 'cpu' and dtype.itemsize == 2 else dtype


class LayerCache(NamedTuple):
    """One layer's part of a cache, which is written where it lies: nothing else of the cache is copied."""

    keys: Shaped[Array, 'layers batch kv_heads capacity head_dim']
    values: Shaped[Array, 'layers batch kv_heads capacity head_dim']
    layer: int
    dtype: str  # what attention multiplies in

    def write(
        self,
        key: Float[Array, 'batch kv_heads length head_dim'],
        value: Float[Array, 'batch kv_heads length head_dim'],
        start: Int[Array, 'batch'],
    ) -> 'LayerCache':
        """Puts row b's new entries at slots start[b] and on."""
        bits = lambda x, stored: jax.lax.bitcast_convert_type(x.astype(self.dtype), stored.dtype)
        put = self._row_by_row if row_major_products() else self._all_rows
        keys = put(self.keys, bits(key, self.keys), start)
        return self._replace(keys=keys, values=put(self.values, bits(value, self.values), start))

    def _all_rows(self, stored, new, start):
        place = lambda row, new, at: jax.lax.dynamic_update_slice(row, new[None], (self.layer, 0, at, 0))
        return jax.vmap(place, in_axes=(1, 0, 0), out_axes=1)(stored, new, start)

    def _row_by_row(self, stored, new, start):
        """The same. Of a scatter, which `_all_rows` is, the compiler for CPUs makes a copy of the whole cache."""

        def place(row, stored):
            one = jax.lax.dynamic_slice_in_dim(new, row, 1, axis=0)
            return jax.lax.dynamic_update_slice(stored, one[None], (self.layer, row, 0, start[row], 0))

        return jax.lax.fori_loop(0, new.shape[0], place, stored)

    def read(self) -> tuple[Array, Array]:
        """Keys and values of the layer, each (batch, kv_heads, capacity, head_dim)."""
        of = lambda stored: jax.lax.bitcast_convert_type(stored[self.layer], jnp.dtype(self.dtype))
        return of(self.keys), of(self.values)
