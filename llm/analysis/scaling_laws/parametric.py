"""L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, approach 3), fitted to runs trained to the end.

N is a number of parameters and D a number of tokens; the loss is in nats per token, and E what no model of the kind can
get below. `minimise` says how the fit is made, `bootstrap` how its intervals are.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.optimize

from llm.analysis.scaling_laws import bootstrap, minimise
from llm.analysis.scaling_laws.bootstrap import Estimate
from llm.analysis.scaling_laws.minimise import DELTA, Problem
from llm.errors import UserError

PARAMETERS = 5
_EXPONENTS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5)  # of the grid of starts


class Law(NamedTuple):
    """A law, or with arrays for fields one law for each resample."""

    E: np.ndarray  # nats per token
    A: np.ndarray
    alpha: np.ndarray
    B: np.ndarray
    beta: np.ndarray

    def loss(self, n: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Nats per token of n parameters trained on d tokens; a law for each resample gives (resamples, ...)."""
        shape = np.broadcast_shapes(np.shape(n), np.shape(d))
        E, A, alpha, B, beta = (np.reshape(field, np.shape(field) + (1,) * len(shape)) for field in self)
        return E + A * np.asarray(n, np.float64) ** -alpha + B * np.asarray(d, np.float64) ** -beta

    @property
    def a(self) -> np.ndarray:
        """Exponent of the compute-optimal N in C, where C is in proportion to N D."""
        return self.beta / (self.alpha + self.beta)

    @property
    def b(self) -> np.ndarray:
        """Exponent of the compute-optimal D."""
        return self.alpha / (self.alpha + self.beta)


@dataclass(frozen=True)
class Fit:
    """A fitted law and the same fit on every resample.

    Attributes:
        law: of the runs as they are.
        resampled: fields (resamples,).
        n, d, loss: (runs,), what was fitted.
        value: the sum of Huber losses at the end.
        open_ends: numbers that the fit left at a bound: the runs do not tell them.
    """

    law: Law
    resampled: Law
    n: np.ndarray
    d: np.ndarray
    loss: np.ndarray
    value: float
    open_ends: tuple[str, ...]

    @property
    def residuals(self) -> np.ndarray:
        """(runs,), log of the measured loss less log of the law's."""
        return np.log(self.loss) - np.log(self.law.loss(self.n, self.d))

    @property
    def noise(self) -> np.ndarray:
        """(runs,), residuals as large as those of runs that had no part in the fit: it bent towards each of these."""
        left = max(1, len(self.n) - PARAMETERS)
        return self.residuals * np.sqrt(len(self.n) / left)

    def estimates(self) -> dict[str, Estimate]:
        """The law's numbers and the exponents of its compute-optimal frontier, with intervals."""
        names = (*Law._fields, 'a', 'b')
        return {name: bootstrap.estimate(getattr(self.law, name), getattr(self.resampled, name)) for name in names}

    def standard_errors(self) -> dict[str, float]:
        """Those of E, A and B in their logarithms: a fit tells them within a factor, and plus and minus an error of A
        itself would reach below zero."""
        logs = self.resampled._replace(**{name: np.log(getattr(self.resampled, name)) for name in 'EAB'})
        return {name: float(np.std(getattr(logs, name), ddof=1)) for name in Law._fields}

    def mean_loss(self, n: float, d: float) -> Estimate:
        """The law's loss at a place; the interval is that of the law, not of a run there."""
        return bootstrap.estimate(float(self.law.loss(n, d)), self.resampled.loss(n, d))

    def predict(self, n: float, d: float, seed: int = 0) -> Estimate:
        """The loss of one more run, with an interval that holds the runs' own scatter too."""
        samples = self.resampled.loss(n, d)
        scatter = np.random.default_rng(seed).choice(self.noise, (16, len(samples)))
        return bootstrap.estimate(float(self.law.loss(n, d)), (samples * np.exp(scatter)).ravel())


def fit(
    n: np.ndarray, d: np.ndarray, loss: np.ndarray, resamples: int = 1000, seed: int = 0, delta: float = DELTA
) -> Fit:
    """Fits the law to runs.

    Args:
        n: (runs,), parameters.
        d: (runs,), tokens trained on.
        loss: (runs,), nats per token, held out.
        resamples: of the bootstrap; 0 makes no intervals.
        seed: of the bootstrap.
        delta: where the Huber loss of a log-residual turns from a square to a straight line.

    Raises:
        UserError: if there are fewer than six runs, less than two sizes or token counts, or numbers that are not
            positive.
    """
    n, d, loss = (np.asarray(values, np.float64) for values in (n, d, loss))
    check(n, d, loss)
    problem = Problem.of(n, d, loss)
    once = np.ones((1, len(n)))
    theta = _from_grid(problem, delta)
    repeated = np.zeros((0, PARAMETERS))
    if resamples:
        start = np.broadcast_to(theta, (resamples, PARAMETERS))
        repeated = minimise.newton(start, problem, bootstrap.weights(len(n), resamples, seed), delta)
    names, edge = ('A', 'B', 'E', 'alpha', 'beta'), 1e-9
    at_bound = (theta <= problem.low + edge) | (theta >= problem.high - edge)
    return Fit(
        *(_law(theta, n, d), _law(repeated, n, d), n, d, loss),
        value=float(minimise.value(theta, problem, once[0], delta)),
        open_ends=tuple(name for name, at in zip(names, at_bound, strict=True) if at),
    )


def check(n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> None:
    """Refuses what no law can be fitted to. Raises: UserError."""
    for name, values in (('N', n), ('D', d), ('loss', loss)):
        if not np.all(np.isfinite(values) & (values > 0)):
            where = int(np.argmin(np.isfinite(values) & (values > 0)))
            raise UserError(f'{name} of run {where + 1} is {values[where]:g}; a scaling law needs positive numbers')
    if len(n) <= PARAMETERS:
        raise UserError(f'{len(n)} runs for a law of {PARAMETERS} numbers; it needs at least {PARAMETERS + 1}')
    for name, values in (('N', n), ('D', d)):
        if len(np.unique(values)) < 3:
            raise UserError(f'all runs have at most two values of {name}; its exponent needs three')


def starts(problem: Problem) -> np.ndarray:
    """A grid of exponents, each with the E, A and B of least relative error: (starts, 5)."""
    found = []
    for alpha, beta in itertools.product(_EXPONENTS, repeat=2):
        columns = np.stack([np.exp(-alpha * problem.x), np.exp(-beta * problem.y), np.ones(len(problem.x))], 1)
        scale = np.exp(-problem.z)[:, None]
        sizes, _ = scipy.optimize.nnls(columns * scale, np.ones(len(problem.x)))
        found.append([*np.log(np.maximum(sizes, 1e-3 * np.exp(problem.z.min()))), alpha, beta])
    return np.array(found)


def _from_grid(problem: Problem, delta: float) -> np.ndarray:
    """The lowest minimum found: Newton from every start of the grid, L-BFGS from the best start and the best end."""
    weights = np.ones(len(problem.x))
    best = lambda thetas: thetas[np.argsort(minimise.value(thetas, problem, weights, delta))]
    grid = starts(problem)
    ends = best(minimise.newton(grid, problem, np.broadcast_to(weights, (len(grid), len(weights))), delta))
    polished = [minimise.lbfgs(start, problem, weights, delta) for start in (ends[0], best(grid)[0])]
    return best(np.array([ends[0], *polished]))[0]


def _law(theta: np.ndarray, n: np.ndarray, d: np.ndarray) -> Law:
    """Out of the solver's coordinates."""
    a, b, e, alpha, beta = np.moveaxis(theta, -1, 0)
    shifted = (np.exp(a + alpha * np.log(n).mean()), alpha, np.exp(b + beta * np.log(d).mean()), beta)
    return Law(np.exp(e), *shifted)
