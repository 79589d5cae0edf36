"""Fits of L(N, D): known laws come back, from clean losses and from noisy ones, and wrong ways of fitting do not."""

import itertools
import time

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from llm.analysis.scaling_laws import bootstrap, frontier, minimise, parametric
from llm.analysis.scaling_laws.minimise import DELTA, Problem
from llm.analysis.scaling_laws.parametric import Law, fit
from llm.errors import UserError

BESIROGLU = Law(*map(np.float64, (1.82, 482.0, 0.35, 2085.0, 0.37)))  # et al. 2024, table 1
SMALL = Law(*map(np.float64, (1.2, 60.0, 0.40, 300.0, 0.45)))


def chinchilla(runs: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Places like those of Hoffmann et al.: 44 M to 16 B parameters."""
    random = np.random.default_rng(seed)
    log = lambda low, high: np.exp(random.uniform(np.log(low), np.log(high), runs))
    return log(4.4e7, 1.6e10), log(1e9, 5e11)


def grid(budgets: int = 5, sizes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """IsoFLOP profiles of small models, around their optimum."""
    c = np.repeat(2.5e11 * 2.0 ** np.arange(budgets), sizes)
    d = np.sqrt(c / 6 * 60 * np.tile(np.geomspace(0.05, 15, sizes), budgets))
    return c / 6 / d, d


def noisy(law: Law, n: np.ndarray, d: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    return law.loss(n, d) * np.exp(np.random.default_rng(seed).normal(0, deviation, len(n)))


def objective(law: Law, n, d, loss) -> float:
    """Written down once more, from the paper."""
    residual = np.abs(np.log(law.E + law.A / n**law.alpha + law.B / d**law.beta) - np.log(loss))
    return float(np.sum(np.where(residual <= 1e-3, residual**2 / 2, 1e-3 * (residual - 0.5e-3))))


@pytest.mark.parametrize('law, places', [(BESIROGLU, chinchilla()), (SMALL, grid()), (SMALL, chinchilla())])
def test_a_law_comes_back_from_losses_without_noise(law, places):
    found = fit(*places, law.loss(*places), resamples=0).law
    assert np.array(found) == pytest.approx(np.array(law), rel=1e-3)


def test_the_objective_is_the_papers_sum_and_its_gradient_is_exact():
    n, d = grid()
    loss, problem = noisy(SMALL, n, d, 0.02), None
    problem = Problem.of(n, d, loss)
    random = np.random.default_rng(1)
    for theta in random.uniform([-3, -3, -3, 0.1, 0.1], [1, 1, 1, 1, 1], (5, 5)):
        law = parametric._law(theta, n, d)
        value, gradient = minimise.value_and_gradient(theta, problem, np.ones(len(n)))
        assert value == pytest.approx(objective(law, n, d, loss), rel=1e-9)
        each = lambda t: float(minimise.value(t, problem, np.ones(len(n))))
        assert gradient == pytest.approx(scipy.optimize.approx_fprime(theta, each, 1e-8), abs=2e-6)


def test_the_fit_is_where_no_published_start_of_lbfgs_gets_lower():
    n, d = grid()
    loss = noisy(SMALL, n, d, 0.01)
    problem, once = Problem.of(n, d, loss), np.ones(len(n))
    found = fit(n, d, loss, resamples=0)
    lowest = min(minimise.value(minimise.lbfgs(start, problem, once), problem, once) for start in published(3, n, d))
    assert found.value <= lowest * (1 + 1e-9)


def published(count: int, n: np.ndarray, d: np.ndarray) -> list[np.ndarray]:
    """Some starts of Hoffmann et al.'s grid (appendix D.2), in the solver's coordinates."""
    exponents = (0.0, 0.5, 1.0, 1.5, 2.0)
    starts = list(
        itertools.product(range(0, 26, 5), range(0, 26, 5), (-1.0, -0.5, 0.0, 0.5, 1.0), exponents, exponents)
    )
    chosen = np.array(starts, np.float64)[np.random.default_rng(0).permutation(len(starts))[:count]]
    centre = np.stack([chosen[:, 3] * np.log(n).mean(), chosen[:, 4] * np.log(d).mean(), *np.zeros((3, count))], 1)
    return list(chosen - centre)


@pytest.mark.slow
def test_none_of_many_published_starts_gets_lower():
    n, d = chinchilla(60)
    loss = noisy(BESIROGLU, n, d, 0.01)
    problem, once = Problem.of(n, d, loss), np.ones(len(n))
    found = fit(n, d, loss, resamples=0)
    ends = [minimise.value(minimise.lbfgs(start, problem, once), problem, once) for start in published(150, n, d)]
    assert found.value <= min(ends) * (1 + 1e-9)
    assert np.mean(np.array(ends) < found.value * 1.001) > 0.2  # the starts are no straw men


def test_resamples_end_where_scipys_lbfgs_ends():
    n, d = chinchilla(80)
    loss = noisy(BESIROGLU, n, d, 0.01)
    problem, weights = Problem.of(n, d, loss), bootstrap.weights(80, 6)
    start = parametric._from_grid(problem, DELTA)
    ends = minimise.newton(np.tile(start, (6, 1)), problem, weights)
    values, gradients = minimise.value_and_gradient(ends, problem, weights)
    assert np.abs(gradients).max() <= 1.001 * minimise.TOLERANCE * DELTA * 80
    for i in range(6):
        theirs = minimise.lbfgs(start, problem, weights[i])
        assert values[i] == pytest.approx(float(minimise.value(theirs, problem, weights[i])), rel=1e-9)
        assert ends[i] == pytest.approx(theirs, abs=1e-5)


def test_averaging_the_huber_loss_with_default_tolerances_stops_early():
    """The mistake that Besiroglu et al. found: the same objective over the number of runs, SciPy's own tolerances."""
    n, d = chinchilla()
    loss = noisy(BESIROGLU, n, d, 0.01)
    problem, once = Problem.of(n, d, loss), np.ones(len(n))
    start = np.array([-1.0, -1.0, 0.3, 0.5, 0.5])
    averaged = scipy.optimize.minimize(
        lambda theta: tuple(v / len(n) for v in minimise.value_and_gradient(theta, problem, once)),
        *(start, ()),
        method='L-BFGS-B',
        jac=True,
    )
    assert averaged.success  # it holds itself for done
    stopped = parametric._law(averaged.x, n, d)
    tight = fit(n, d, loss, resamples=200)
    assert objective(stopped, n, d, loss) > 1.05 * tight.value
    numbers = tight.estimates()
    wrong = [name for name in Law._fields if not numbers[name].holds(float(getattr(stopped, name)))]
    right = [name for name in Law._fields if numbers[name].holds(float(getattr(BESIROGLU, name)))]
    assert len(wrong) >= 3 and len(right) >= 4


def test_240_runs_and_1000_resamples_take_seconds():
    n, d = chinchilla()
    start = time.process_time()
    fit(n, d, noisy(BESIROGLU, n, d, 0.01), resamples=1000)
    assert time.process_time() - start < 60


def covered(law: Law, places, deviation: float, draws: int, resamples: int, heavy: bool = False) -> np.ndarray:
    """How many of `draws` intervals hold the truth: E, A, alpha, B, beta, a, the law's loss and one more run's, at four
    times the largest budget's N and D."""
    n, d = places
    random = np.random.default_rng(7)
    more = 4 * n.max(), 4 * d.max()
    held = []
    for i in range(draws):
        noise = lambda *size: (
            (random.standard_t(3, size) / np.sqrt(3) if heavy else random.normal(size=size)) * deviation
        )
        found = fit(n, d, law.loss(n, d) * np.exp(noise(len(n))), resamples, seed=i)
        numbers = found.estimates()
        truth = {name: float(getattr(law, name)) for name in (*Law._fields, 'a')}
        there = float(law.loss(*more))
        held.append(
            [numbers[name].holds(value) for name, value in truth.items()]
            + [found.mean_loss(*more).holds(there), found.predict(*more).holds(there * np.exp(noise(1))[0])]
        )
    return np.sum(held, 0)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    draws = 16
    low = scipy.stats.binom.ppf(0.001, draws, 0.95)
    assert np.all(covered(SMALL, grid(5, 5), 0.005, draws, 100) >= low)


@pytest.mark.slow
@pytest.mark.parametrize(
    'law, places, deviation, heavy',
    [
        (SMALL, grid(5, 5), 0.005, False),
        (SMALL, grid(8, 6), 0.01, False),
        (SMALL, grid(8, 6), 0.01, True),
        (BESIROGLU, chinchilla(240), 0.01, False),
    ],
    ids=['25 runs', '48 runs', '48 runs, heavy tails', '240 runs'],
)
def test_coverage_is_95_percent_within_binomial_error(law, places, deviation, heavy):
    draws = 200
    counts = covered(law, places, deviation, draws, 400, heavy)
    low, high = scipy.stats.binom.ppf([0.001, 0.999], draws, 0.95)
    assert np.all((counts >= low) & (counts <= high)), counts / draws


def test_intervals_of_the_coefficients_are_those_of_their_logarithms():
    """A is known within a factor: plus and minus two standard errors would reach below zero."""
    n, d = grid(4, 4)
    found = fit(n, d, noisy(SMALL, n, d, 0.03), resamples=300)
    one, errors = found.estimates()['B'], found.standard_errors()
    assert one.value - 2 * np.std(found.resampled.B) < 0 < one.low
    logs = bootstrap.estimate(np.log(one.value), np.log(found.resampled.B))
    assert np.exp([logs.low, logs.high]) == pytest.approx([one.low, one.high], rel=0.2)  # quantiles interpolate
    assert errors['B'] == pytest.approx(np.std(np.log(found.resampled.B), ddof=1))


def test_the_same_seed_gives_the_same_intervals_and_the_weights_are_a_resamples():
    n, d = grid(3, 4)
    loss = noisy(SMALL, n, d, 0.01)
    assert fit(n, d, loss, 50).estimates() == fit(n, d, loss, 50).estimates()
    weights = bootstrap.weights(12, 2000)
    assert weights.sum(1) == pytest.approx(np.full(2000, 12)) and weights.min() > 0
    assert weights.var() == pytest.approx(11 / 13, abs=0.05)  # Dirichlet's


def test_what_runs_do_not_tell_is_said():
    n, d = grid()
    flat = fit(n, d, 300.0 / d**0.45 + 1.2, resamples=0)  # no effect of N at all
    assert 'A' in flat.open_ends or 'alpha' in flat.open_ends


def test_the_frontier_is_the_lowest_place_of_its_budget():
    n, d = chinchilla()
    found = fit(n, d, noisy(BESIROGLU, n, d, 0.005), resamples=100)
    budget = 5.76e23
    best = frontier.optimum(found.law, budget)
    assert 6 * best.n * best.d == pytest.approx(budget)
    sizes = np.geomspace(best.n / 30, best.n * 30, 20001)
    losses = found.law.loss(sizes, budget / 6 / sizes)
    assert sizes[np.argmin(losses)] == pytest.approx(best.n, rel=1e-3) and losses.min() == pytest.approx(best.loss)
    searched = frontier.optimum_at_cost(found.law, budget, lambda n: 6 * n)
    assert searched.n == pytest.approx(best.n, rel=1e-3) and searched.loss == pytest.approx(best.loss, rel=1e-9)
    dear = frontier.optimum_at_cost(found.law, budget, lambda n: 6 * n + 1e9)  # a price that all sizes pay
    assert dear.n > best.n and dear.loss > best.loss


def test_the_frontiers_exponents_and_coefficients():
    n, d = chinchilla()
    found = fit(n, d, BESIROGLU.loss(n, d), resamples=50)
    front = frontier.frontier(found, np.geomspace(1e18, 1e24, 5))
    assert front.a.value == pytest.approx(0.37 / 0.72, rel=1e-3) and front.b.value == pytest.approx(
        0.35 / 0.72, rel=1e-3
    )
    for budget, size, tokens in zip(front.budgets, front.n, front.d, strict=True):
        assert 10**front.n0.value * budget**front.a.value == pytest.approx(size.value, rel=1e-6)
        assert 10**front.d0.value * budget**front.b.value == pytest.approx(tokens.value, rel=1e-6)


def test_a_measured_cost_is_a_power_law_through_the_runs():
    sizes = np.array([1e4, 1e5, 1e6, 1e5])
    cost = frontier.MeasuredCost(sizes, 6 * sizes**1.1)
    assert cost(np.array([1e3, 1e4, 3e5, 1e7])) == pytest.approx(6 * np.array([1e3, 1e4, 3e5, 1e7]) ** 1.1)


@pytest.mark.parametrize(
    'n, d, loss, said',
    [
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1], '5 runs for a law of 5 numbers'),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], [5, 4, 3, 2, 0, 1], 'loss of run 5 is 0'),
        ([1, 2, 3, 4, 5, np.nan], [1, 2, 3, 4, 5, 6], [5, 4, 3, 2, 1, 1], 'N of run 6 is nan'),
        ([1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6], [5, 4, 3, 2, 1, 1], 'two values of N'),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(n, d, loss, said):
    with pytest.raises(UserError, match=said):
        fit(n, d, loss)
