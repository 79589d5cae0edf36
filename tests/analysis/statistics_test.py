"""What is said of a difference: against scipy, by hand, and by how often it is wrong in simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from llm.analysis import statistics
from llm.analysis.statistics import holm, paired_difference, power, seeds_needed, verdict

ARM, BASE = (2.91, 2.87, 2.95, 2.90, 2.88), (2.96, 2.95, 2.97, 2.96, 2.90)
DRAWS = 2000


def binomial(rate, draws=DRAWS):
    """The middle 99.9% of a rate that is measured in so many draws."""
    return np.array(scipy.stats.binom.interval(0.999, draws, rate)) / draws


def test_the_t_interval_and_p_value_are_scipys():
    found = paired_difference(ARM, BASE)
    reference = scipy.stats.ttest_rel(ARM, BASE)
    low, high = reference.confidence_interval()
    np.testing.assert_allclose(
        (found.mean, found.low, found.high, found.p_value),
        (np.mean(ARM) - np.mean(BASE), low, high, reference.pvalue),
        rtol=1e-10,
    )
    assert found.n == 5


def test_two_seeds_by_hand():
    """Differences 1 and 3: mean 2, error 1, t(0.975, 1) = 12.706, p = 2 atan(1 / 2) / pi."""
    found = paired_difference([1.0, 3.0], [0.0, 0.0])
    assert (found.mean, found.effect_size, found.seeds_needed) == (2.0, None, None)
    np.testing.assert_allclose((found.low, found.high), (2 - 12.7062, 2 + 12.7062), atol=1e-4)
    assert found.p_value == pytest.approx(2 * math.atan(0.5) / math.pi)
    assert (found.bootstrap_low, found.bootstrap_high) == (1.0, 3.0)  # no further than what was seen
    assert 'at least 3 seeds' in verdict(found, found.p_value)


def test_the_mean_of_an_arm_has_the_textbook_interval():
    found = statistics.mean_interval([1.0, 2.0, 3.0])  # 2 +- 4.3027 / sqrt(3)
    np.testing.assert_allclose(found, (2, 2 - 2.4841, 2 + 2.4841), atol=1e-4)
    assert statistics.mean_interval([7.0]) == (7.0, None, None)


def test_hedges_correction_takes_the_bias_out_of_the_effect_size():
    effects = np.random.default_rng(0).normal(0.8, 1.0, (100_000, 5))
    plain = effects.mean(1) / effects.std(1, ddof=1)
    assert plain.mean() > 0.95
    assert np.mean([statistics.hedges(effect, 5) for effect in plain]) == pytest.approx(0.8, abs=0.01)
    assert statistics.hedges(1.0, 2) is None


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.03]) == [0.03]
    assert holm([0.6, None, 0.7]) == [1.0, None, 1.0]
    assert holm([None]) == [None] and holm([]) == []


def test_of_differences_that_are_not_there_one_in_twenty_is_found():
    random = np.random.default_rng(1)
    for n in (3, 5):
        low, high = binomial(0.05)
        noise = random.normal(size=(DRAWS, n))
        found = [paired_difference(x, np.zeros(n), resamples=1).p_value < 0.05 for x in noise]
        assert low <= np.mean(found) <= high


def test_and_in_a_family_of_arms_not_more_after_holm():
    """Five arms share one base, so their differences are correlated, as in an ablation."""
    random, n, arms = np.random.default_rng(2), 5, 5
    alone = corrected = 0
    for _ in range(DRAWS):
        base = random.normal(size=n)
        p = [paired_difference(random.normal(size=n), base, resamples=1).p_value for _ in range(arms)]
        alone += min(p) < 0.05
        corrected += min(holm(p)) < 0.05
    assert alone / DRAWS > binomial(0.1)[1]  # what the correction is there for
    assert corrected / DRAWS <= binomial(0.05)[1]
    assert corrected / DRAWS >= 0.02  # and it is not bought by never finding anything


@pytest.mark.parametrize('n', [3, 5, 20])
def test_intervals_hold_what_they_are_of_as_often_as_they_say(n):
    random = np.random.default_rng(n)
    draws, covered, by_bootstrap = 1000, 0, 0
    for x in random.normal(0.3, 1.0, (draws, n)):
        found = paired_difference(x, np.zeros(n), resamples=500)
        covered += found.low <= 0.3 <= found.high
        by_bootstrap += found.bootstrap_low <= 0.3 <= found.bootstrap_high
    low, high = binomial(0.95, draws)
    assert low <= covered / draws <= high
    if n >= 20:
        assert low - 0.02 <= by_bootstrap / draws <= high
    else:  # it cannot hold: it ends where the differences do, which miss on one side in 2 of 2^n draws
        assert by_bootstrap / draws <= 1 - 2 * 0.5**n + 0.02


def test_power_is_how_often_an_effect_is_found():
    random = np.random.default_rng(4)
    for effect, n, alpha in ((1.0, 5, 0.05), (0.5, 20, 0.05), (2.0, 4, 0.0125)):
        t = scipy.stats.ttest_1samp(random.normal(effect, 1.0, (20_000, n)), 0.0, axis=1)
        low, high = binomial(power(effect, n, alpha), 20_000)
        assert low <= np.mean(t.pvalue < alpha) <= high
    assert power(0.0, 7) == pytest.approx(0.05)
    assert power(1e4, 2) == pytest.approx(1.0)


def test_seeds_needed_is_the_first_number_that_reaches_the_power():
    assert seeds_needed(0.5) == 34  # Cohen's textbook case (G*Power: 34)
    for effect, alpha in ((0.2, 0.05), (1.0, 0.01), (3.0, 0.05), (40.0, 0.05)):
        n = seeds_needed(effect, alpha=alpha)
        assert power(effect, n, alpha) >= 0.8 and (n == 2 or power(effect, n - 1, alpha) < 0.8)
    assert seeds_needed(0.0) is None and seeds_needed(1e-4) is None


def test_identical_runs_are_not_distinguishable():
    found = paired_difference(ARM, ARM)
    assert found == (0.0, 0.0, 0.0, 0.0, 0.0, 1.0, None, None, 5) and found.identical
    assert verdict(found, 1.0) == 'not distinguishable: equal to the base to the last bit in all 5 seeds'


def test_the_same_difference_in_every_seed_is_no_certainty():
    """Zero variance makes t infinite; p = 0 from values that are all equal would be a claim without a ground."""
    for amount in (-0.25, 0.1):  # 0.1 leaves rounding in the differences, which is no spread either
        found = paired_difference(np.array(BASE) + amount, BASE)
        assert found.mean == pytest.approx(amount)
        assert found.low is found.high is found.p_value is found.effect_size is found.seeds_needed is None
        assert statistics.outcome(found, None) == 'untested'
        assert 'exactly the same amount' in verdict(found, None)


def test_one_seed_cannot_tell():
    found = paired_difference([2.9], [3.0], comparisons=3)
    assert found.mean == pytest.approx(-0.1) and set(found[1:-1]) == {None}
    assert verdict(found, None, 'bits per byte') == (
        '0.1000 bits per byte lower, but one seed cannot tell a difference from noise'
    )


def test_verdicts_say_which_way_how_much_and_how_sure():
    found = paired_difference(ARM, BASE)
    better = verdict(found, found.p_value, 'bits per byte')
    assert better.startswith('better by 0.0460 bits per byte [0.0') and better.endswith(', 5 seeds)')
    low, high = (float(end) for end in better.split('[')[1].split(']')[0].split(', '))
    assert low < 0.046 < high
    assert verdict(found, found.p_value, lower_is_better=False).startswith('worse by 0.0460 [')
    assert verdict(paired_difference(BASE, ARM), found.p_value).startswith('worse by 0.0460 [')
    unsure = verdict(found, 0.06)
    assert unsure.startswith('not distinguishable with these 5 seeds (p Holm = 0.060; alone it would have been')
    assert f'about {found.seeds_needed} seeds would be needed' in unsure


def test_more_arms_need_more_seeds():
    one, ten = (paired_difference(ARM, BASE, comparisons=c).seeds_needed for c in (1, 10))
    assert ten > one


@pytest.mark.parametrize(('arm', 'base'), [([1.0, 2.0], [1.0]), ([], []), ([1.0, math.nan], [1.0, 2.0])])
def test_what_is_no_pair_of_arms_is_refused(arm, base):
    with pytest.raises(ValueError):
        paired_difference(arm, base)


@pytest.mark.parametrize(('successes', 'n'), [(8, 10), (0, 10), (10, 10), (1, 1), (50, 1000)])
@pytest.mark.parametrize('confidence', [0.8, 0.95])
def test_wilson_interval_is_scipys(successes, n, confidence):
    interval = statistics.wilson_interval(successes, n, confidence)
    reference = scipy.stats.binomtest(successes, n).proportion_ci(confidence, method='wilson')
    assert interval.mean == successes / n
    assert interval[1:] == pytest.approx(tuple(reference), abs=1e-12)


@pytest.mark.parametrize(('successes', 'n'), [(1, 0), (-1, 3), (4, 3)])
def test_what_is_no_rate_has_no_interval(successes, n):
    with pytest.raises(ValueError, match='is no rate'):
        statistics.wilson_interval(successes, n)


def test_wilson_intervals_hold():
    draw = np.random.default_rng(0)
    for rate in (0.03, 0.5, 0.9):
        found = [statistics.wilson_interval(int(k), 40) for k in draw.binomial(40, rate, 2000)]
        assert 0.92 < np.mean([low <= rate <= high for _, low, high in found]) < 0.99


def test_the_error_of_a_ratio_is_that_of_repeated_draws():
    draw = np.random.default_rng(0)

    def sample():
        size = draw.exponential(100, 200)
        return size * draw.normal(2, 0.5, 200), size

    ratios = [np.sum(a) / np.sum(b) for a, b in (sample() for _ in range(2000))]
    assert statistics.ratio_error(*sample()) == pytest.approx(np.std(ratios), rel=0.2)
    assert statistics.ratio_error([1.0, 3.0], [1.0, 1.0]) == pytest.approx(1.0)  # that of a mean, for equal sizes
    assert statistics.ratio_error([1.0], [2.0]) is None and statistics.standard_error([1.0]) is None
    assert statistics.standard_error([1.0, 3.0]) == pytest.approx(1.0)
