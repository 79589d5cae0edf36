"""Intervals for every number of a fit, from one set of resamples.

The Bayesian bootstrap (Rubin 1981): a resample weighs the runs by exponential draws, scaled to sum to their number,
where the classic one counts them 0, 1, 2 … times. No resample loses a run, which is what makes the classic one too wide
where runs are few. Percentile intervals: they carry over to any function of the numbers, so those of A are exp of those
of log A, positive and lopsided as they must be. How often they hold the truth is measured in docs/scaling_laws.md.
"""

import math
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Estimate(NamedTuple):
    """A number and its interval; not a number where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.low):
            return number(self.value)
        return f'{number(self.value)} [{number(self.low)}, {number(self.high)}]'

    def holds(self, truth: float) -> bool:
        return self.low <= truth <= self.high


def number(value: float) -> str:
    """With four significant digits, short for counts."""
    if not math.isfinite(value):
        return '—'
    size = abs(value)
    if size and not 1e-4 <= size < 1e4:
        for factor, suffix in ((1e12, ' T'), (1e9, ' B'), (1e6, ' M'), (1e3, ' k')):
            if factor <= size < 1e15:
                return f'{value / factor:.4g}{suffix}'.replace('-', '−')
        return f'{value:.3g}'.replace('-', '−')
    return f'{value:.4g}'.replace('-', '−')


def weights(runs: int, resamples: int, seed: int = 0) -> np.ndarray:
    """(resamples, runs), each row summing to `runs`."""
    draws = np.random.default_rng(seed).exponential(size=(resamples, runs))
    return draws * (runs / draws.sum(1, keepdims=True))


def estimate(value: float, samples: np.ndarray, level: float = LEVEL) -> Estimate:
    """The percentile interval; none if the number does not exist (NaN) in more than 5% of the resamples.

    Args:
        value: of the runs as they are.
        samples: (resamples,), of each resample.
        level: share of samples between the ends.
    """
    samples = np.asarray(samples, np.float64)
    there = samples[~np.isnan(samples)]
    if not math.isfinite(value) or len(there) < 0.95 * len(samples) or len(there) < 20:
        return Estimate(float(value))
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high))
