"""The plots of the report."""

from itertools import pairwise

import numpy as np
from markupsafe import Markup

from llm.analysis.plots import NUM_COLOURS, Series, line_plot
from llm.analysis.scaling_laws.analysis import Analysis, Prediction
from llm.analysis.scaling_laws.bootstrap import Estimate
from llm.analysis.scaling_laws.frontier import FLOPS
from llm.analysis.scaling_laws.isoflop import groups

SIZE, COST, LOSS = 'parameters N', 'training FLOPs C', 'held-out loss, nats per token'


def isoflops(analysis: Analysis) -> Markup | None:
    """Loss against N at each budget, with its parabola and lowest point."""
    if analysis.isoflop is None:
        return None
    series, n, loss = [], analysis.runs.n, analysis.runs.loss
    for i, profile in enumerate(analysis.isoflop.profiles):
        at = profile.runs
        name = f'{profile.budget:.2g} FLOPs'.replace('e+', 'e')
        series.append(Series(name, n[at], loss[at], colour=i % NUM_COLOURS, line=False))
        x = np.geomspace(n[at].min() / 1.2, n[at].max() * 1.2, 60)
        series.append(Series(name, x, profile.losses(x), colour=i % NUM_COLOURS, legend=False))
    good = [one for one in analysis.isoflop.profiles if not one.problem]
    if good:
        best = [one.best.value for one in good], [one.loss.value for one in good]
        series.append(Series('lowest points', *best, colour=6, dashed=True, marked=True))
    return line_plot('IsoFLOP profiles and their parabolas', SIZE, LOSS, series, log_x=True)


def frontier(analysis: Analysis, prediction: Prediction | None) -> list[Markup]:
    """The compute-optimal N and D against C, by each method."""
    front = analysis.frontier_at_cost or analysis.frontier
    lines = []
    for which, label in (('n', SIZE), ('d', 'tokens D')):
        estimates: list[Estimate] = getattr(front, which)
        middle = [one.value for one in estimates]
        band = [one.low for one in estimates], [one.high for one in estimates]
        series = [Series('L(N, D)', front.budgets, middle, colour=0, band=band)]
        if analysis.isoflop:
            good = [one for one in analysis.isoflop.profiles if not one.problem]
            cost = analysis.runs.cost(analysis.runs.n) or (lambda n: FLOPS * n)
            values = [p.best.value if which == 'n' else p.budget / float(cost(p.best.value)) for p in good]
            if good:
                series.append(Series('IsoFLOP profiles', [p.budget for p in good], values, colour=1, line=False))
        if analysis.envelope:
            hull = analysis.envelope
            series.append(Series('training curves', hull.budgets, getattr(hull, which), colour=2, dashed=True))
        if prediction:
            series.append(
                Series('held-out run', [prediction.flops], [getattr(prediction, which)], colour=3, line=False)
            )
        lines.append(line_plot(f'Compute-optimal {label}', COST, label, series, log_x=True, log_y=True))
    return lines


def losses(analysis: Analysis, prediction: Prediction | None) -> Markup:
    """Lowest loss against C: the runs, the law's frontier, the power law, and the held-out run."""
    runs, front = analysis.runs, analysis.frontier_at_cost or analysis.frontier
    middle = [one.value for one in front.loss]
    series = [
        Series('runs', runs.flops, runs.loss, colour=0, line=False),
        Series(
            *('best by L(N, D)', front.budgets, middle, 0),
            band=([one.low for one in front.loss], [one.high for one in front.loss]),
        ),
    ]
    if line := analysis.power_laws.get('C'):
        series.append(Series('power law in C', front.budgets, line(front.budgets), colour=1, dashed=True))
    if prediction:
        series.append(Series('held-out run, predicted', [prediction.flops], [prediction.loss.value], 3, line=False))
        if prediction.measured is not None:
            series.append(Series('held-out run, measured', [prediction.flops], [prediction.measured], 4, line=False))
    return line_plot('Loss against cost', COST, LOSS, series, log_x=True, log_y=True)


def residuals(analysis: Analysis) -> list[Markup]:
    """Measured over predicted loss against what the law knows, N and D, a colour for each budget."""
    runs, percent = analysis.runs, 100 * np.expm1(analysis.fit.residuals)
    parts = groups(runs.flops)
    many = len(parts) > NUM_COLOURS
    plots = []
    for label, x in ((SIZE, runs.n), ('tokens D', runs.d)):
        ends = [x.min(), x.max()]
        series = [Series('0', ends, [0, 0], colour=7, dashed=True, legend=False)]
        if many:
            series.append(Series('runs', x, percent, line=False))
        else:
            for i, at in enumerate(parts):
                name = f'{runs.flops[at].mean():.2g} FLOPs'.replace('e+', 'e')
                series.append(Series(name, x[at], percent[at], colour=i, line=False))
        title = f'Residuals of L(N, D) against {label}'
        plots.append(line_plot(title, label, 'measured − predicted, %', series, log_x=True))
    return plots


def curves(analysis: Analysis) -> Markup | None:
    """Training curves under each other, and the envelope that was used."""
    if analysis.envelope is None:
        return None
    hull = analysis.envelope
    series = [
        Series('runs', curve.flops, _calm(curve.loss), colour=0, legend=i == 0)
        for i, curve in enumerate(analysis.runs.curves)
    ]
    cuts = [0, *(np.flatnonzero(np.diff(hull.budgets) > 1.2 * hull.budgets[:-1]) + 1), len(hull.budgets)]
    for i, (start, stop) in enumerate(pairwise(cuts)):
        part = slice(start, stop)
        series.append(Series('envelope', hull.budgets[part], hull.loss[part], colour=1, legend=i == 0))
    return line_plot('Training curves and their envelope', COST, 'training loss', series, log_x=True, log_y=True)


def _calm(loss: np.ndarray) -> np.ndarray:
    """A mean over nine logged batches, which scatter."""
    width = min(9, len(loss))
    padded = np.pad(loss, (width // 2, width - 1 - width // 2), mode='edge')
    return np.convolve(padded, np.full(width, 1 / width), mode='valid')
