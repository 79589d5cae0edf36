"""Keys and values of the tokens already read, so that decoding does not recompute the past."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from llm.config import ModelConfig
from llm.parallel.axes import partitioned


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
        bits = lambda new, stored: jax.lax.bitcast_convert_type(new.astype(self.dtype), stored.dtype)
        put = self._put_each if partitioned() else self._put_together
        keys = put(self.keys, bits(key, self.keys), start)
        return self._replace(keys=keys, values=put(self.values, bits(value, self.values), start))

    def _put_each(self, stored, new, start):
        """One write a row, which a mesh that shares the rows makes where each of them is."""
        place = lambda row, new_row, at: jax.lax.dynamic_update_slice(row, new_row[None], (self.layer, 0, at, 0))
        return jax.vmap(place, in_axes=(1, 0, 0), out_axes=1)(stored, new, start)

    def _put_together(self, stored, new, start):
        """The same as one scatter: the other way, on one device, would transpose the whole cache there and back."""
        rows = jnp.arange(start.shape[0], dtype=start.dtype)
        at = jnp.stack([jnp.full_like(rows, self.layer), rows, start], axis=1)
        numbers = jax.lax.ScatterDimensionNumbers(
            update_window_dims=(1, 2, 3), inserted_window_dims=(0, 1), scatter_dims_to_operand_dims=(0, 1, 3)
        )
        options = {'indices_are_sorted': True, 'unique_indices': True, 'mode': 'clip'}
        return jax.lax.scatter(stored, at, new, numbers, **options)

    def read(self) -> tuple[Array, Array]:
        """Keys and values of the layer, each (batch, kv_heads, capacity, head_dim)."""
        of = lambda stored: jax.lax.bitcast_convert_type(stored[self.layer], jnp.dtype(self.dtype))
        return of(self.keys), of(self.values)
