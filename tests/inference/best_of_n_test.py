"""Best-of-n against what it is defined by: all sets of n, and all responses there are."""

import itertools

import jax
import numpy as np
import pytest

from llm.inference import best_of_n as best

SCORES = np.array([0.3, -1.0, 2.0, 0.3, 0.3, 1.1, -1.0])
GOLD = np.array([1.0, 5.0, -2.0, 0.5, 3.0, 2.0, 7.0])


@pytest.mark.parametrize('n', range(1, 8))
def test_the_estimate_is_the_mean_over_all_sets(n):
    """Among equal scores the choice is even, which the mean over orders of the samples brings about."""
    of_scores, of_gold = [], []
    for chosen in itertools.combinations(range(7), n):
        top = max(SCORES[list(chosen)])
        of_scores.append(top)
        of_gold.append(np.mean([GOLD[i] for i in chosen if SCORES[i] == top]))
    np.testing.assert_allclose(best.expected_best(SCORES, n), np.mean(of_scores))
    # A set's share of the equals is not even in each set, but over sets it is.
    np.testing.assert_allclose(best.expected_best(SCORES, n, GOLD), np.mean(of_gold))


def test_rows_are_estimated_apart():
    both = best.expected_best(np.stack([SCORES, GOLD]), 3)
    np.testing.assert_allclose(both, [best.expected_best(SCORES, 3), best.expected_best(GOLD, 3)])


def test_many_samples_do_not_overflow():
    scores = np.random.default_rng(0).uniform(size=20_000)
    for n in (1, 10, 1000):  # the largest of n uniform numbers is n / (n + 1) on average
        assert abs(best.expected_best(scores, n) - n / (n + 1)) < 0.01


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match='best of 8 cannot be told from 7 samples'):
        best.expected_best(SCORES, 8)


def test_the_kl_is_that_of_the_exact_distribution():
    """With many responses of equal probability and different scores, log n - (n - 1) / n is exact."""
    size = 100_000
    uniform = np.full(size, 1 / size)
    for n in (1, 2, 16):
        chosen = best.distribution(uniform, np.arange(size), n)
        assert abs(chosen.sum() - 1) < 1e-9
        kl = np.sum(chosen * np.log(np.maximum(chosen, 1e-300) / uniform))
        assert abs(kl - best.kl_bound(n)) < 1e-3


def test_the_exact_distribution_by_enumeration():
    draw = np.random.default_rng(1)
    probabilities = draw.dirichlet(np.ones(5))
    scores = np.array([1.0, 0.0, 1.0, 2.0, -1.0])
    expected = np.zeros(5)
    for three in itertools.product(range(5), repeat=3):
        chosen = three[int(np.argmax(scores[list(three)]))]
        expected[chosen] += np.prod(probabilities[list(three)])
    np.testing.assert_allclose(best.distribution(probabilities, scores, 3), expected, rtol=1e-12)


def test_keeps_the_best_of_what_the_rollout_drew(tiny):
    model, params = tiny(context_length=16)
    prompts, lengths = np.array([[1, 5], [1, 0]], np.int32), np.array([2, 1], np.int32)
    seeds = np.arange(12, dtype=np.uint32)
    score = lambda drawn: drawn.tokens[:, 2:].sum(axis=1).astype(np.float32)
    kept, scores = jax.jit(lambda: best.best_of_n(model, params, score, prompts, lengths, seeds, 5, 3.0))()
    drawn = jax.jit(lambda: best.rollout(model, params, prompts, lengths, seeds, 5, 3.0))()
    sums = np.asarray(score(drawn)).reshape(2, 6)
    np.testing.assert_array_equal(scores, sums.max(axis=1))
    assert kept.tokens.shape == (2, 7) and (scores > sums.mean(axis=1)).all()
    np.testing.assert_array_equal(kept.tokens[1], drawn.tokens[6 + int(sums[1].argmax())])
