"""Runs side by side: what was set differently, and what came of it."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm import config_json
from llm.analysis import pages, plots, units
from llm.config import Config
from llm.errors import UserError
from llm.workdir import Workdir


@dataclass(frozen=True)
class Run:
    """One workdir, read."""

    label: str  # the shortest end of its path that tells it from the others
    config: Config
    summary: dict[str, Any]
    train: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]

    def measured(self) -> dict[str, Any]:
        """What came of the run, by the names of `COLUMNS`; None where it is not known (yet)."""
        last = self.train[-1] if self.train else {}
        held_out = self.summary.get('held_out') or (self.evaluation[-1] if self.evaluation else {})
        latest = lambda name: self.summary.get(name, last.get(name))
        return {
            'status': self.summary.get('status'),
            'steps': latest('step'),
            'parameters': self.summary.get('parameters'),
            'tokens': latest('tokens'),
            'training loss': last.get('loss'),
            'held-out loss': held_out.get('loss'),
            'perplexity': held_out.get('perplexity'),
            'bits per byte': held_out.get('bits_per_byte'),
            'tokens/s': latest('tokens_per_second'),
            'training time': latest('seconds'),
        }


COLUMNS: dict[str, Callable[[Any], str]] = {
    'status': str,
    'steps': '{:,}'.format,
    'parameters': units.count,
    'tokens': units.count,
    'training loss': '{:.4f}'.format,
    'held-out loss': '{:.4f}'.format,
    'perplexity': '{:.2f}'.format,
    'bits per byte': '{:.4f}'.format,
    'tokens/s': '{:,.0f}'.format,
    'training time': units.duration,
}
ABSENT = '–'
# Where less, or more, is better. Loss and perplexity are per token: they say which is better only under one tokenizer.
_BEST: dict[str, Callable] = {'bits per byte': min, 'tokens/s': max}


def open_runs(paths: Sequence[str | os.PathLike]) -> list[Run]:
    """Reads the runs to compare.

    Raises:
        UserError: for fewer than two, the same one twice, or one that is not there.
    """
    if len(paths) < 2:
        raise UserError(f'compare needs at least two workdirs, not {len(paths)}: python -m llm compare DIR DIR ...')
    resolved = [pathlib.Path(path).resolve() for path in paths]
    for path in resolved:
        if resolved.count(path) > 1:
            raise UserError(f'{path} is named twice; compare takes different workdirs')
    runs = []
    for path, label in zip(paths, _labels(resolved), strict=True):
        workdir = Workdir.open(path)
        runs.append(Run(label, workdir.config(), workdir.summary(), workdir.rows('train'), workdir.rows('evaluation')))
    return runs


def _labels(paths: list[pathlib.Path]) -> list[str]:
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        labels = ['/'.join(path.parts[-depth:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    raise AssertionError('distinct paths have distinct labels')


def config_difference(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The fields in which the configs are not all equal, in the config's order.

    Returns:
        {dotted name: each run's value as JSON}, with a dash for a run that has no such field, as another optimizer.
    """
    flat = [config_json.flatten(run.config) for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one))
    sections = list(dict.fromkeys(name.split('.')[0] for name in names))
    names.sort(key=lambda name: sections.index(name.split('.')[0]))
    values = {
        name: [json.dumps(one[name], ensure_ascii=False) if name in one else ABSENT for one in flat] for name in names
    }
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def text_table(runs: Sequence[Run]) -> str:
    """The comparison for a terminal: the configs' difference, then a line per run."""
    difference = [[name, *row] for name, row in config_difference(runs).items()]
    parts = [units.table(['run', *COLUMNS], [[run.label, *_cells(run)] for run in runs], left=2)]
    if difference:
        parts.insert(0, units.table(['config', *[run.label for run in runs]], difference))
    else:
        parts.insert(0, 'The configs are equal.')
    return '\n\n'.join(parts)


def write_comparison(runs: Sequence[Run], out: str | os.PathLike) -> pathlib.Path:
    """Writes the comparison as one self-contained HTML page.

    Raises:
        UserError: if the page's folder does not exist.
        MachineError: if the page cannot be written.
    """
    out = pathlib.Path(out)
    if not out.parent.is_dir():
        raise UserError(f'there is no folder {out.parent} to write {out.name} into; make it, or choose another --out')
    context = {
        'labels': [run.label for run in runs],
        'difference': config_difference(runs),
        'columns': list(COLUMNS),
        'rows': _rows(runs),
        'plots': _plots(runs),
        'num_colours': plots.NUM_COLOURS,
    }
    return pages.write_page('compare.html.j2', out, context)


def _cells(run: Run) -> list[str]:
    measured = run.measured()
    return [ABSENT if measured[name] is None else show(measured[name]) for name, show in COLUMNS.items()]


def _rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    best = {}
    for name, choose in _BEST.items():
        values = [run.measured()[name] for run in runs if run.measured()[name] is not None]
        best[name] = choose(values) if len(set(values)) > 1 else None
    rows = []
    for run in runs:
        measured = run.measured()
        cells = [
            {'text': text, 'best': measured[name] is not None and measured[name] == best.get(name)}
            for name, text in zip(COLUMNS, _cells(run), strict=True)
        ]
        rows.append({'label': run.label, 'cells': cells})
    return rows


def _plots(runs: Sequence[Run]) -> list:
    """The curves that at least one run has, each run in its colour."""

    def draw(title, x_label, y_label, curve, marked=False, **axes):
        series = []
        for colour, run in enumerate(runs):
            x, y = curve(run)
            if any(value is not None for value in y):
                series.append(plots.Series(run.label, x, y, colour=colour, marked=marked))
        return [plots.line_plot(title, x_label, y_label, series, **axes)] if series else []

    def train(y, x):
        return lambda run: ([row[x] for row in run.train], [row.get(y) for row in run.train])

    def held_out(y, x):
        return lambda run: (_at(run, x), [row.get(y) for row in run.evaluation])

    drawn = []
    for name, x, x_label in (
        ('step', 'step', 'step'),
        ('tokens', 'tokens', 'tokens trained on'),
        ('compute', 'flops', 'training FLOPs'),
        ('time', 'seconds', 'seconds of training'),
    ):
        drawn += draw(f'Training loss by {name}', x_label, 'nats per token', train('loss', x), log_y=True)
        curve = held_out('bits_per_byte', x)
        drawn += draw(f'Held-out bits per byte by {name}', x_label, 'bits per byte', curve, marked=True)
    throughput = train('tokens_per_second', 'seconds')
    return drawn + draw('Throughput', 'seconds of training', 'tokens per second', throughput, from_zero=True)


def _at(run: Run, x: str) -> list[float]:
    """Where each evaluation stands on another axis than the step, between the training rows around it."""
    steps = [row['step'] for row in run.evaluation]
    if x == 'step' or not run.train:
        return steps
    return list(np.interp(steps, [0, *[row['step'] for row in run.train]], [0, *[row[x] for row in run.train]]))
