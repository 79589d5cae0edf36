"""IsoFLOP profiles (Hoffmann et al. 2022, approach 2): of runs that cost the same, a parabola of loss in log N.

Its lowest point is the budget's best size; straight lines through the logarithms of the lowest points give the
exponents of N*(C) and D*(C). Intervals: a profile has hardly more runs than a parabola has numbers, so it does not tell
its noise, and weighing its runs anew would not either. All profiles together do. A resample (a parametric bootstrap)
draws how large the noise is, given the residuals of all, then new losses on the parabolas with normal noise of that
size.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from llm.analysis.scaling_laws import bootstrap
from llm.analysis.scaling_laws.bootstrap import Estimate
from llm.analysis.scaling_laws.frontier import straight

SAME = 1.1  # budgets within this factor are one profile
LEAST = 4  # runs of a profile: one more than a parabola has numbers


class Profile(NamedTuple):
    """Runs of one budget.

    Attributes:
        budget: FLOPs.
        runs: their places in the arrays.
        parabola: (3,), loss = p0 + p1 x + p2 x^2, x = log N - centre.
        centre: of log N.
        best: the size of least loss.
        loss: at that size, nats per token.
        problem: why it cannot be used; empty if it can.
    """

    budget: float
    runs: np.ndarray
    parabola: np.ndarray
    centre: float
    best: Estimate
    loss: Estimate
    problem: str

    def losses(self, n: np.ndarray) -> np.ndarray:
        x = np.log(n) - self.centre
        return self.parabola @ np.stack([np.ones_like(x), x, x**2])


class IsoFlop(NamedTuple):
    """All profiles and the power laws through the best of them.

    Attributes:
        profiles: by budget.
        a, b: exponents of N*(C) and D*(C).
        n0, d0: their coefficients, log10.
    """

    profiles: tuple[Profile, ...]
    a: Estimate
    b: Estimate
    n0: Estimate
    d0: Estimate


def groups(budgets: np.ndarray) -> list[np.ndarray]:
    """Places of runs that cost the same, as the cheapest among them, by rising cost."""
    found: list[list[int]] = []
    for place in np.argsort(budgets, kind='stable'):
        if not found or budgets[place] > SAME * budgets[found[-1][0]]:
            found.append([])
        found[-1].append(int(place))
    return [np.array(places) for places in found]


def isoflop(
    n: np.ndarray,
    loss: np.ndarray,
    budgets: np.ndarray,
    flops_per_token: Callable[[np.ndarray], np.ndarray],
    resamples: int = 1000,
    seed: int = 0,
) -> IsoFlop | None:
    """Fits all profiles that have enough runs; None if there are less than two of them.

    Args:
        n: (runs,), parameters.
        loss: (runs,), nats per token.
        budgets: (runs,), FLOPs.
        flops_per_token: of a model by its N, to get D from.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    parts = [runs for runs in groups(budgets) if len(np.unique(n[runs])) >= LEAST]
    if len(parts) < 2:
        return None
    centres = [np.log(n[runs]).mean() for runs in parts]
    designs = [np.vander(np.log(n[runs]) - c, 3, increasing=True) for runs, c in zip(parts, centres, strict=True)]
    inverses = [np.linalg.pinv(design) for design in designs]
    parabolas = [inverse @ loss[runs] for inverse, runs in zip(inverses, parts, strict=True)]
    residuals = [loss[runs] - design @ p for runs, design, p in zip(parts, designs, parabolas, strict=True)]
    free = sum(len(runs) - 3 for runs in parts)
    random = np.random.default_rng(seed)
    noise = np.sqrt(np.sum(np.concatenate(residuals) ** 2) / random.chisquare(free, (resamples, 1)))
    profiles, bests = [], []
    for runs, centre, design, inverse, p in zip(parts, centres, designs, inverses, parabolas, strict=True):
        again = (design @ p + noise * random.normal(size=(resamples, len(runs)))) @ inverse.T
        (best, low), (best_again, low_again) = _lowest(p, centre), _lowest(again, centre)
        profile = Profile(
            *(float(np.exp(np.log(budgets[runs]).mean())), runs, p, centre),
            bootstrap.estimate(float(best), best_again),
            bootstrap.estimate(float(low), low_again),
            _problem(p, float(best), n[runs]),
        )
        profiles.append(profile)
        bests.append((float(best), best_again))
    used = [i for i, profile in enumerate(profiles) if not profile.problem]
    if len(used) < 2:
        nothing = Estimate(np.nan)
        return IsoFlop(tuple(profiles), nothing, nothing, nothing, nothing)
    x = np.log10([profiles[i].budget for i in used])
    point, samples = np.array([bests[i][0] for i in used]), np.stack([bests[i][1] for i in used], -1)

    def line(values, values_again):
        (slope, level), (slopes, levels) = straight(x, np.log10(values)), straight(x, np.log10(values_again))
        return bootstrap.estimate(float(slope), slopes), bootstrap.estimate(float(level), levels)

    a, n0 = line(point, samples)
    b, d0 = line(10**x / flops_per_token(point), 10**x / flops_per_token(samples))
    return IsoFlop(tuple(profiles), a, b, n0, d0)


def _lowest(parabola: np.ndarray, centre: float) -> tuple[np.ndarray, np.ndarray]:
    """N and loss of the lowest point; NaN where a parabola opens downwards."""
    p0, p1, p2 = np.moveaxis(parabola, -1, 0)
    with np.errstate(divide='ignore', invalid='ignore'):
        x = np.where(p2 > 0, -p1 / (2 * p2), np.nan)
    x = np.where(np.abs(x) < 20, x, np.nan)
    return np.exp(x + centre), p0 + x * (p1 + x * p2)


def _problem(parabola: np.ndarray, best: float, n: np.ndarray) -> str:
    if parabola[2] <= 0 or not np.isfinite(best):
        return 'no lowest point: the parabola opens downwards'
    if not n.min() <= best <= n.max():
        side = 'below' if best < n.min() else 'above'
        return f'its lowest point lies {side} the sizes that were trained'
    return ''
