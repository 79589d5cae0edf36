"""Curves and intervals: best-of-n without bias, gold reward at equal KL, and Gao et al.'s (2022) fits.

Axes come in the order seeds, points, prompts: `points` are the places of a curve, which is n for best-of-n, beta for
DPO, and the training step for reinforcement learning.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.stats

from experiments.rlhf.wishlist import REQUESTED
from llm.inference.best_of_n import expected_best

Kind = Literal['best_of_n', 'rl']
ORDERS = math.factorial(REQUESTED)  # prompts that ask for the same letters


class Interval(NamedTuple):
    """A mean and the ends of its 95% interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        number = lambda value: f'{value:.2f}' if abs(value) < 1000 else '∞' if math.isinf(value) else f'{value:.0e}'
        if math.isnan(self.mean):
            return '—'
        ends = '' if math.isnan(self.low) else f' [{number(self.low)}, {number(self.high)}]'
        return f'{number(self.mean)}{ends}'.replace('-', '−')


def over_seeds(values: np.ndarray) -> Interval:
    """The mean over repetitions with Student's 95% interval; a seed is a whole repetition, labels and all.

    Args:
        values: (seeds,); those that are not finite are left out, and with less than two there is no interval.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    mean = float(np.mean(values)) if len(values) else math.nan
    if len(values) < 2:
        return Interval(mean, math.nan, math.nan)
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def over_prompts(values: np.ndarray) -> Interval:
    """The mean over the held-out prompts of one seed, with Student's 95% interval over their sets of letters.

    Args:
        values: (prompts,); the orders of one set of letters are neighbours, and count as one observation.
    """
    return over_seeds(values.reshape(-1, ORDERS).mean(1))


def best_of_n(judged: np.ndarray, values: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """What the best of n by one score is worth by another, without bias.

    Args:
        judged: (..., samples), the score that chooses.
        values: (..., samples), the score that is reported.
        ns: sizes, each at most `samples`.

    Returns:
        (..., len(ns)).
    """
    return np.stack([expected_best(judged, n, values) for n in ns], axis=-1)


def at_kl(kl: np.ndarray, gold: np.ndarray, target: float) -> float:
    """Gold reward where a curve first reaches a KL, linear in √KL between its points; NaN where it never does.

    Args:
        kl: (points,), in the order in which the curve is walked, from the SFT model's 0 on.
        gold: (points,).
        target: nats.
    """
    reached = np.flatnonzero(kl >= target)
    if not len(reached):
        return math.nan
    i = int(reached[0])
    if i == 0:
        return float(gold[0])
    left, right, here = (math.sqrt(max(x, 0.0)) for x in (kl[i - 1], kl[i], target))
    part = (here - left) / (right - left)
    return float(gold[i - 1] + part * (gold[i] - gold[i - 1]))


class Fit(NamedTuple):
    """d (α − β d) for best-of-n, d (α − β log d) for reinforcement learning, d = √KL, of the gain in gold reward.

    Attributes:
        kind: which of the two.
        alpha, beta: with intervals.
        peak_kl: nats, where the fitted curve is highest, with its interval.
        r_squared: of the points.
    """

    kind: Kind
    alpha: Interval
    beta: Interval
    peak_kl: Interval
    r_squared: float

    def __call__(self, kl: np.ndarray) -> np.ndarray:
        """The fitted gain at these KLs."""
        return columns(self.kind, np.asarray(kl)) @ np.array([self.alpha.mean, self.beta.mean])


def columns(kind: Kind, kl: np.ndarray) -> np.ndarray:
    """What α and β are multiplied by, (points, 2)."""
    d = np.sqrt(np.maximum(kl, 0))
    falling = d * d if kind == 'best_of_n' else d * np.log(np.maximum(d, 1e-9))
    return np.stack([d, -falling], axis=-1)


def fit(kind: Kind, kl: np.ndarray, gain: np.ndarray, resamples: int = 1000) -> Fit:
    """Least squares over the points of all seeds, with bootstrap intervals over seeds and prompts.

    Both forms are linear in α and β. A resample draws seeds, and within each seed the held-out prompts, with
    replacement; points of a curve stay together, as they share their prompts.

    Args:
        kind: which form.
        kl: (seeds, points, prompts) nats, or (seeds, points, 1).
        gain: (seeds, points, prompts), gold reward less the SFT model's.
        resamples: of the bootstrap.
    """
    seeds, points, number = gain.shape
    kl, gain = np.broadcast_to(kl, gain.shape).astype(np.float64), gain.astype(np.float64)
    solve = lambda x, y: np.linalg.lstsq(columns(kind, x.ravel()), y.ravel(), rcond=None)[0]
    x, y = kl.mean(-1), gain.mean(-1)
    estimate = solve(x, y)
    residual = y.ravel() - columns(kind, x.ravel()) @ estimate
    random = np.random.default_rng(0)
    draws = []
    for _ in range(resamples):
        chosen = random.integers(0, seeds, seeds)
        # A prompt's share of the mean is how often it was drawn.
        shares = random.multinomial(number, np.full(number, 1 / number), seeds)[:, :, None] / number
        draws.append(solve((kl[chosen] @ shares)[..., 0], (gain[chosen] @ shares)[..., 0]))
    draws = np.array(draws)
    ends = lambda values: np.percentile(values, [2.5, 97.5], method='nearest')  # which may be infinite
    peaks = peak(kind, draws[:, 0], draws[:, 1])
    return Fit(
        kind,
        Interval(estimate[0], *ends(draws[:, 0])),
        Interval(estimate[1], *ends(draws[:, 1])),
        Interval(float(peak(kind, *estimate)), *ends(peaks)),
        float(1 - np.sum(residual**2) / np.sum((y - y.mean()) ** 2)),
    )


def peak(kind: Kind, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """KL in nats at which a fitted curve is highest; infinite where it never turns."""
    alpha, beta = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        top = (alpha / (2 * beta)) ** 2 if kind == 'best_of_n' else np.exp(2 * (alpha / beta - 1))
    return np.where(beta > 0, top, np.inf)
