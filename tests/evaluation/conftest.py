"""A tiny random model that reads bytes."""

import jax
import jax.numpy as jnp
import pytest

from llm.config import Config, DataConfig, ModelConfig, TokenizerConfig
from llm.evaluation.subject import Subject
from llm.model.transformer import Transformer
from llm.tokenizer import train

MODEL = ModelConfig(vocab_size=272, context_length=64, num_layers=1, width=16, num_heads=2, init_std=0.3)


@pytest.fixture(scope='session')
def subject() -> Subject:
    params = jax.jit(Transformer(MODEL).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    config = Config(model=MODEL, tokenizer=TokenizerConfig(kind='byte'), data=DataConfig(sequence_length=32))
    return Subject(config, 7, params, train(TokenizerConfig(kind='byte'), 272, ()))


@pytest.fixture(scope='session')
def log_likelihood(subject):
    """A function from ids to the log-probabilities of all but the first, without padding or batches."""
    apply = jax.jit(lambda tokens: jax.nn.log_softmax(subject.model.apply({'params': subject.params}, tokens).logits))

    def logprobs(ids):
        tokens = jnp.zeros((1, 64), jnp.int32).at[0, : len(ids) - 1].set(jnp.array(ids[:-1], jnp.int32))
        found = apply(tokens)[0]
        return [float(found[i, token]) for i, token in enumerate(ids[1:])]

    return logprobs
