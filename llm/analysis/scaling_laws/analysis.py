"""Every fit of one table of runs, with the error of extrapolating always beside it, as plain values for a report."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llm.analysis.scaling_laws import runs as tables
from llm.analysis.scaling_laws.bootstrap import Estimate
from llm.analysis.scaling_laws.envelope import Envelope, envelope
from llm.analysis.scaling_laws.frontier import FLOPS, Frontier, frontier
from llm.analysis.scaling_laws.isoflop import IsoFlop, isoflop
from llm.analysis.scaling_laws.parametric import PARAMETERS, Fit, fit
from llm.analysis.scaling_laws.power_law import PowerLaw, power_law
from llm.analysis.scaling_laws.repeated import effective_tokens
from llm.analysis.scaling_laws.runs import Runs
from llm.errors import UserError

REACH = 10  # the frontier is drawn this many times beyond the largest budget


@dataclass(frozen=True)
class Extrapolation:
    """The law without the largest runs, against them.

    Attributes:
        fit: to the others.
        runs: those left out.
        predicted: a loss for each, with the interval of one run.
        errors: (runs,), predicted over measured, less 1.
    """

    fit: Fit
    runs: Runs
    predicted: list[Estimate]
    errors: np.ndarray

    @property
    def inside(self) -> int:
        """Runs whose loss the interval holds."""
        return int(sum(one.holds(loss) for one, loss in zip(self.predicted, self.runs.loss, strict=True)))


@dataclass(frozen=True)
class Prediction:
    """What the fit says of a run that it has not seen, and what came of it.

    Attributes:
        name: of the run.
        n, d, flops: parameters, tokens, cost.
        loss: nats per token; the interval is for one run.
        by_power_law: what the straight line through C says.
        beyond: how far this is outside of what was fitted, in words.
        measured: None until it was trained.
    """

    name: str
    n: float
    d: float
    flops: float
    loss: Estimate
    by_power_law: float
    beyond: str
    measured: float | None = None

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.loss.value / self.measured - 1


def predict(analysis: 'Analysis', name: str, n: float, d: float, flops: float) -> Prediction:
    """Of one more run, of n parameters as the headline counts them."""
    line = analysis.power_laws.get('C')
    by_line = float(line(flops)) if line else float('nan')
    return Prediction(
        name, n, d, flops, analysis.fit.predict(n, d), by_line, tables.outside(analysis.runs, n, d, flops)
    )


@dataclass(frozen=True)
class Analysis:
    """All of it.

    Attributes:
        runs: what was fitted.
        fits: of L(N, D), by how parameters were counted.
        effective: the fit with repeated tokens at their worth; None if nothing is known to be repeated.
        frontier: of the first fit, under C = 6 N D.
        frontier_at_cost: the same at the FLOPs per token that the runs had; None where those are 6 N.
        isoflop, envelope: None where the runs do not make any.
        power_laws: by what is on their axis.
        extrapolation: None where too few runs are left.
        warnings: sentences.
    """

    runs: Runs
    fits: dict[str, Fit]
    effective: Fit | None
    frontier: Frontier
    frontier_at_cost: Frontier | None
    isoflop: IsoFlop | None
    envelope: Envelope | None
    power_laws: dict[str, PowerLaw]
    extrapolation: Extrapolation | None
    warnings: list[str]

    @property
    def fit(self) -> Fit:
        return next(iter(self.fits.values()))


def analyse(runs: Runs, resamples: int = 1000, seed: int = 0) -> Analysis:
    """Fits everything.

    Args:
        runs: trained to their ends.
        resamples: of every bootstrap.
        seed: of every bootstrap.

    Raises:
        UserError: if L(N, D) cannot be fitted to them.
    """
    fits = {name: fit(n, runs.d, runs.loss, resamples, seed) for name, n in runs.counts.items()}
    first, cost = next(iter(fits.values())), runs.cost(runs.n)
    budgets = np.geomspace(runs.flops.min(), REACH * runs.flops.max(), 9)
    found = tables.warnings(runs)
    profiles = isoflop(runs.n, runs.loss, runs.flops, cost or (lambda n: FLOPS * n), resamples, seed)
    extrapolation = leave_out_largest(runs, resamples, seed)
    effective = None
    if (runs.d > 1.001 * np.nan_to_num(runs.unique, nan=np.inf)).any():
        effective = fit(runs.n, effective_tokens(runs.d, runs.unique), runs.loss, resamples, seed)
    found += _about(first, profiles, extrapolation)
    laws = {'N': runs.n, 'D': runs.d, 'C': runs.flops}
    return Analysis(
        *(runs, fits, effective, frontier(first, budgets)),
        frontier_at_cost=frontier(first, budgets, cost) if cost else None,
        isoflop=profiles,
        envelope=envelope(runs.curves, resamples, seed),
        power_laws={x: law for x, values in laws.items() if (law := power_law(values, runs.loss, resamples, seed))},
        extrapolation=extrapolation,
        warnings=found,
    )


def leave_out_largest(runs: Runs, resamples: int = 1000, seed: int = 0) -> Extrapolation | None:
    """Fits the law without the fifth of the runs that cost most, and predicts them."""
    left = runs.largest()
    try:
        rest = runs.take(~left)
        part = fit(rest.n, rest.d, rest.loss, resamples, seed)
    except UserError:
        return None
    out = runs.take(left)
    predicted = [part.predict(n, d, seed) for n, d in zip(out.n, out.d, strict=True)]
    return Extrapolation(part, out, predicted, np.array([one.value for one in predicted]) / out.loss - 1)


def _about(first: Fit, profiles: IsoFlop | None, extrapolation: Extrapolation | None) -> list[str]:
    """What the fits themselves say against being believed."""
    found = []
    numbers = first.estimates()
    if first.open_ends:
        found.append(f'the runs do not determine {", ".join(first.open_ends)}: the fit ended at a bound')
    if numbers['E'].low < 0.2 * numbers['E'].value:
        found.append(
            f'E is hardly determined ({numbers["E"]}): the runs are too far above any floor to tell it, and exponents '
            'depend on it'
        )
    for name in ('alpha', 'beta'):
        one = numbers[name]
        if one.high - one.low > one.value:
            found.append(f'{name} is hardly determined: {one}')
    for profile in profiles.profiles if profiles else ():
        if profile.problem:
            found.append(
                f'the IsoFLOP profile at {profile.budget:.3g} FLOPs is left out of the power laws: {profile.problem}'
            )
    if profiles is None:
        found.append('the runs make no IsoFLOP profiles (two budgets with four sizes each): no approach 2')
    if extrapolation is None:
        found.append(f'without the largest runs fewer than {PARAMETERS + 1} are left: extrapolation is untested')
    return found


def as_json(analysis: Analysis) -> dict[str, Any]:
    """All numbers, plain: intervals as [value, low, high]."""
    plain = lambda numbers: {name: list(one) for name, one in numbers.items()}

    def one_fit(one: Fit) -> dict[str, Any]:
        spread = float(np.sqrt(np.mean(one.residuals**2)))
        return plain(one.estimates()) | {
            'objective': one.value,
            'log_standard_errors': one.standard_errors(),
            'root_mean_square_log_residual': spread,
        }

    result: dict[str, Any] = {
        'runs': len(analysis.runs),
        'fits': {name: one_fit(one) for name, one in analysis.fits.items()},
        'warnings': analysis.warnings,
    }
    if analysis.effective:
        result['fit_with_effective_tokens'] = one_fit(analysis.effective)
    for name in ('frontier', 'frontier_at_cost'):
        if (front := getattr(analysis, name)) is not None:
            result[name] = plain({'a': front.a, 'b': front.b, 'log10_n0': front.n0, 'log10_d0': front.d0}) | {
                'budgets': front.budgets.tolist(),
                'n': [list(one) for one in front.n],
                'd': [list(one) for one in front.d],
                'loss': [list(one) for one in front.loss],
            }
    if analysis.isoflop:
        iso = analysis.isoflop
        result['isoflop'] = plain({'a': iso.a, 'b': iso.b, 'log10_n0': iso.n0, 'log10_d0': iso.d0}) | {
            'profiles': [
                {'budget': p.budget, 'n': list(p.best), 'loss': list(p.loss), 'problem': p.problem}
                for p in iso.profiles
            ]
        }
    if analysis.envelope:
        result['envelope'] = plain({'a': analysis.envelope.a, 'b': analysis.envelope.b})
    result['power_laws'] = {
        x: plain({'exponent': law.exponent, 'scale': law.scale}) for x, law in analysis.power_laws.items()
    }
    if analysis.extrapolation:
        left = analysis.extrapolation
        result['leave_out_largest'] = {
            'runs': list(left.runs.names),
            'predicted': [list(one) for one in left.predicted],
            'measured': left.runs.loss.tolist(),
            'errors': left.errors.tolist(),
            'inside': left.inside,
        }
    return result
