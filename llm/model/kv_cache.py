"""Keys and values of the tokens already read, so that decoding does not recompute the past."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from llm.config import ModelConfig


class SourceCache(NamedTuple):
    """What cross-attention reads of an encoded source: made once, and the same for every token that is written.

    Attributes:
        keys, values: of each layer of the decoder.
        lengths: tokens of each source; what is behind them is padding.
    """

    keys: Float[Array, 'layers batch kv_heads source head_dim']
    values: Float[Array, 'layers batch kv_heads source head_dim']
    lengths: Int[Array, 'batch']


class KVCache(NamedTuple):
    """An immutable pytree: the model takes one and returns the next.

    Attributes:
        keys, values: what each layer stored, in `stored_dtype`; slots at or past a row's length hold nothing.
        lengths: tokens stored in each row.
        source: of an encoder-decoder, what `Transformer.read_source` gave; else None.
    """

    keys: Shaped[Array, 'layers batch kv_heads capacity head_dim']
    values: Shaped[Array, 'layers batch kv_heads capacity head_dim']
    lengths: Int[Array, 'batch']
    source: SourceCache | None = None

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
    source: tuple[Array, Array] | None = None  # the layer's keys and values of an encoded source

    def write(
        self,
        key: Float[Array, 'batch kv_heads length head_dim'],
        value: Float[Array, 'batch kv_heads length head_dim'],
        start: Int[Array, 'batch'],
    ) -> 'LayerCache':
        """Puts row b's new entries at slots start[b] and on."""
        at = jnp.stack([jnp.full_like(start, self.layer), start], axis=1)
        # What one `dynamic_update_slice` a row does. Under `vmap` that would transpose the whole cache there and back;
        # with the row as an index, a mesh that shares the rows would gather them.
        numbers = jax.lax.ScatterDimensionNumbers(
            update_window_dims=(1, 2, 3),
            inserted_window_dims=(0,),
            scatter_dims_to_operand_dims=(0, 3),
            operand_batching_dims=(1,),
            scatter_indices_batching_dims=(0,),
        )

        def put(stored, new):
            bits = jax.lax.bitcast_convert_type(new.astype(self.dtype), stored.dtype)
            options = {'indices_are_sorted': True, 'unique_indices': True, 'mode': 'clip'}
            return jax.lax.scatter(stored, at, bits, numbers, **options)

        return self._replace(keys=put(self.keys, key), values=put(self.values, value))

    def read(self) -> tuple[Array, Array]:
        """Keys and values of the layer, each (batch, kv_heads, capacity, head_dim)."""
        of = lambda stored: jax.lax.bitcast_convert_type(stored[self.layer], jnp.dtype(self.dtype))
        return of(self.keys), of(self.values)
