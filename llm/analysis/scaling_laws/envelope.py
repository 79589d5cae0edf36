"""The envelope of training curves (Hoffmann et al. 2022, approach 1): at each cost, which run is lowest, and its size.

Curves are training losses before the learning rate has come down, so they lie above what a run of that length would
reach, more so at their beginnings; and a handful of sizes makes a staircase of the envelope. It is the roughest of the
three, kept as a check on the others. Intervals: runs drawn with replacement (each cost then has other candidates).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm.analysis.scaling_laws import bootstrap
from llm.analysis.scaling_laws.bootstrap import Estimate
from llm.analysis.scaling_laws.frontier import straight

COSTS = 200  # at which the envelope is looked at
SMOOTH = 0.08  # of log C: the width of the kernel that takes a training loss's noise away


class Curve(NamedTuple):
    """The training of one run."""

    n: float  # parameters
    flops: np.ndarray  # (points,), spent, rising
    tokens: np.ndarray  # (points,)
    loss: np.ndarray  # (points,), nats per token of the batches there


class Envelope(NamedTuple):
    """Where the envelope lies and the power laws through it.

    Attributes:
        budgets, n, d, loss: (points,), FLOPs, and of the lowest run there its size, tokens and loss.
        a, b: exponents of N*(C) and D*(C).
    """

    budgets: np.ndarray
    n: np.ndarray
    d: np.ndarray
    loss: np.ndarray
    a: Estimate
    b: Estimate


def envelope(curves: Sequence[Curve], resamples: int = 1000, seed: int = 0) -> Envelope | None:
    """None if there is no stretch of cost where neither the smallest nor the largest size is lowest.

    Args:
        curves: one a run.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    curves = [curve for curve in curves if len(curve.loss) >= 3]
    if len(curves) < 3:
        return None
    low, high = min(curve.flops[0] for curve in curves), max(curve.flops[-1] for curve in curves)
    budgets = np.geomspace(low, high, COSTS)
    losses = np.stack([_smoothed(curve, budgets) for curve in curves])  # NaN beyond a curve's ends
    sizes = np.array([curve.n for curve in curves])
    tokens = np.stack([np.interp(budgets, curve.flops, curve.tokens) for curve in curves])
    lowest = _lowest(losses, sizes, np.arange(len(curves)))
    if np.count_nonzero(lowest >= 0) < 3 or len(np.unique(sizes[lowest[lowest >= 0]])) < 2:
        return None
    random = np.random.default_rng(seed)
    slopes = [
        _slopes(budgets, sizes, tokens, _lowest(losses, sizes, random.integers(len(curves), size=len(curves))))
        for _ in range(resamples)
    ]
    at = lowest >= 0
    column = np.flatnonzero(at)
    a, b = _slopes(budgets, sizes, tokens, lowest)
    return Envelope(
        *(budgets[at], sizes[lowest[at]], tokens[lowest[at], column], losses[lowest[at], column]),
        *(bootstrap.estimate(v, np.array(slopes).reshape(-1, 2)[:, i]) for i, v in enumerate((a, b))),
    )


def _smoothed(curve: Curve, budgets: np.ndarray) -> np.ndarray:
    """A local straight line through the curve's points in log C, so that the ends of a falling curve stay unbiased."""
    x, y = np.log(curve.flops), np.log(curve.loss)
    distance = x[None] - np.log(budgets)[:, None]
    weights = np.exp(-0.5 * (distance / SMOOTH) ** 2) + 1e-300
    m0, m1, m2 = (np.sum(weights * distance**k, 1) for k in range(3))
    s0, s1 = np.sum(weights * y, 1), np.sum(weights * distance * y, 1)
    with np.errstate(divide='ignore', invalid='ignore'):
        line = (s0 * m2 - s1 * m1) / (m0 * m2 - m1**2)
    inside = (budgets >= curve.flops[0]) & (budgets <= curve.flops[-1] * (1 + 1e-9))
    return np.where(inside, np.exp(line), np.nan)


def _lowest(losses: np.ndarray, sizes: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """The lowest run at each cost; -1 where it is of the smallest or largest size there: the best may lie beyond."""
    here = losses[runs]
    there = ~np.isnan(here)
    best = np.argmin(np.where(there, here, np.inf), 0)
    of = np.broadcast_to(sizes[runs][:, None], here.shape)
    smallest, largest = np.min(of, 0, initial=np.inf, where=there), np.max(of, 0, initial=0, where=there)
    winner = sizes[runs][best]
    return np.where(there.any(0) & (winner > smallest) & (winner < largest), runs[best], -1)


def _slopes(budgets: np.ndarray, sizes: np.ndarray, tokens: np.ndarray, lowest: np.ndarray) -> tuple[float, float]:
    at = np.flatnonzero(lowest >= 0)
    if len(at) < 3 or len(np.unique(sizes[lowest[at]])) < 2:
        return np.nan, np.nan
    x = np.log(budgets[at])
    return tuple(float(straight(x, np.log(y))[0]) for y in (sizes[lowest[at]], tokens[lowest[at], at]))
