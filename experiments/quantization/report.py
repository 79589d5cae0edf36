"""The page: what each precision costs in bits per byte, and what it saves in memory and time."""

import json
import pathlib
from typing import Any

from experiments.quantization.plan import PRECISIONS
from llm.analysis import pages, plots, statistics, units
from llm.analysis.statistics import Interval
from llm.benchmark import measure as timing
from llm.workdir import write_atomically

EXACT = PRECISIONS[0]


def write(out: pathlib.Path, results: dict[str, Any]) -> pathlib.Path:
    """Writes results.json and report.html.

    Args:
        out: the folder.
        results: `models`: for each name its `parameters`, `bytes` and `times` by precision, and `costs`, a list with
            a model of each seed, empty for random weights.
    """
    write_atomically(out / 'results.json', json.dumps(results, indent=1) + '\n')
    context = {
        'rows': rows(results),
        'sentences': sentences(results),
        'cost': cost_plot(results),
        'plots': [plot for plot in (_speed(results, 'token'), _speed(results, 'prompt'), _memory(results)) if plot],
        'facts': pages.facts(results['facts']),
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, pathlib.Path(__file__).parent)


def cost(model: dict[str, Any], precision: str) -> Interval | None:
    """The mean difference to float32 over seeds with Student's interval; of one model, its interval over documents."""
    found = [one[precision] for one in model['costs']]
    if not found:
        return None
    if len(found) == 1:
        return Interval(found[0]['difference'], found[0]['low'], found[0]['high'])
    return statistics.mean_interval([one['difference'] for one in found])


def faster(model: dict[str, Any], precision: str, what: str) -> tuple[float, float, float]:
    """How many times as fast as float32, by medians, with a bootstrap interval."""
    return timing.ratio(model['times'][EXACT][what], model['times'][precision][what])


def rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One for each model and precision."""
    found = []
    for name, model in results['models'].items():
        for precision in PRECISIONS:
            interval = cost(model, precision)
            bits = [one[precision]['bits_per_byte'] for one in model['costs']]
            seconds = timing.summary(model['times'][precision]['token'])
            found.append(
                {
                    'model': name if precision == EXACT else '',
                    'parameters': units.count(model['parameters']) if precision == EXACT else '',
                    'precision': precision,
                    'bits': f'{sum(bits) / len(bits):.4f}' if bits else '',
                    'cost': '' if interval is None or precision == EXACT else signed(interval),
                    'size': units.size(model['bytes'][precision]),
                    'share': f'{model["bytes"][precision] / model["bytes"][EXACT]:.2f}',
                    'token': f'{1000 * seconds["median"]:.3g} ms',
                    'faster': '' if precision == EXACT else _times(faster(model, precision, 'token')),
                    'prompt': '' if precision == EXACT else _times(faster(model, precision, 'prompt')),
                }
            )
    return found


def sentences(results: dict[str, Any]) -> list[str]:
    """What may be said, a line for each precision."""
    said = []
    trained = {name: model for name, model in results['models'].items() if model['costs']}
    for precision in PRECISIONS[1:]:
        parts = [f'{name} {signed(cost(model, precision))}' for name, model in trained.items()]
        smaller = [model['bytes'][EXACT] / model['bytes'][precision] for model in results['models'].values()]
        least, most = f'{min(smaller):.1f}', f'{max(smaller):.1f}'
        size = f'{least} times' if least == most else f'{least} to {most} times'
        said.append(
            f'{precision}: weights take {size} less memory; bits per byte: {", ".join(parts) or "not measured"}.'
        )
    return said


def signed(interval: Interval) -> str:
    """A difference with its interval, if it has one."""
    one = lambda value: f'{value:+.4f}'.replace('-', '−')
    if interval.low is None:
        return one(interval.mean)
    return f'{one(interval.mean)} [{one(interval.low)}, {one(interval.high)}]'


def _times(found: tuple[float, float, float]) -> str:
    return '{:.2f} [{:.2f}, {:.2f}]'.format(*found)


def cost_plot(results: dict[str, Any]) -> Any:
    spans = []
    for name, model in results['models'].items():
        for colour, precision in enumerate(PRECISIONS):
            interval = cost(model, precision)
            if interval is not None and precision != EXACT:
                points = [one[precision]['difference'] for one in model['costs']]
                spans.append(plots.Span(f'{name}, {precision}', *interval, points, colour))
    title = 'Cost of rounding, with 95% intervals'
    return plots.interval_plot(title, f'bits per byte more than {EXACT}', spans) if spans else None


def _speed(results: dict[str, Any], what: str) -> Any:
    title = {'token': 'Time of a token', 'prompt': 'Time to read a prompt'}[what]
    return _by_size(results, title, 'milliseconds', lambda m, p: 1000 * timing.summary(m['times'][p][what])['median'])


def _memory(results: dict[str, Any]) -> Any:
    return _by_size(results, 'Memory of the weights', 'MB', lambda m, p: m['bytes'][p] / 1e6)


def _by_size(results, title, unit, value):
    models = sorted(results['models'].values(), key=lambda model: model['parameters'])
    if len({model['parameters'] for model in models}) < 2:
        return None
    sizes = [model['parameters'] for model in models]
    series = [
        plots.Series(precision, sizes, [value(model, precision) for model in models], colour=colour, marked=True)
        for colour, precision in enumerate(PRECISIONS)
    ]
    return plots.line_plot(title, 'parameters', unit, series, log_x=True, log_y=True)


def table(results: dict[str, Any]) -> str:
    """The rows for a terminal."""
    header = ['model', 'parameters', 'precision', 'bits/byte', 'more than float32', 'weights', 'token', 'times as fast']
    names = ('model', 'parameters', 'precision', 'bits', 'cost', 'size', 'token', 'faster')
    return units.table(header, [[row[name] for name in names] for row in rows(results)], left=3)
