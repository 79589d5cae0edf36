"""The minimisation behind a fit of L(N, D): a sum of Huber losses, for one data set or a thousand resamples at once.

With t = (a - alpha log N, b - beta log D, e) the residual of a run is logsumexp(t) - log L, and the objective the SUM
over runs of its Huber loss (Hoffmann et al. 2022, approach 3; delta = 1e-3, so nearly an absolute deviation). Besiroglu
et al. (2024) traced wrong published numbers to averaging instead: the gradients of a mean fall below an optimiser's
default tolerance before the optimum is near. Here the objective is a sum, and the search ends where its gradient is
`TOLERANCE` of the largest that residuals can make.

`newton` is for many problems at once. Beyond delta a Huber loss has no curvature, so Newton's steps from afar would
know little of where the kinks are; they follow the minimum while delta is lowered to what was asked for.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize

DELTA = 1e-3
TOLERANCE = 1e-8
_STAGES = (0.3, 0.1, 0.03, 0.01, 0.003)  # deltas on the way, those above the one asked for
_STEPS = (12, 300)  # most Newton steps at a delta on the way, and at the last
_FAR = 1.0  # longest step of a coordinate


class Problem(NamedTuple):
    """What is fitted, in the solver's own coordinates: logarithms, those of N and D around their means.

    theta = (a, b, e, alpha, beta), where a = log(A / N0^alpha), b = log(B / D0^beta), e = log E.
    """

    x: np.ndarray  # (n,) log N - log N0
    y: np.ndarray  # (n,) log D - log D0
    z: np.ndarray  # (..., n) log loss; a row for each problem, or one for all
    low: np.ndarray  # (5,) bounds: far outside of what data can mean, so that what they leave open does not run away
    high: np.ndarray

    @classmethod
    def of(cls, n: np.ndarray, d: np.ndarray, loss: np.ndarray) -> 'Problem':
        x, y, z = np.log(n), np.log(d), np.log(loss)
        bottom, top = z.min() - 12, z.max() + 2
        return cls(
            *(x - x.mean(), y - y.mean(), z),
            *(np.array([bottom] * 3 + [0.0, 0.0]), np.array([top] * 3 + [4.0, 4.0])),
        )


def huber(residual: np.ndarray, delta: float) -> np.ndarray:
    """r^2 / 2 up to delta, from there on delta (|r| - delta / 2)."""
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


def terms(theta: np.ndarray, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm of the law's loss, and the share of it that each of its three terms has.

    Args:
        theta: (..., 5).
        problem: of n runs.

    Returns:
        (..., n) and (..., 3, n).
    """
    a, b, e, alpha, beta = np.moveaxis(theta[..., None], -2, 0)
    t = np.stack([a - alpha * problem.x, b - beta * problem.y, np.broadcast_to(e, (*e.shape[:-1], len(problem.x)))], -2)
    top = t.max(-2, keepdims=True)
    shares = np.exp(t - top)
    total = shares.sum(-2, keepdims=True)
    return (top + np.log(total))[..., 0, :], shares / total


def value(theta: np.ndarray, problem: Problem, weights: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """The objective: (...,) for theta (..., 5) and weights (..., n)."""
    return np.sum(weights * huber(terms(theta, problem)[0] - problem.z, delta), -1)


def _slopes(theta: np.ndarray, problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals, shares and the residuals' derivatives by theta, (..., 5, n)."""
    log_loss, shares = terms(theta, problem)
    by_n, by_d, by_e = np.moveaxis(shares, -2, 0)
    return log_loss - problem.z, shares, np.stack([by_n, by_d, by_e, -problem.x * by_n, -problem.y * by_d], -2)


def value_and_gradient(theta: np.ndarray, problem: Problem, weights: np.ndarray, delta: float = DELTA):
    residual, _, slopes = _slopes(theta, problem)
    pull = weights * np.clip(residual, -delta, delta)
    return np.sum(weights * huber(residual, delta), -1), (slopes @ pull[..., None])[..., 0]


def lbfgs(start: np.ndarray, problem: Problem, weights: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """One problem, by SciPy's L-BFGS with exact gradients. Tight: it ends when it can go no lower in float64."""
    bounds = list(zip(problem.low, problem.high, strict=True))
    scale = 1 / (delta * weights.sum())  # tolerances below are in units of the largest gradient there can be
    found = scipy.optimize.minimize(
        lambda theta: tuple(scale * v for v in value_and_gradient(theta, problem, weights, delta)),
        *(start, ()),
        method='L-BFGS-B',
        jac=True,
        bounds=bounds,
        options={'ftol': 1e-15, 'gtol': TOLERANCE, 'maxiter': 20_000, 'maxfun': 100_000, 'maxls': 50, 'maxcor': 10},
    )
    return found.x


def newton(start: np.ndarray, problem: Problem, weights: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """Many problems at once, by damped Newton steps along falling deltas.

    Args:
        start: (problems, 5).
        problem: z may have a row for each.
        weights: (problems, n), how often each run counts.
        delta: of the Huber loss.

    Returns:
        (problems, 5), where the steps ended; compare their values if it matters which of several starts is best.
    """
    theta = np.clip(start, problem.low, problem.high)
    for stage in [one for one in _STAGES if one > delta] + [delta]:
        theta = _newton(theta, problem, weights, stage, _STEPS[stage == delta], TOLERANCE if stage == delta else 1e-3)
    return theta


def _newton(theta, problem, weights, delta, steps, tolerance):
    theta, weights = theta.copy(), np.broadcast_to(weights, (len(theta), len(problem.x)))
    zs = np.broadcast_to(problem.z, weights.shape)
    active, damping = np.arange(len(theta)), np.full(len(theta), 1e-3)
    for _ in range(steps):
        here, part, w = theta[active], problem._replace(z=zs[active]), weights[active]
        residual, shares, slopes = _slopes(here, part)
        before = np.sum(w * huber(residual, delta), -1)
        pull = w * np.clip(residual, -delta, delta)
        gradient = (slopes @ pull[..., None])[..., 0]
        stuck = ((here <= problem.low) & (gradient > 0)) | ((here >= problem.high) & (gradient < 0))
        gradient = np.where(stuck, 0, gradient)
        going = np.abs(gradient).max(-1) > tolerance * delta * w.sum(-1)
        going &= damping[active] < 1e12  # no step goes lower: as far as float64 sees
        if not going.any():
            break
        if not going.all():
            active = active[going]
            here, part, w, before, gradient, stuck, residual, shares, slopes, pull = (
                *(here[going], part._replace(z=part.z[going])),
                *(array[going] for array in (w, before, gradient, stuck, residual, shares, slopes, pull)),
            )
        size, vectors = np.linalg.eigh(_curvature(residual, shares, slopes, pull, w, part, delta, stuck))
        size = np.abs(size) + damping[active, None] * np.maximum(np.abs(size).max(-1, keepdims=True), 1e-30)
        step = -(vectors @ ((vectors.swapaxes(-1, -2) @ gradient[..., None]) / size[..., None]))[..., 0]
        step *= np.minimum(1, _FAR / np.maximum(np.abs(step).max(-1, keepdims=True), 1e-30))
        there = np.clip(here + np.where(stuck, 0, step), problem.low, problem.high)
        better = value(there, part, w, delta) < before
        theta[active] = np.where(better[:, None], there, here)
        damping[active] = np.where(better, np.maximum(damping[active] / 8, 1e-14), damping[active] * 6)
    return theta


def _curvature(residual, shares, slopes, pull, weights, problem, delta, stuck):
    """The objective's second derivatives; rows and columns of what a bound holds are the identity's."""
    inside = weights * (np.abs(residual) <= delta)
    matrix = (slopes * (inside - pull)[..., None, :]) @ slopes.swapaxes(-1, -2)
    by_n, by_d, by_e = np.moveaxis(shares * pull[..., None, :], -2, 0)
    for term, rate, x, share in ((0, 3, problem.x, by_n), (1, 4, problem.y, by_d)):
        cross = -np.sum(share * x, -1)
        matrix[:, term, term] += np.sum(share, -1)
        matrix[:, term, rate] += cross
        matrix[:, rate, term] += cross
        matrix[:, rate, rate] += np.sum(share * x**2, -1)
    matrix[:, 2, 2] += np.sum(by_e, -1)
    free = ~stuck
    return np.where(
        free[:, :, None] & free[:, None, :], matrix, np.eye(5) * np.trace(matrix, axis1=1, axis2=2)[:, None, None] / 5
    )
