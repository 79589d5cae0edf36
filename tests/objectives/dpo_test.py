"""DPO starts at log 2 and says what its variants' formulas say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import DPO, ModelConfig
from llm.model import Transformer
from llm.objectives import dpo

SMALL = ModelConfig(vocab_size=13, context_length=8, num_layers=1, width=8, num_heads=2, feed_forward_width=16)
MODEL = Transformer(SMALL)
DRAW = np.random.default_rng(0)
BATCH = {
    'tokens': jnp.asarray(DRAW.integers(0, 13, (2, 2, 8)), jnp.int32),
    'prompt_lengths': jnp.array([[2, 2], [3, 3]], jnp.int32),
    'lengths': jnp.array([[4, 7], [8, 5]], jnp.int32),
}
quick_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@functools.cache
def random_params():
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params'])
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0.2, 0.5, leaf.shape), leaf.dtype), shapes)


def losses(config, log_ratios, lengths=((1, 1),)):
    log_ratios, lengths = (jnp.asarray(x, jnp.float32) for x in (log_ratios, lengths))
    return dpo.pair_losses(config, log_ratios, lengths, dpo.hyperparameters(config))


def test_a_policy_that_is_its_reference_starts_at_log_two_and_learns_to_prefer_the_chosen():
    config = DPO(beta=0.3)
    loss = dpo.make_loss(config, MODEL, dpo.hyperparameters(config))
    reference = functools.partial(dpo.response_log_probs, MODEL)
    batch = BATCH | {'reference_logprobs': quick_jit(reference)(random_params(), **BATCH)}

    def mean(params):
        total, weight, metrics = loss(params, batch, None)
        return total / weight, metrics

    step = quick_jit(jax.value_and_grad(mean, has_aux=True))
    (value, metrics), gradient = step(random_params())
    assert float(value) == pytest.approx(np.log(2), abs=1e-6)
    assert float(metrics['rewards/margins'][0]) == 0 == float(metrics['rewards/accuracies'][0])
    after = jax.tree.map(lambda p, g: p - 0.01 * g, random_params(), gradient)
    (value, metrics), _ = step(after)
    assert float(value) < np.log(2)
    assert float(metrics['rewards/margins'][0]) > 0
    assert float(metrics['rewards/chosen'][1]) == 2


def test_without_a_reference_only_the_policy_counts():
    config = DPO(reference_free=True, beta=0.3)
    loss = dpo.make_loss(config, MODEL, dpo.hyperparameters(config))
    total, _, _ = quick_jit(lambda params: loss(params, BATCH, None))(random_params())
    logprobs = quick_jit(functools.partial(dpo.response_log_probs, MODEL))(random_params(), **BATCH)
    npt.assert_allclose(total, np.log1p(np.exp(-0.3 * (logprobs[:, 0] - logprobs[:, 1]))).sum(), rtol=1e-5)


def test_the_formulas_on_one_pair():
    log_sigmoid = lambda x: -np.log1p(np.exp(-x))
    pair, d = [[1.5, -0.5]], 2.0
    right, wrong = -log_sigmoid(0.4 * d), -log_sigmoid(-0.4 * d)
    npt.assert_allclose(losses(DPO(beta=0.4), pair), [right], rtol=1e-6)
    npt.assert_allclose(losses(DPO(beta=0.4, label_smoothing=0.1), pair), [0.9 * right + 0.1 * wrong], rtol=1e-6)
    robust = losses(DPO(loss='robust', beta=0.4, label_smoothing=0.1), pair)
    npt.assert_allclose(robust, [(0.9 * right - 0.1 * wrong) / 0.8], rtol=1e-6)
    npt.assert_allclose(losses(DPO(loss='hinge', beta=0.4), pair), [0.2], rtol=1e-6)
    npt.assert_allclose(losses(DPO(loss='hinge', beta=0.6), pair), [0], atol=1e-7)
    npt.assert_allclose(losses(DPO(loss='ipo', beta=0.4), pair), [(2 - 1.25) ** 2], rtol=1e-6)


@pytest.mark.parametrize('loss', ['sigmoid', 'hinge', 'robust', 'ipo'])
def test_per_token_it_is_the_same_with_log_ratios_divided_by_lengths(loss):
    config = DPO(loss=loss, beta=0.4, length_normalized=True, label_smoothing=0.1 if loss == 'robust' else 0.0)
    found = losses(config, [[6.0, -2.0]], [[4, 2]])
    npt.assert_allclose(found, losses(config, [[1.5, -1.0]]), rtol=1e-6)


def test_a_robust_loss_is_unbiased_by_flipped_preferences():
    """Of preferences of which a fifth are the wrong way round, it expects the loss of the right ones."""
    config, clean = DPO(loss='robust', beta=0.4, label_smoothing=0.2), DPO(beta=0.4)
    pair, flipped = [[1.5, -0.5]], [[-0.5, 1.5]]
    npt.assert_allclose(0.8 * losses(config, pair) + 0.2 * losses(config, flipped), losses(clean, pair), rtol=1e-5)
