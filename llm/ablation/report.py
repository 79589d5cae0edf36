"""The page of an ablation, and the same in Markdown: the answer, what it rests on, and what to beware of."""

import json
import pathlib
from typing import Any

from markupsafe import Markup

from llm.ablation import curves
from llm.ablation.plan import METRIC, UNIT
from llm.ablation.results import Arm, Comparison, Results, best_factor
from llm.ablation.warnings import warnings
from llm.analysis import memory, pages, plots, units
from llm.analysis.statistics import number, p_text
from llm.config_json import config_hash
from llm.sweep import forecast
from llm.workdir import write_atomically

ABSENT = '–'
MARKS = {'better': 'done', 'worse': 'failed', 'not distinguishable': 'neutral', 'untested': 'interrupted'}
STATISTICS = (
    'Seeds are paired: runs of one seed read the same data in the same order and start from the same weights wherever '
    'shapes agree. The difference is the arm less the base, seed by seed; lower is better. Interval: 95%, Student’s t '
    'over the paired seeds, each arm by itself. Bootstrap: expanded percentile interval (Hesterberg 2015), which can '
    'hardly reach beyond the differences seen, so with few seeds it is a second opinion. p: paired t test, two-sided; '
    'p Holm: corrected over all arms of this question, and what verdicts rest on (5%). Effect: mean difference in '
    'standard deviations of the differences (d_z) with Hedges’ correction. Seeds needed: for 80% power at this '
    'effect, at the level that Holm’s correction asks of the smallest of the p values; from few seeds a rough guess.'
)
BYTES = (
    'Measured in bits per byte of all held-out documents after the last step: a loss per token is of another unit '
    'under another tokenizer, and a byte is the same for all arms.'
)
COSTS = (
    'Training FLOPs count matrix products and causal attention, forward and backward. Memory is predicted, of one '
    'run’s training step. Tokens/s is the median over the seeds, on whatever else the machine was doing; of runs that '
    'were trained together in one program (“together”) it is what all of them reached at once, and not to be held '
    'against runs that were trained alone. `python -m llm benchmark` measures speed.'
)


def write(results: Results) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes report.html, report.md and results.json into the ablation's folder. Returns the first two.

    Raises:
        MachineError: if the page cannot be written.
    """
    tables = {
        'difference': _differences(results),
        'changes': _changes(results),
        'cost': _costs(results),
        'tuning': _tuning(results),
        'runs': _runs(results),
    }
    text = {'statistics': STATISTICS, 'bytes': BYTES, 'costs': COSTS}
    beware = warnings(results)
    context = {
        'results': results,
        'verdicts': [(one, MARKS[one.outcome], _anchor(one.arm)) for one in results.comparisons],
        'warnings': beware,
        'tables': tables,
        'text': text,
        'forest': _forest(results),
        'curves': curves.draw(results),
        'anchors': {arm.label: _anchor(arm) for arm in results.arms},
    }
    html = pages.write_page('ablation.html.j2', results.folder / 'report.html', context)
    markdown = results.folder / 'report.md'
    write_atomically(markdown, _markdown(results, tables, text, beware))
    write_atomically(results.folder / 'results.json', json.dumps(as_json(results), indent=1) + '\n')
    return html, markdown


def as_json(results: Results) -> dict[str, Any]:
    """The verdicts with every number behind them, and the runs behind those."""
    return {
        'schema_version': 1,
        **results.plan,
        'summary': results.summary,
        'metric': METRIC,
        'comparisons': {
            one.arm.label: {
                'outcome': one.outcome,
                'verdict': one.verdict,
                'p_holm': one.p_holm,
                'difference': one.difference and one.difference._asdict(),
                'changed': one.changed,
            }
            for one in results.comparisons
        },
        'runs': {
            arm.label: [
                {name: row.get(name) for name in ('name', 'status', METRIC, *_TRACE)} | {'workdir': _relative(arm, i)}
                for i, row in enumerate(arm.rows)
            ]
            for arm in results.arms
        },
    }


def _forest(results: Results) -> Markup | None:
    spans = [
        plots.Span(one.arm.label, one.difference.mean, one.difference.low, one.difference.high, _pairs(results, one), i)
        for i, one in enumerate(results.comparisons, start=1)
        if one.difference is not None
    ]
    if not spans:
        return None
    return plots.interval_plot(
        f'Difference to {results.base.label}, with 95% intervals', f'{UNIT}; left is better', spans
    )


def _pairs(results: Results, one: Comparison) -> list[float]:
    return [a - b for a, b in zip(one.arm.values, results.base.values, strict=True)]


Table = tuple[list[str], list[list[Any]]]  # a header, and rows of as many cells


def _differences(results: Results) -> Table:
    header = ['arm', UNIT, 'difference', '95% interval', 'bootstrap', 'p', 'p Holm', 'effect', 'seeds needed']
    rows = [[results.base.label, _mean(results.base), *[''] * 7]]
    for one in results.comparisons:
        d = one.difference
        cells = [ABSENT] * 7
        if d is not None:
            cells = [
                signed(d.mean),
                _ends(d.low, d.high),
                _ends(d.bootstrap_low, d.bootstrap_high),
                ABSENT if d.p_value is None else p_text(d.p_value).removeprefix('= '),
                ABSENT if one.p_holm is None else p_text(one.p_holm).removeprefix('= '),
                ABSENT if d.effect_size is None else f'{d.effect_size:.2f}'.replace('-', '−'),
                ABSENT if d.seeds_needed is None else f'{d.seeds_needed:,}',
            ]
        rows.append([one.arm.label, _mean(one.arm), *cells])
    return header, rows


def signed(value: float) -> str:
    return f'{"−" if value < 0 else "+" if value > 0 else ""}{number(abs(value))}'


def _ends(low: float | None, high: float | None) -> str:
    return ABSENT if low is None or high is None else f'[{signed(low)}, {signed(high)}]'


def _mean(arm: Arm) -> str:
    interval = arm.interval
    if interval is None:
        return ABSENT
    ends = '' if interval.low is None else f' [{interval.low:.4f}, {interval.high:.4f}]'
    return f'{interval.mean:.4f}{ends}'


def _changes(results: Results) -> Table:
    rows = []
    for one in results.comparisons:
        for i, (name, (before, after)) in enumerate(one.changed.items()):
            rows.append(['' if i else one.arm.label, name, _value(before), _value(after)])
        if not one.changed:
            rows.append([one.arm.label, 'nothing but its name', '', ''])
    return ['arm', 'field', results.base.label, 'arm has'], rows


def _value(value: Any) -> str:
    return ABSENT if value is None else json.dumps(value, ensure_ascii=False)


def _costs(results: Results) -> Table:
    header = ['arm', 'parameters', 'of blocks', 'steps', 'tokens', 'training FLOPs', 'memory', 'tokens/s']
    rows = []
    predicted = forecast.forecasts({arm.label: arm.config for arm in results.arms}, None)
    for arm, one in zip(results.arms, predicted, strict=True):
        blocks = sum(part.count for part in memory.parameter_table(arm.config.model) if part.part.startswith('blocks'))
        steps, training = arm.config.training.steps, arm.config.training
        speeds = sorted(row['tokens_per_second'] for row in arm.rows if row.get('tokens_per_second'))
        together = max(run.workdir.runtime().get('population') or 1 for run in arm.runs)
        rows.append(
            [
                arm.label,
                units.count(one.parameters),
                units.count(blocks),
                f'{steps:,}',
                units.count(steps * training.batch_size * arm.config.data.sequence_length),
                units.flops(one.flops),
                units.size(one.bytes),
                (f'{speeds[len(speeds) // 2]:,.0f}' if speeds else ABSENT)
                + (f' ({together} together)' if together > 1 else ''),
            ]
        )
    return header, rows


def _tuning(results: Results) -> Table | None:
    table = results.plan['learning_rate_factors']
    if not table:
        return None
    factors = list(next(iter(table.values())))
    rows = []
    for label, tried in table.items():
        best = best_factor(tried)
        cells = ['failed' if tried[f] is None else f'{tried[f]:.4f}{" *" if f == best else ""}' for f in factors]
        rows.append([label, *cells])
    return ['arm', *[f'× {factor}' for factor in factors]], rows


_TRACE = ('config_hash', 'code_version', 'params_sha256')


def _runs(results: Results) -> dict[str, list[dict[str, Any]]]:
    return {
        arm.label: [
            {
                'name': row['name'],
                'status': row['status'],
                'value': ABSENT if row.get(METRIC) is None else f'{row[METRIC]:.6f}',
                'workdir': _relative(arm, i),
                'config_hash': row.get('config_hash') or config_hash(arm.runs[i].workdir.config()),
                'code_version': row.get('code_version') or ABSENT,
                'params_sha256': (row.get('params_sha256') or ABSENT)[:16],
            }
            for i, row in enumerate(arm.rows)
        ]
        for arm in results.arms
    }


def _relative(arm: Arm, i: int) -> str:
    """A run's workdir as seen from the page."""
    path = arm.runs[i].workdir.path
    return path.relative_to(path.parents[1]).as_posix()


def _anchor(arm: Arm) -> str:
    return 'runs-' + ''.join(c if c.isalnum() else '-' for c in arm.label)


def _markdown(results: Results, tables: dict[str, Any], text: dict[str, str], beware: list[str]) -> str:
    parts = [f'# {results.plan["question"]}', f'**{results.summary}**']
    parts.append('\n'.join(f'- **{one.arm.label}** {one.verdict}.' for one in results.comparisons))
    parts += ['## Read this with it', '\n'.join(f'- {line}' for line in beware) or 'Nothing to beware of.']
    parts += ['## Differences', _grid(tables['difference']), text['bytes'] + ' ' + text['statistics']]
    parts += ['## What each arm changes', _grid(tables['changes'], code=(1, 2, 3))]
    parts += ['## What each arm costs', _grid(tables['cost']), text['costs']]
    if tables['tuning']:
        parts += ['## Learning rates tried', _grid(tables['tuning']), 'Held-out bits per byte; * is what was taken.']
    header = ['arm', 'run', UNIT, 'config', 'code', 'weights (SHA-256)']
    rows = [
        [
            label,
            f'[{run["name"]}]({run["workdir"]})',
            run['value'],
            *(f'`{run[name]}`' for name in _TRACE),
        ]
        for label, runs in tables['runs'].items()
        for run in runs
    ]
    parts += ['## The runs behind it', _grid((header, rows))]
    return '\n\n'.join(parts) + '\n'


def _grid(table: Table, code: tuple[int, ...] = ()) -> str:
    """A table in Markdown."""
    header, rows = table
    cell = lambda i, value: f'`{value}`' if i in code and value not in ('', ABSENT) else str(value).replace('|', '\\|')
    line = lambda cells: f'| {" | ".join(cells)} |'
    body = [line([cell(i, value) for i, value in enumerate(row)]) for row in rows]
    return '\n'.join([line(header), line(['---'] * len(header)), *body])
