"""The compute-optimal frontier of a fitted law: how many parameters and tokens a budget is best spent on.

Under C = k N D (k = 6: Kaplan et al. 2020) there is a formula (Hoffmann et al. 2022, equation 4):
N* = G (C / k)^a and D* = (C / k)^b / G, with G = (alpha A / (beta B))^(1 / (alpha + beta)), a = beta / (alpha + beta)
and b = alpha / (alpha + beta). Where a token costs something else than 6 N FLOPs, as in small models, whose attention
and head are not small, the optimum is searched along the budget.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from llm.analysis.scaling_laws import bootstrap
from llm.analysis.scaling_laws.bootstrap import Estimate
from llm.analysis.scaling_laws.parametric import Fit, Law

FLOPS = 6.0  # of a parameter and token, forward and backward
_GRID = np.linspace(-9, 9, 721)  # around the formula's log N: e^9 both ways


class Optimum(NamedTuple):
    """What a budget is best spent on; with a law for each resample, arrays."""

    n: np.ndarray
    d: np.ndarray
    loss: np.ndarray


def coefficient(law: Law) -> np.ndarray:
    """G, of N* = G (C / k)^a; not a number where a term or its exponent is 0, for then there is no optimum."""
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        found = (law.alpha * law.A / (law.beta * law.B)) ** (1 / (law.alpha + law.beta))
    return np.where(np.isfinite(found) & (found > 0), found, np.nan)


def optimum(law: Law, budget: float, flops: float = FLOPS) -> Optimum:
    """By the formula, where a token costs `flops` times N."""
    spread = budget / flops
    n, d = coefficient(law) * spread**law.a, spread**law.b / coefficient(law)
    return Optimum(n, d, law.E + law.A * n**-law.alpha + law.B * d**-law.beta)


def optimum_at_cost(law: Law, budget: float, flops_per_token: Callable[[np.ndarray], np.ndarray]) -> Optimum:
    """By search, where a token costs `flops_per_token(N)`; to a thousandth of log N."""
    start = np.log(optimum(law, budget).n)
    log_n = np.asarray(start)[..., None] + _GRID
    losses = _along(law, log_n, budget, flops_per_token)
    at = np.clip(np.argmin(losses, -1), 1, len(_GRID) - 2)[..., None]
    left, middle, right = (np.take_along_axis(losses, at + i, -1)[..., 0] for i in (-1, 0, 1))
    bend = np.maximum(left - 2 * middle + right, 1e-300)
    shift = np.clip((left - right) / (2 * bend), -1, 1) * (_GRID[1] - _GRID[0])
    n = np.exp(np.take_along_axis(log_n, at, -1)[..., 0] + shift)
    d = budget / flops_per_token(n)
    return Optimum(n, d, law.E + law.A * n**-law.alpha + law.B * d**-law.beta)


def _along(law: Law, log_n: np.ndarray, budget: float, flops_per_token: Callable) -> np.ndarray:
    E, A, alpha, B, beta = (np.asarray(field)[..., None] for field in law)
    n = np.exp(log_n)
    return E + A * n**-alpha + B * (budget / flops_per_token(n)) ** -beta


class MeasuredCost:
    """FLOPs per token as a function of N: a straight line through the logarithms of runs, each size once.

    A line, for the steps that depth takes as sizes grow would make the optimum jump.
    """

    def __init__(self, n: np.ndarray, flops_per_token: np.ndarray):
        sizes, first = np.unique(np.asarray(n, np.float64), return_index=True)
        costs = np.asarray(flops_per_token, np.float64)[first]
        if len(sizes) == 1:
            self._slope, self._level = 1.0, np.log(costs[0] / sizes[0])
        else:
            self._slope, self._level = straight(np.log(sizes), np.log(costs))

    def __call__(self, n: np.ndarray) -> np.ndarray:
        return np.exp(self._level + self._slope * np.log(n))


class Frontier(NamedTuple):
    """N* = N0 C^a and D* = D0 C^b.

    Attributes:
        a, b: exponents.
        n0, d0: coefficients, in logarithms of base 10: their own scale spans decades.
        budgets: FLOPs at which it was evaluated.
        n, d, loss: an estimate for each budget.
    """

    a: Estimate
    b: Estimate
    n0: Estimate
    d0: Estimate
    budgets: np.ndarray
    n: list[Estimate]
    d: list[Estimate]
    loss: list[Estimate]


def frontier(
    fit: Fit, budgets: np.ndarray, flops_per_token: Callable[[np.ndarray], np.ndarray] | None = None
) -> Frontier:
    """The frontier of a fit with intervals.

    Args:
        fit: with resamples.
        budgets: (budgets,), FLOPs, rising.
        flops_per_token: of a model by its N; None is 6 N. With it the exponents are of the straight line through the
            logarithms over `budgets`, for the frontier is no exact power law.
    """
    spend = lambda law, c: optimum(law, c) if flops_per_token is None else optimum_at_cost(law, c, flops_per_token)
    points = [spend(fit.law, c) for c in budgets]
    samples = [spend(fit.resampled, c) for c in budgets]
    each = lambda name: [
        bootstrap.estimate(float(getattr(p, name)), getattr(s, name)) for p, s in zip(points, samples, strict=True)
    ]

    def line(name):
        slope, level = straight(np.log10(budgets), np.log10([getattr(p, name) for p in points]))
        slopes, levels = straight(np.log10(budgets), np.log10([getattr(s, name) for s in samples]).T)
        return bootstrap.estimate(float(slope), slopes), bootstrap.estimate(float(level), levels)

    (a, n0), (b, d0) = line('n'), line('d')
    return Frontier(a, b, n0, d0, np.asarray(budgets), each('n'), each('d'), each('loss'))


def straight(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Slope and level of the least-squares line through (x, y); y and weights may be (..., points)."""
    w = np.ones(np.shape(y)) if weights is None else weights
    total = w.sum(-1)
    mx, my = np.sum(w * x, -1) / total, np.sum(w * y, -1) / total
    slope = np.sum(w * (x - mx[..., None]) * (y - my[..., None]), -1) / np.sum(w * (x - mx[..., None]) ** 2, -1)
    return slope, my - slope * mx
