"""The report: report.html for reading, report.md for passing on, results.json for machines."""

import json
import pathlib
from typing import Any

import numpy as np

from llm.analysis import pages
from llm.analysis.scaling_laws import figures
from llm.analysis.scaling_laws.analysis import Analysis, Extrapolation, Prediction, as_json
from llm.analysis.scaling_laws.bootstrap import Estimate, number
from llm.analysis.scaling_laws.parametric import Fit
from llm.environment import code_version
from llm.workdir import write_atomically

TEMPLATE = 'scaling_laws.html.j2'
Table = tuple[str, list[str], list[list[str]], str]  # title, header, rows, what to know


def write(
    folder: pathlib.Path, analysis: Analysis, prediction: Prediction | None = None, facts: dict[str, Any] | None = None
) -> pathlib.Path:
    """Writes the three files into a folder, which is there. Returns the page.

    Args:
        folder: where.
        analysis: of the runs.
        prediction: of a run that was not fitted.
        facts: what else the page should tell, by label.

    Raises:
        MachineError: if the page cannot be written.
    """
    facts = {'code': code_version(), **(facts or {})}
    results = as_json(analysis) | {'facts': facts}
    if prediction:
        error = {} if prediction.measured is None else {'error': prediction.error}
        results['prediction'] = vars(prediction) | {'loss': list(prediction.loss)} | error
    write_atomically(folder / 'results.json', json.dumps(results, indent=1, default=float) + '\n')
    tables = [
        numbers(analysis),
        exponents(analysis),
        *([left_out(analysis.extrapolation)] if analysis.extrapolation else []),
        table_of_runs(analysis),
    ]
    says = sentences(analysis, prediction)
    write_atomically(folder / 'report.md', _markdown(says, analysis.warnings, tables, facts))
    isoflops, loss = figures.isoflops(analysis), figures.losses(analysis, prediction)
    drawn = [
        ('What a budget buys', [isoflops, loss, *figures.frontier(analysis, prediction)]),
        ('What L(N, D) does not explain; training curves', [*figures.residuals(analysis), figures.curves(analysis)]),
    ]
    context = {
        'sentences': says,
        'cards': _cards(analysis, prediction),
        'warnings': analysis.warnings,
        'plots': [(title, [plot for plot in plots if plot is not None]) for title, plots in drawn],
        'tables': tables,
        'facts': pages.facts(facts),
    }
    return pages.write_page(TEMPLATE, folder / 'report.html', context)


def sentences(analysis: Analysis, prediction: Prediction | None) -> list[str]:
    """What came of it, in words."""
    numbers, runs = analysis.fit.estimates(), analysis.runs
    said = [
        f'{len(runs)} runs, {number(runs.n.min())} to {number(runs.n.max())} parameters on {number(runs.d.min())} to '
        f'{number(runs.d.max())} tokens: L(N, D) = {number(numbers["E"].value)} + {number(numbers["A"].value)} / '
        f'N^{number(numbers["alpha"].value)} + {number(numbers["B"].value)} / D^{number(numbers["beta"].value)}, which '
        f'misses a run by {np.sqrt(np.mean(analysis.fit.residuals**2)):.2%} (root mean square).',
    ]
    if left := analysis.extrapolation:
        worst = left.errors[np.argmax(np.abs(left.errors))]
        said.append(
            f'Fitted without the {len(left.runs)} runs that cost most, the law misses these by '
            f'{np.abs(left.errors).mean():.2%} on average, {worst:+.2%} at worst; '
            f'{left.inside} of {len(left.runs)} lie in their 95% intervals.'
        )
    if prediction:
        text = f'Predicted for {prediction.name}: {prediction.loss}.'
        if prediction.measured is not None:
            held = 'inside' if prediction.loss.holds(prediction.measured) else 'outside'
            text += (
                f' Measured: {number(prediction.measured)}; the prediction is off by {prediction.error:+.2%}, the loss '
                f'is {held} the 95% interval. A power law in C alone said {number(prediction.by_power_law)}.'
            )
        said.append(text + (f' ({prediction.beyond}.)' if prediction.beyond else ''))
    return said


def _cards(analysis: Analysis, prediction: Prediction | None) -> list[tuple[str, str, str]]:
    numbers = analysis.fit.estimates()
    front = analysis.frontier_at_cost or analysis.frontier
    interval = lambda one: f'{number(one.low)} to {number(one.high)}'
    cards = [(name, number(numbers[name].value), interval(numbers[name])) for name in ('E', 'alpha', 'beta')]
    cards.append(('a, of N*(C)', number(front.a.value), interval(front.a)))
    if analysis.isoflop:
        cards.append(('a, by IsoFLOP', number(analysis.isoflop.a.value), interval(analysis.isoflop.a)))
    if prediction and prediction.measured is not None:
        cards.append(('error, held-out run', f'{prediction.error:+.2%}', f'measured {number(prediction.measured)}'))
    return cards


def numbers(analysis: Analysis) -> Table:
    """Every number of the law, however parameters are counted."""
    header = ['number', *analysis.fits]
    fits: list[Fit] = list(analysis.fits.values())
    if analysis.effective:
        header.append('repeated tokens at their worth')
        fits.append(analysis.effective)
    every = [one.estimates() for one in fits]
    rows = [[_NAMES[name], *(str(one[name]) for one in every)] for name in _NAMES]
    errors = [one.standard_errors() for one in fits]
    rows += [[f'standard error of log {name}', *(number(one[name]) for one in errors)] for name in 'EAB']
    rows.append(['root mean square of log-residuals', *(number(np.sqrt(np.mean(one.residuals**2))) for one in fits)])
    note = '95% intervals: percentiles of a Bayesian bootstrap over runs. Loss in nats per token.'
    return 'L(N, D) = E + A / N^α + B / D^β', header, rows, note


_NAMES = {'E': 'E', 'A': 'A', 'alpha': 'α', 'B': 'B', 'beta': 'β', 'a': 'a = β / (α + β)', 'b': 'b = α / (α + β)'}


def exponents(analysis: Analysis) -> Table:
    """N* = N0 C^a and D* = D0 C^b by each method, and Kaplan's power laws."""
    rows = []

    def add(name: str, a: Estimate, b: Estimate, n0: Estimate | None = None, d0: Estimate | None = None) -> None:
        rows.append([name, str(a), str(b), str(n0) if n0 else '—', str(d0) if d0 else '—'])

    front, at_cost = analysis.frontier, analysis.frontier_at_cost
    add('3: L(N, D), C = 6 N D', front.a, front.b, front.n0, front.d0)
    if at_cost:
        add('3: L(N, D), FLOPs as counted', at_cost.a, at_cost.b, at_cost.n0, at_cost.d0)
    if iso := analysis.isoflop:
        add('2: IsoFLOP profiles', iso.a, iso.b, iso.n0, iso.d0)
    if hull := analysis.envelope:
        add('1: envelope of training curves', hull.a, hull.b)
    for x, law in analysis.power_laws.items():
        rows.append([f'loss = ({x}0 / {x})^k: k, {x}0', str(law.exponent), '', str(law.scale), ''])
    note = (
        'With FLOPs as counted the frontier is no exact power law: the exponents are of the straight line from the '
        'smallest budget to ten times the largest. Power laws in one variable go through the runs that no run with '
        'less of it beats, and have no E.'
    )
    return 'Compute-optimal exponents', ['method', 'a of N*(C)', 'b of D*(C)', 'log10 N0', 'log10 D0'], rows, note


def left_out(extrapolation: Extrapolation) -> Table:
    """The largest runs, against a law fitted without them."""
    rows = [
        [name, str(one), number(loss), f'{error:+.2%}', 'yes' if one.holds(loss) else 'no']
        for name, one, loss, error in zip(
            *(extrapolation.runs.names, extrapolation.predicted, extrapolation.runs.loss, extrapolation.errors),
            strict=True,
        )
    ]
    header = ['run', 'predicted', 'measured', 'error', 'inside']
    return (
        'The largest runs, left out of the fit',
        header,
        rows,
        'Intervals are for one run: the law’s and the scatter’s.',
    )


def table_of_runs(analysis: Analysis) -> Table:
    """What was fitted."""
    runs = analysis.runs
    header = ['run', *(f'N {name}' for name in runs.counts), 'D', 'epochs', 'C', 'loss', 'by L(N, D)', 'residual']
    fitted = analysis.fit.law.loss(runs.n, runs.d)
    rows = []
    for i, name in enumerate(runs.names):
        counts = [f'{values[i]:,.0f}' for values in runs.counts.values()]
        place = [f'{runs.d[i]:,.0f}', number(runs.d[i] / runs.unique[i]), f'{runs.flops[i]:.3g}']
        residual = f'{np.expm1(analysis.fit.residuals[i]):+.2%}'
        rows.append([name, *counts, *place, f'{runs.loss[i]:.4f}', f'{fitted[i]:.4f}', residual])
    return 'The runs', header, rows, 'C in FLOPs. Epochs: tokens read over unique tokens.'


def _markdown(says: list[str], warnings: list[str], tables: list[Table], facts: dict[str, Any]) -> str:
    lines = ['# Scaling laws', '', *(f'{sentence}\n' for sentence in says)]
    if warnings:
        lines += ['## Warnings', '', *(f'- {warning}' for warning in warnings), '']
    for title, header, rows, note in tables:
        lines += [f'## {title}', '', '| ' + ' | '.join(header) + ' |', '|' + '---|' * len(header)]
        lines += ['| ' + ' | '.join(row) + ' |' for row in rows]
        lines += ['', note, '']
    lines += ['## Settings', '', *(f'- {label}: {value}' for label, value in pages.facts(facts)), '']
    return '\n'.join(lines)
