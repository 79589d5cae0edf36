"""Ids to vectors, and with tied weights vectors back to logits."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.dtypes import activation_dtype
from llm.model.initializers import random_parameter
from llm.model.linear import matmul


class Embedding(nn.Module):
    """A vector for each token."""

    config: ModelConfig

    def setup(self):
        config = self.config
        shape = (config.vocab_size, config.width)
        init = nn.initializers.normal(config.init_std)
        self.table = random_parameter(self, 'table', init, shape, config.param_dtype)

    def __call__(self, tokens: Int[Array, 'batch length']) -> Float[Array, 'batch length width']:
        """Rows of the table, times `embedding_scale`."""
        return self.table[tokens].astype(activation_dtype(self.config)) * self.config.embedding_scale

    def attend(self, hidden: Float[Array, '*batch width']) -> Float[Array, '*batch vocabulary']:
        """Dot product of each hidden vector with each token's (Press & Wolf 2017)."""
        return matmul(hidden, self.table.T, self.config)
