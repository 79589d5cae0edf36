"""A sweep as one page: the runs in a table, what each axis does to the result, and the curves."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm.analysis import pages, plots
from llm.analysis.measures import MEASURES
from llm.sweep.registry import QUIET, Run

SEEDS = ('seed', 'data.seed')
MOST_CURVES = 16  # runs whose curves are drawn, evenly spread over the table
_AROUND = ('name', 'status', 'step', 'steps')  # columns before those of the axes, which end at `parameters`


def write(runs: Sequence[Run], table: Sequence[Mapping[str, Any]], folder: pathlib.Path) -> pathlib.Path:
    """Writes sweep.html.

    Args:
        runs: of the sweep.
        table: `llm.sweep.registry.rows` of them.
        folder: of the sweep.
    """
    measure = MEASURES[runs[0].workdir.config().objective.kind][0]
    column = f'held_out.{measure.key}'
    shown = [name for name in table[0] if name not in QUIET and any(row[name] is not None for row in table)]
    counts = [row['status'] for row in table]
    context = {
        'title': folder.resolve().name,
        'standing': ', '.join(f'{counts.count(status)} {status}' for status in dict.fromkeys(counts)),
        'columns': shown,
        'rows': [[_cell(row[name]) for name in shown] for row in table],
        'folders': [f'runs/{run.key}' for run in runs],
        'messages': [(row['name'], row['message']) for row in table if row['failures'] and row['status'] != 'done'],
        'plots': [*_axes(table, column, measure), *_curves(runs)],
    }
    return pages.write_page('sweep.html.j2', folder / 'sweep.html', context)


def varied(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields of the config in which the runs differ, but for their seeds."""
    names = list(table[0])
    return [name for name in names[len(_AROUND) : names.index('parameters')] if name not in SEEDS]


def _axes(table: Sequence[Mapping[str, Any]], column: str, measure: Any) -> list:
    """The result against each field that takes numbers: a line for each setting of the others, a band over seeds."""
    fields, drawn = varied(table), []
    done = [row for row in table if row.get(column) is not None]
    for field in fields:
        numbers = [row[field] for row in done if isinstance(row[field], int | float)]
        if len(set(numbers)) < 2:
            continue
        others = [name for name in fields if name != field]
        lines: dict[str, dict[float, list[float]]] = {}
        for row in done:
            if isinstance(row[field], int | float):
                label = ', '.join(f'{name.split(".")[-1]} {json.dumps(row[name])}' for name in others)
                lines.setdefault(label, {}).setdefault(row[field], []).append(row[column])
        if any(len(points) < 2 for points in lines.values()):
            continue  # fields that move together have no line of their own
        series = []
        for colour, (label, points) in enumerate(lines.items()):
            x = sorted(points)
            ends = [min(points[at]) for at in x], [max(points[at]) for at in x]
            mean = [float(np.mean(points[at])) for at in x]
            series.append(plots.Series(label or measure.name, x, mean, colour=colour, marked=True, band=ends))
        wide = min(numbers) > 0 and max(numbers) / min(numbers) >= 8
        title = f'{measure.name} by {field}'
        drawn.append(plots.line_plot(title, field, measure.unit or measure.name, series, log_x=wide))
    return drawn


def _curves(runs: Sequence[Run]) -> list:
    """Training loss by step, of at most so many runs."""
    chosen = [runs[i] for i in sorted({round(i) for i in np.linspace(0, len(runs) - 1, MOST_CURVES)})]
    series = []
    for colour, run in enumerate(chosen):
        rows = [row for row in run.workdir.rows('train') if row.get('loss') is not None]
        if rows:
            x, y = [row['step'] for row in rows], [row['loss'] for row in rows]
            series.append(plots.Series(run.name, x, y, colour=colour))
    some = f' ({len(chosen)} of {len(runs)} runs)' if len(chosen) < len(runs) else ''
    return [plots.line_plot(f'Training loss by step{some}', 'step', 'loss', series, log_y=True)] if series else []


def _cell(value: Any) -> str:
    if value is None:
        return '–'
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else json.dumps(value)
    return f'{value:,}' if isinstance(value, int) else f'{value:.5g}'
