"""The page: loss against learning rate at every width, where the optimum goes, and the coordinate check."""

import pathlib

from experiments.mup.findings import Finding, finding
from experiments.mup.plan import LABELS, Plan, checked
from llm.analysis import coordinate_check, pages, plots, units
from llm.errors import UserError
from llm.sweep import registry

CHECK_RATE = 4e-3  # small enough that nothing saturates in a few updates
CHECK_WIDTHS = (32, 64, 128, 256)


def write(out: pathlib.Path, plan: Plan) -> tuple[pathlib.Path, list[Finding]]:
    """Draws the page of a sweep's folder. Returns its path and what was found."""
    table = registry.rows(registry.open_sweep(out / 'sweep'))
    found = [finding(plan, table, parametrization) for parametrization in LABELS]
    if not all(one.curves for one in found):
        raise UserError(f'no width in {out} is done yet; go on with `python -m experiments.mup --out {out}`')
    done = [row for row in table if row['status'] == 'done']
    checks = [
        coordinate_check.coordinate_check(checked(plan, parametrization, CHECK_RATE), CHECK_WIDTHS)
        for parametrization in LABELS
    ]
    seconds = sum(row['seconds'] or 0 for row in done)
    context = {
        'subtitle': f'{len(done)} of {len(table)} runs done · {plan.steps} steps of {plan.rows * plan.length:,} tokens '
        f'· {plan.layers} layers, {plan.vocabulary:,} tokens in the vocabulary · seeds: {plan.seeds}',
        'cards': [
            *((f'slope, {one.label}', _signed(one.slope), 'of log best rate over log width') for one in found),
            *((f'carried over, {one.label}', f'{one.carried:.3f}', 'nats lost at the widest') for one in found),
            ('training', units.duration(seconds), 'all runs together'),
        ],
        'sentences': [one.sentence() + '.' for one in found],
        'sweeps': [_losses(one) for one in found],
        'optima': [_optima(found)],
        'checks': [
            coordinate_check.plot(f'After 4 updates, {label}', check)
            for label, check in zip(LABELS.values(), checks, strict=True)
        ],
        'rows': [
            {
                'label': one.label,
                'width': curve.width,
                'best': f'{curve.rates[curve.best]:.4g}',
                'optimum': f'{curve.optimum:.3g}',
                'inside': curve.inside,
                'loss': f'{min(curve.losses):.3f}',
            }
            for one in found
            for curve in one.curves
        ],
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, pathlib.Path(__file__).parent), found


def _losses(one: Finding):
    series = [
        plots.Series(f'width {curve.width}', curve.rates, curve.losses, colour=colour, marked=True)
        for colour, curve in enumerate(one.curves)
    ]
    title = f'{one.label}: loss against learning rate'
    return plots.line_plot(title, 'learning rate', 'held-out nats per token', series, log_x=True)


def _optima(found: list[Finding]):
    series = []
    for colour, one in enumerate(found):
        widths, best = [curve.width for curve in one.curves], [curve.optimum for curve in one.curves]
        name = f'{one.label}, slope {_signed(one.slope)}'
        series.append(plots.Series(name, widths, best, colour=colour, marked=True))
    axes = {'log_x': True, 'log_y': True, 'x_ticks': series[0].x}
    return plots.line_plot('The best learning rate by width', 'width', 'learning rate', series, **axes)


def _signed(value: float) -> str:
    return f'{value:+.2f}'.replace('-', '−')
