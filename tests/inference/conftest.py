"""Tiny random models, whose next-token distributions are far from uniform."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import ModelConfig
from llm.model.transformer import Transformer


@functools.cache
def _tiny(overrides):
    settings = {'vocab_size': 24, 'context_length': 32, 'num_layers': 2, 'width': 16, 'num_heads': 4, 'init_std': 0.5}
    model = Transformer(ModelConfig(**settings | dict(overrides)))
    params = jax.jit(model.init)(jax.random.key(1), jnp.zeros((1, 1), jnp.int32))['params']
    return model, params


@pytest.fixture(scope='session')
def tiny():
    """A function from fields of ModelConfig to (model, params)."""
    return lambda **overrides: _tiny(tuple(sorted(overrides.items())))


@pytest.fixture(scope='session')
def full_logits():
    """A function from (model, params, ids) to logits (length, vocabulary), without a cache."""

    @functools.partial(jax.jit, static_argnums=0)
    def apply(model, params, tokens):
        return model.apply({'params': params}, tokens[None]).logits[0]

    def logits(model, params, ids):
        # Padding to one length keeps it one compiled program; a causal model does not see it.
        tokens = np.zeros(model.config.context_length, np.int32)
        tokens[: len(ids)] = ids
        return np.array(apply(model, params, tokens))[: len(ids)]

    return logits


@pytest.fixture(scope='session')
def full_logprobs(full_logits):
    """Like `full_logits`, normalised."""

    def logprobs(model, params, ids):
        logits = full_logits(model, params, ids).astype(np.float64)
        return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)

    return logprobs
