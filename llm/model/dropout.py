"""Dropout whose mask belongs to the example, not to where the batch happens to be cut."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Dropout(nn.Module):
    """Zeroes activations with probability `rate` and scales the rest up (Srivastava et al. 2014).

    Active when `apply` is given `rngs={'dropout': key}`. The key of a row is folded from its global index, so
    accumulation and data parallelism draw the same masks.
    """

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, 'batch length width'], example_ids: Int[Array, 'batch']
    ) -> Float[Array, 'batch length width']:
        if self.rate == 0 or not self.has_rng('dropout'):
            return x
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng('dropout'), example_ids)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros((), x.dtype)[None, None, None])
