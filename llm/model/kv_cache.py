"""Keys and values of the tokens already read, so that decoding does not recompute the past."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.dtypes import activation_dtype


class KVCache(NamedTuple):
    """An immutable pytree: the model takes one and returns the next.

    Attributes:
        keys, values: what each layer stored; slots at or past a row's length hold nothing.
        lengths: tokens stored in each row.
    """

    keys: Float[Array, 'layers batch kv_heads capacity head_dim']
    values: Float[Array, 'layers batch kv_heads capacity head_dim']
    lengths: Int[Array, 'batch']

    @classmethod
    def create(cls, config: ModelConfig, batch: int, capacity: int) -> 'KVCache':
        """An empty cache for `batch` rows of at most `capacity` tokens."""
        shape = (config.num_layers, batch, config.kv_heads, capacity, config.key_size)
        empty = jnp.zeros(shape, activation_dtype(config))
        return cls(empty, empty, jnp.zeros((batch,), jnp.int32))

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]


def write(
    stored: Float[Array, 'batch kv_heads capacity head_dim'],
    new: Float[Array, 'batch kv_heads length head_dim'],
    start: Int[Array, 'batch'],
) -> Float[Array, 'batch kv_heads capacity head_dim']:
    """Puts row b's new entries at slots start[b] and on."""
    place = lambda row, new_row, at: jax.lax.dynamic_update_slice(row, new_row, (0, at, 0))
    return jax.vmap(place)(stored, new.astype(stored.dtype), start)
