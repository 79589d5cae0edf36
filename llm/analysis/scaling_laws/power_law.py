"""Power laws in one variable, loss = (X0 / x)^k (Kaplan et al. 2020): a straight line through the logarithms.

x is what limits: the size where data is plentiful, the data where the size is, or the cost where both are chosen well.
In a grid of runs the nearest to that are those that no run with as little or less of x beats. There is no irreducible
loss in the form, so a line through losses that come near one is too steep beyond its end: why L(N, D) has its E.
"""

from typing import NamedTuple

import numpy as np

from llm.analysis.scaling_laws.bootstrap import LEVEL, Estimate
from llm.analysis.scaling_laws.frontier import straight


class PowerLaw(NamedTuple):
    """loss = (scale / x)^exponent.

    Attributes:
        exponent: k.
        scale: X0, in the unit of x; its interval is that of its logarithm, raised.
        x, loss: (points,), of the runs that it goes through.
        deviation: of the log-losses from the line, root mean square.
    """

    exponent: Estimate
    scale: Estimate
    x: np.ndarray
    loss: np.ndarray
    deviation: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return (self.scale.value / np.asarray(x)) ** self.exponent.value


def power_law(x: np.ndarray, loss: np.ndarray, resamples: int = 1000, seed: int = 0) -> PowerLaw | None:
    """Through the runs that none with as little or less of x beats; None with less than three of them.

    A line through a handful of points has no use of weights on them, so a resample draws noise as large as the
    deviations say (a parametric bootstrap, with its own uncertainty of the noise), in the logarithm.
    """
    x, loss = np.asarray(x, np.float64), np.asarray(loss, np.float64)
    order = np.lexsort((loss, x))
    sunk = np.minimum.accumulate(np.concatenate([[np.inf], loss[order][:-1]]))
    best = order[loss[order] < sunk]
    if len(best) < 3:
        return None
    x, loss = x[best], loss[best]
    slope, level = straight(np.log(x), np.log(loss))
    line = level + slope * np.log(x)
    squares, free = np.sum((np.log(loss) - line) ** 2), len(x) - 2
    random = np.random.default_rng(seed)
    noise = np.sqrt(squares / random.chisquare(free, (resamples, 1)))
    slopes, levels = straight(np.log(x), line + noise * random.normal(size=(resamples, len(x))))
    ends = lambda values: np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if resamples else (np.nan, np.nan)
    with np.errstate(over='ignore', divide='ignore', invalid='ignore'):
        scale = Estimate(float(np.exp(-level / slope)), *map(float, np.exp(ends(-levels / slopes))))
    exponent = Estimate(float(-slope), *map(float, ends(-slopes)))
    return PowerLaw(exponent, scale, x, loss, float(np.sqrt(squares / len(x))))
