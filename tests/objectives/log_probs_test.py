"""Log-probabilities are those of the model's logits, whichever part of them is computed and in how many pieces."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import ModelConfig
from llm.model import Transformer
from llm.objectives import log_probs

SMALL = ModelConfig(vocab_size=13, context_length=9, num_layers=1, width=8, num_heads=2, feed_forward_width=16)
MODEL = Transformer(SMALL)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 13, (3, 9)), jnp.int32)


quick_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@functools.cache
def random_params():
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), TOKENS)['params'])
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0.2, 0.5, leaf.shape), leaf.dtype), shapes)


def test_they_are_the_log_softmax_of_the_logits_at_the_temperature():
    scored = quick_jit(lambda params: log_probs.token_log_probs(MODEL, params, TOKENS, 0.7))(random_params())
    logits = quick_jit(lambda params: MODEL.apply({'params': params}, TOKENS).logits)(random_params())
    log_p = jax.nn.log_softmax(logits[:, :-1] / 0.7)
    expected = jnp.take_along_axis(log_p, TOKENS[:, 1:, None], axis=-1)[..., 0]
    npt.assert_allclose(scored.logprobs[:, 1:], expected, rtol=1e-5, atol=1e-6)
    npt.assert_allclose(scored.entropy[:, 1:], -jnp.sum(jnp.exp(log_p) * log_p, axis=-1), rtol=1e-5)
    npt.assert_array_equal(scored.logprobs[:, 0], 0)
    assert scored.hidden.shape == (3, 9, 8)


@pytest.mark.parametrize('max_response', [4, 50])
def test_scoring_the_responses_alone_gives_them_the_same_scores_and_gradients(max_response):
    prompt_lengths, lengths = jnp.array([1, 3, 5], jnp.int32), jnp.array([5, 6, 9], jnp.int32)
    mask = log_probs.response_mask(prompt_lengths, lengths, 9)

    def total(params, *responses):
        scored = log_probs.token_log_probs(MODEL, params, TOKENS, 0.7, *responses)
        picked = jnp.where(mask, scored.logprobs, 0.0)
        return jnp.sum(jnp.sin(picked)), (picked, jnp.where(mask, scored.entropy, 0.0))

    both = [
        quick_jit(jax.value_and_grad(lambda params: total(params, *responses), has_aux=True))(random_params())  # noqa: B023
        for responses in ((), (prompt_lengths, max_response))
    ]
    jax.tree.map(functools.partial(npt.assert_allclose, rtol=1e-4, atol=1e-5), *both)


def test_pieces_of_any_size_make_the_same_whole(monkeypatch):
    total = lambda params: jnp.sum(jnp.sin(log_probs.token_log_probs(MODEL, params, TOKENS).logprobs))
    expected = quick_jit(jax.value_and_grad(total))(random_params())
    for at_once in (3 * 13 * 3, 1):  # three positions, which do not divide the eight; one
        monkeypatch.setattr(log_probs, 'LOGITS_AT_ONCE', at_once)
        found = quick_jit(jax.value_and_grad(lambda params: total(params)))(random_params())
        jax.tree.map(functools.partial(npt.assert_allclose, rtol=1e-4, atol=1e-5), found, expected)


def test_pieces_save_memory_where_the_vocabulary_is_large(monkeypatch):
    """The compiler's own account of the temporaries of one gradient: all logits at once, or an eighth of them."""
    model = Transformer(dataclasses.replace(SMALL, vocab_size=8192, context_length=65))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), TOKENS)['params'])
    tokens = jax.ShapeDtypeStruct((4, 65), jnp.int32)

    def temporaries(at_once):
        monkeypatch.setattr(log_probs, 'LOGITS_AT_ONCE', at_once)
        total = lambda params, tokens: jnp.sum(log_probs.token_log_probs(model, params, tokens).logprobs)
        return jax.jit(jax.grad(total)).lower(shapes, tokens).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * 64 * 8192
    assert temporaries(logits) > 4 * logits
    assert temporaries(logits // 8) < 4 * logits / 2


def test_the_response_begins_behind_the_prompt_and_ends_with_the_row():
    mask = log_probs.response_mask(jnp.array([2, 1, 0]), jnp.array([4, 1, 0]), 5)
    npt.assert_array_equal(mask, np.array([[0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool))


def test_large_and_impossible_logits_leave_the_numbers_finite():
    logits = jnp.array([[1e4, 0.0, -jnp.inf], [0.0, 0.0, -jnp.inf]])
    logprob, entropy = log_probs.log_prob_and_entropy(logits, jnp.array([0, 1]))
    npt.assert_allclose(logprob, [0, -np.log(2)], rtol=1e-6)
    npt.assert_allclose(entropy, [0, np.log(2)], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(log_probs.log_prob_and_entropy(x, jnp.array([0, 1]))[0]))(logits)
    npt.assert_allclose(gradient, [[0, 0, 0], [-0.5, 0.5, 0]], atol=1e-6)
