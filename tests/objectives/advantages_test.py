"""Advantages: the worked case, their definitions as sums, and whitening over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.objectives.advantages import gae, group_advantages, leave_one_out, whiten

MASK = np.array([[0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], [0, 1, 0, 0, 0, 0]], bool)


def test_gae_worked_by_hand():
    values, rewards = jnp.array([[0.1, 0.2, 0.3]]), jnp.array([[0.0, 0.0, 1.0]])
    advantages, returns = gae(rewards, values, jnp.ones((1, 3), bool), 1.0, 0.95)
    npt.assert_allclose(advantages, [[0.82675, 0.765, 0.7]], rtol=1e-6)
    npt.assert_allclose(returns, [[0.92675, 0.965, 1.0]], rtol=1e-6)


@pytest.mark.parametrize('lam', [0.0, 0.7, 1.0])
def test_gae_is_the_discounted_sum_of_surprises_inside_the_response(lam):
    draw, discount = np.random.default_rng(0), 0.9
    rewards, values = draw.normal(size=(2, *MASK.shape)).astype(np.float32)
    outside = lambda x: jnp.asarray(np.where(MASK, x, np.nan))  # and nothing outside it reaches in
    advantages, returns = gae(outside(rewards), outside(values), jnp.asarray(MASK), discount, lam)
    expected = np.zeros(MASK.shape)
    for row, inside in enumerate(MASK):
        places = np.flatnonzero(inside)
        following = lambda t: values[row, t + 1] if t + 1 in places else 0.0  # noqa: B023
        surprises = {t: rewards[row, t] + discount * following(t) - values[row, t] for t in places}
        for t in places:
            expected[row, t] = sum((discount * lam) ** (u - t) * surprises[u] for u in places if u >= t)
    npt.assert_allclose(advantages, expected, rtol=1e-5, atol=1e-6)
    npt.assert_allclose(returns, np.where(MASK, expected + values, 0), rtol=1e-5, atol=1e-6)


def test_groups():
    rewards = jnp.array([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    npt.assert_allclose(group_advantages(rewards, scale=False), [[-2, -1, 3], [0, 0, 0]], atol=1e-6)
    deviation = np.std([1, 2, 6], ddof=1) + 1e-4
    scaled = np.array([[-2, -1, 3], [0, 0, 0]]) / deviation
    npt.assert_allclose(group_advantages(rewards, scale=True), scaled, rtol=1e-6)
    npt.assert_allclose(leave_one_out(rewards), [[1 - 4, 2 - 3.5, 6 - 1.5], [0, 0, 0]], atol=1e-6)


def test_a_baseline_without_the_response_itself_leaves_the_gradient_unbiased():
    """Over all pairs of draws of a bandit with three arms, enumerated: GRPO's mean, which includes it, shrinks it."""
    p, reward = np.array([0.2, 0.3, 0.5]), np.array([1.0, -2.0, 3.0])
    score = np.eye(3) - p  # the gradient of log p by the logits, for each arm
    exact = np.sum(p[:, None] * reward[:, None] * score, axis=0)

    def estimate(advantages):
        pairs = [(a, b) for a in range(3) for b in range(3)]
        found = np.asarray(advantages(jnp.asarray([[reward[a], reward[b]] for a, b in pairs], jnp.float32)))
        return sum(p[a] * p[b] * (x * score[a] + y * score[b]) / 2 for (a, b), (x, y) in zip(pairs, found))

    npt.assert_allclose(estimate(leave_one_out), exact, atol=1e-6)
    npt.assert_allclose(estimate(lambda rewards: group_advantages(rewards, scale=False)), exact / 2, atol=1e-6)


def test_whitening_keeps_to_the_mask_and_is_unbiased():
    values = np.random.default_rng(0).normal(3, 2, MASK.shape)
    white = whiten(jnp.asarray(np.where(MASK, values, np.inf), jnp.float32), jnp.asarray(MASK))
    inside = values[MASK]
    npt.assert_allclose(np.asarray(white)[MASK], (inside - inside.mean()) / inside.std(ddof=1), rtol=1e-5)
    npt.assert_array_equal(np.asarray(white)[~MASK], 0)
    assert not np.asarray(whiten(jnp.full((4,), 2.5))).any()  # all equal: nothing, and not a division by zero


def test_copies_whiten_their_parts_of_a_batch_as_one():
    values, mask = np.random.default_rng(0).normal(3, 2, MASK.shape).astype(np.float32), jnp.asarray(MASK)
    apart = jax.vmap(lambda v, m: whiten(v, m, axis='copies'), axis_name='copies')(jnp.asarray(values), mask)
    npt.assert_allclose(apart, whiten(jnp.asarray(values), mask), rtol=1e-5, atol=1e-6)
