"""The KL estimators, by exact enumeration on a vocabulary of five; the coefficient that adapts."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.objectives.kl import adapted_coefficient, exact_kl, kl_per_token

DRAW = np.random.default_rng(0)
LOGITS, REFERENCE, OLDER = (jnp.asarray(DRAW.normal(0, 1, 5), jnp.float32) for _ in range(3))
log_p, log_q, log_old = map(jax.nn.log_softmax, (LOGITS, REFERENCE, OLDER))
FORWARD = jax.grad(lambda logits: exact_kl(log_q, jax.nn.log_softmax(logits)))(LOGITS)
REVERSE = jax.grad(lambda logits: exact_kl(jax.nn.log_softmax(logits), log_q))(LOGITS)


def expected(estimator, log_drawn_from):
    """Value and gradient of the estimate, weighted by how often each token is drawn (which has no gradient)."""

    def loss(logits):
        log_pi = jax.nn.log_softmax(logits)
        estimate = kl_per_token(estimator, log_pi, log_q, jnp.exp(log_pi - log_drawn_from))
        return jnp.sum(jnp.exp(log_drawn_from) * estimate)

    return jax.value_and_grad(loss)(LOGITS)


def test_the_exact_number_is_the_sum_over_the_vocabulary():
    p, q = np.exp(np.float64(log_p)), np.exp(np.float64(log_q))
    npt.assert_allclose(exact_kl(log_p, log_q), np.sum(p * np.log(p / q)), rtol=1e-5)
    npt.assert_allclose(exact_kl(jnp.array([0.0, -jnp.inf]), jnp.log(jnp.array([0.5, 0.5]))), np.log(2), rtol=1e-6)
    assert np.abs(FORWARD - REVERSE).max() > 0.05  # or the test below would not tell the two apart


@pytest.mark.parametrize(('estimator', 'unbiased'), [('k1', True), ('k2', False), ('k3', True), ('ratio_k3', True)])
def test_values_of_tokens_that_the_policy_drew(estimator, unbiased):
    value, _ = expected(estimator, log_p)
    assert (abs(float(value - exact_kl(log_p, log_q))) < 1e-5) == unbiased


@pytest.mark.parametrize(
    ('estimator', 'gradient'),
    [('k1', jnp.zeros(5)), ('k2', REVERSE), ('k3', FORWARD), ('ratio_k3', REVERSE)],
)
def test_gradients_of_tokens_that_the_policy_drew(estimator, gradient):
    npt.assert_allclose(expected(estimator, log_p)[1], gradient, atol=1e-6)


def test_with_the_ratio_tokens_of_an_older_policy_will_do():
    value, gradient = expected('ratio_k3', log_old)
    npt.assert_allclose(value, exact_kl(log_p, log_q), rtol=1e-5)
    npt.assert_allclose(gradient, REVERSE, atol=1e-6)
    assert np.abs(expected('k2', log_old)[1] - REVERSE).max() > 0.01


def test_the_coefficient_moves_towards_the_target_and_not_too_fast():
    after = lambda observed: float(adapted_coefficient(jnp.float32(0.1), jnp.float32(observed), 64, 6.0, 640.0))
    assert after(6.0) == pytest.approx(0.1)
    assert after(6.6) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert after(60.0) == after(600.0) == pytest.approx(0.1 * 1.02)
    assert after(0.0) == pytest.approx(0.1 * 0.98)
