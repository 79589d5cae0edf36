"""The page, the table on stdout and the JSON of what was measured."""

import pathlib
from typing import Any

from experiments.objectives.measure import LEFT
from experiments.objectives.plan import CAUSAL
from llm.analysis import pages, plots, statistics, units

HERE = pathlib.Path(__file__).parent
HEADER = (
    '',
    'right span found',
    'against causal, over seeds',
    'p (Holm)',
    'over gaps',
    'bits per byte',
    'parameters',
    'asked per window',
    'FLOPs',
)


def write(results: dict[str, Any], out: pathlib.Path) -> pathlib.Path:
    """Writes `report.html` and `results.json` into a folder.

    Raises:
        MachineError: if they cannot be written.
    """
    pages.write_results(out, results)
    spans = [
        plots.Span(row['arm'], 100 * row['accuracy']['mean'], *_ends(row['accuracy'], 100)) for row in results['rows']
    ]
    context = {
        'results': results,
        'chance': f'{1 / results["choices"]:.1%}',
        'claims': claims(results),
        'header': HEADER,
        'rows': [[row['how'], *cells] for row, cells in zip(results['rows'], table(results), strict=True)],
        'figure': plots.interval_plot('Right span found', 'percent of gaps, mean over seeds', spans),
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, folder=HERE)


def text(results: dict[str, Any]) -> str:
    """The table and what it says, for a terminal."""
    lines = [units.table(list(HEADER), table(results)), '']
    lines.append(
        f'{results["gaps"]} gaps of {results["gap_length"]} tokens, {results["choices"]} spans to choose from: chance '
        f'is {1 / results["choices"]:.1%}. Paired seeds: {results["seeds"]}; steps: {results["steps"]}.'
    )
    return '\n'.join([*lines, *claims(results)])


def table(results: dict[str, Any]) -> list[list[str]]:
    rows = []
    for row in results['rows']:
        difference = row['difference']
        bits = row['bits_per_byte']
        rows.append(
            [
                row['arm'],
                _percent(row['accuracy']),
                '' if difference is None else _percent(difference, signed=True),
                '' if difference is None or difference['p_holm'] is None else statistics.p_text(difference['p_holm']),
                '' if row['over_gaps'] is None else _percent(row['over_gaps'], signed=True),
                'not defined' if bits is None else f'{bits["mean"]:.3f}',
                f'{row["parameters"]:,}',
                f'{row["guessed_per_window"]:.0f}',
                units.flops(row['flops']),
            ]
        )
    return rows


def claims(results: dict[str, Any]) -> list[str]:
    """What the numbers say, in sentences that depend on them."""
    rows = {row['arm']: row for row in results['rows']}
    told, open_ = [], []
    for arm, row in rows.items():
        difference = row['difference']
        if difference is None:
            continue
        if difference['p_holm'] is None or difference['p_holm'] >= 0.05:
            open_.append(arm)
            continue
        points, more = 100 * difference['mean'], 'more' if difference['mean'] > 0 else 'less'
        told.append(
            f'{arm} finds the right span {_percent(row["accuracy"])}, {abs(points):.1f} points {more} often than the '
            'causal model.'
        )
    said = told
    if open_:
        seeds = f'{results["seeds"]} seed{"s" * (results["seeds"] != 1)}'
        said.append(f'With {seeds} these differences from causal may be those of single runs: {"; ".join(open_)}.')
    surer = [
        f'{arm} {_percent(row["over_gaps"], signed=True)}'
        for arm, row in rows.items()
        if row['over_gaps'] is not None
        and row['over_gaps']['low'] is not None
        and (row['over_gaps']['low'] > 0 or row['over_gaps']['high'] < 0)
    ]
    if surer:
        said.append(f'Of these very runs, over gaps, these differ from the causal ones: {"; ".join(surer)}.')
    best = max(rows.values(), key=lambda row: row['accuracy']['mean'])
    said.append(f'The best mean is that of {best["arm"]}: {_percent(best["accuracy"])}.')
    if LEFT in rows:
        gain = rows[CAUSAL]['accuracy']['mean'] - rows[LEFT]['accuracy']['mean']
        said.append(
            f'A causal model that weighs what follows finds {100 * gain:+.1f} points more than from the left alone, at '
            'the price of reading the text once for each span.'
        )
    return said


def _percent(interval: dict[str, Any], signed: bool = False) -> str:
    """A share with its interval, if there is one."""
    mark = '+' if signed else ''
    low, high = interval['low'], interval['high']
    middle = f'{100 * interval["mean"]:{mark}.1f}%'
    return middle if low is None else f'{middle} ({100 * low:{mark}.1f} to {100 * high:{mark}.1f})'


def _ends(interval: dict[str, Any], factor: float) -> tuple[float | None, float | None]:
    return tuple(None if interval[name] is None else factor * interval[name] for name in ('low', 'high'))
