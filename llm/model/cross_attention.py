"""Attention from one text to another: what lets a decoder read what the encoder made of a source."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.config import ModelConfig
from llm.model.attention import Context
from llm.model.attention_reference import dot_product_attention
from llm.model.dtypes import activation_dtype
from llm.model.linear import Linear, multiply_together
from llm.model.norms import Norm
from llm.model.parametrization import attention_scale


class CrossAttention(nn.Module):
    """Queries from the residual stream, keys and values from the encoded source (Vaswani et al. 2017, section 3.2.3).

    Heads, sizes, biases, scale and soft-cap are those of self-attention. No order enters: the two texts count their
    tokens apart (as in Raffel et al. 2020).
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        heads = {'query': config.num_heads, 'key': config.kv_heads, 'value': config.kv_heads}
        for name, number in heads.items():
            setattr(self, name, Linear(number * config.key_size, config, use_bias=name in config.biases))
        if config.qk_norm:
            self.query_norm, self.key_norm = Norm(config, kind='rmsnorm'), Norm(config, kind='rmsnorm')
        self.output = Linear(config.width, config, use_bias='attention_output' in config.biases, role='output')

    def __call__(
        self,
        x: Float[Array, 'batch length width'],
        context: Context,
        kept: tuple[Array, Array] | None,
    ) -> Float[Array, 'batch length width']:
        """Returns the update to the residual stream; a token that may read nothing of the source gets none.

        Args:
            x: what the queries come from.
            context: with `source_mask` and, unless the keys and values are `kept`, `source`.
            kept: what `keys_and_values` gave, in decoding.
        """
        config = self.config
        query = self._heads(self.query(x))
        if config.qk_norm:
            query = self.query_norm(query)
        key, value = self.keys_and_values(context.source) if kept is None else kept
        attend = functools.partial(
            dot_product_attention,
            scale=attention_scale(config),
            softcap=config.attention_softcap,
            dtype=jnp.dtype(config.compute_dtype),
        )
        if config.remat == 'none':  # as in `llm.model.attention`
            attend = jax.checkpoint(attend)
        mixed, weights = attend(query, key, value, context.source_mask)
        self.sow('intermediates', 'pattern', weights)
        reads = jnp.any(context.source_mask, axis=-1)[:, None, :, None]
        mixed = jnp.where(reads, mixed, jnp.zeros((), mixed.dtype)[None, None, None, None])
        mixed = mixed.astype(activation_dtype(config)).swapaxes(1, 2).reshape(*x.shape[:2], -1)
        return self.output(mixed)

    def keys_and_values(self, source: Float[Array, 'batch source width']) -> tuple[Array, Array]:
        """Keys and values of an encoded source, each (batch, kv_heads, source, head_dim)."""
        key, value = map(self._heads, multiply_together(source, [self.key, self.value]))
        return (self.key_norm(key) if self.config.qk_norm else key), value

    def _heads(self, y):
        return y.reshape(*y.shape[:2], -1, self.config.key_size).swapaxes(1, 2)
