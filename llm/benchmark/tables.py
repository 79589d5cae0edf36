"""A result as Markdown: one table of the cases, and what is needed to judge it."""

import pathlib
from collections.abc import Sequence
from typing import Any

from llm.analysis import units
from llm.benchmark.result import Case, Result
from llm.workdir import write_atomically


def save(result: Result, folder: pathlib.Path, name: str = '') -> pathlib.Path:
    """Writes `<kind>.md` into the folder, or `<name>.md`."""
    path = folder / f'{name or result.kind}.md'
    write_atomically(path, markdown(result) + '\n')
    return path


def markdown(result: Result) -> str:
    """The whole page."""
    place = result.environment
    lines = [
        f'# benchmark {result.kind}',
        '',
        f'{place["date"]} · code {place["code"]} · jax {place["jax"]}, flax {place["flax"]}, optax {place["optax"]}, '
        f'Python {place["python"]} · {place["devices"]} x {place["device"]} · {place["cpu"]}, {place["cores"]} cores'
        + (f' · XLA flags `{place["xla_flags"]}`' if place['xla_flags'] else ''),
        '',
        *limits(result.hardware),
        '',
    ]
    header, rows = cells(result.cases)
    if rows:
        explained = [f'- {text}' for name, text in EXPLANATIONS.items() if name in header]
        lines += [grid(header, rows), '', *explained]
    lines += [f'- {text}' for text in remarks(result)]
    return '\n'.join(lines).rstrip()


def remarks(result: Result) -> list[str]:
    """What was not measured and why, and what a reader has to know."""
    missing = [f'not measured: {c.name} {c.backend}: {c.unavailable}' for c in result.cases if c.unavailable]
    return [*missing, *dict.fromkeys(note for case in result.cases for note in case.notes)]


def cells(cases: Sequence[Case]) -> tuple[list[str], list[list[str]]]:
    """Header and rows for the measured cases, without the columns that none of them fills."""
    measured = [case for case in cases if case.seconds]
    columns = [column for column in _COLUMNS if any(column[1](case) for case in measured)]
    return [name for name, _ in columns], [[show(case) or '–' for _, show in columns] for case in measured]


def limits(hardware: dict[str, Any]) -> list[str]:
    """Sentences about peak and bandwidth."""
    lines = []
    for source, what in (('datasheet', 'data sheet'), ('measured', 'measured in this run')):
        values = [f'{dtype} {rate(value)}' for dtype, value in hardware[source]['flops_per_second'].items()]
        if hardware[source]['bytes_per_second']:
            values.append(f'memory {bandwidth(hardware[source]["bytes_per_second"])}')
        if values:
            lines.append(f'Limits of one device, {what}: {", ".join(values)}.')
    return [*lines, *([f'{hardware["note"]}.'] if hardware['note'] else [])]


def grid(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, its columns aligned in plain text too."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    line = lambda row: '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |'
    return '\n'.join([line(header), '|' + '|'.join('-' * (width + 2) for width in widths) + '|', *map(line, rows)])


def rate(flops_per_second: float | None) -> str:
    return '' if not flops_per_second else units.flops(flops_per_second) + '/s'


def bandwidth(bytes_per_second: float | None) -> str:
    if not bytes_per_second:
        return ''
    return f'{units.digits(bytes_per_second / 1e9)} GB/s'


def milliseconds(case: Case) -> str:
    times = case.derived['seconds']
    low, median, high = (units.digits(1e3 * times[name]) for name in ('low', 'median', 'high'))
    return f'{median} [{low}, {high}]'


def _tokens(case: Case) -> str:
    speed = case.derived.get('tokens_per_second')
    return f'{speed["median"]:,.0f}' if speed else ''


def _mfu(source: str):
    def show(case: Case) -> str:
        values = case.derived.get('mfu', {}).get(case.convention or '', {})
        return '' if values.get(source) is None else f'{values[source]:.1%}'

    return show


def _achieved(case: Case) -> str:
    return rate(case.derived['flops_per_second'].get(case.convention or ''))


def _moved(case: Case) -> str:
    rates = case.derived['bytes_per_second']
    return bandwidth(rates.get('minimum')) if not case.flops else ''


def _intensity(case: Case) -> str:
    return units.digits(case.derived['intensity']) if 'intensity' in case.derived else ''


def _roofline(case: Case) -> str:
    roof = case.derived.get('roofline')
    return f'{roof["fraction"]:.0%} of {roof["limited_by"]}' if roof else ''


def _memory(case: Case) -> str:
    return units.size(case.memory['total']) if case.memory else ''


def _compile(case: Case) -> str:
    if case.kind == 'compile':
        return ''
    return units.digits(case.compile_seconds['total']) if 'total' in case.compile_seconds else ''


def _per_token(case: Case) -> str:
    if case.shape.get('part') != 'decode':
        return ''
    values = (case.derived['milliseconds_per_token'], case.derived['floor_milliseconds_per_token'])
    return ' / '.join('?' if value is None else units.digits(value) for value in values)


def _stages(case: Case) -> str:
    if case.kind != 'compile':
        return ''
    return ' + '.join(units.digits(case.compile_seconds[stage]) for stage in ('trace', 'lower', 'compile'))


_COLUMNS = [
    ('case', lambda case: case.name),
    ('asked', lambda case: case.backend),
    ('ran', lambda case: case.kernel if case.kernel != case.backend else ''),
    ('ms [95%]', milliseconds),
    ('tokens/s', _tokens),
    ('ms per token / floor', _per_token),
    ('trace + lower + compile s', _stages),
    ('FLOP/s', _achieved),
    ('bytes/s', _moved),
    ('MFU data sheet', _mfu('datasheet')),
    ('MFU measured peak', _mfu('measured')),
    ('FLOP/byte', _intensity),
    ('roofline', _roofline),
    ('memory', _memory),
    ('compile s', _compile),
]

EXPLANATIONS = {
    'ms [95%]': 'ms: median of one call, with the bootstrap 95% interval of the median.',
    'ms per token / floor': 'ms per token: of all rows; floor: reading parameters and cache at the measured bandwidth.',
    'MFU measured peak': 'FLOP/s and MFU: `6N+attention_causal`, or of the operation; the JSON has every convention.',
    'roofline': 'roofline: fraction of min(measured peak, measured bandwidth x FLOP/byte), and which of them is lower.',
    'memory': 'memory: arguments, outputs and temporaries on one device, by the compiled program.',
}
