"""Ids to vectors, and with tied weights vectors back to logits."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.dtypes import activation_dtype
from llm.model.initializers import random_parameter
from llm.model.kernels import Kernel
from llm.model.linear import matmul


class Embedding(nn.Module):
    """A vector for each token."""

    config: ModelConfig

    def setup(self):
        config = self.config
        shape = (config.vocab_size, config.width)
        init = nn.initializers.normal(config.init_std)
        self.table = random_parameter(self, 'table', init, shape, config.param_dtype)
        self.head = self.get_variable('params', 'head')  # the table once more, if it is prepared for reading

    def __call__(self, tokens: Int[Array, 'batch length']) -> Float[Array, 'batch length width']:
        """Rows of the table, times `embedding_scale`."""
        rows = self.table.rows(tokens) if isinstance(self.table, Kernel) else self.table[tokens]
        return rows.astype(activation_dtype(self.config)) * self.config.embedding_scale

    def attend(self, hidden: Float[Array, '*batch width']) -> Float[Array, '*batch vocabulary']:
        """Dot product of each hidden vector with each token's (Press & Wolf 2017)."""
        if isinstance(self.table, Kernel):
            return matmul(hidden, self.table, self.config)
        return matmul(hidden, self.table.T if self.head is None else self.head, self.config)
