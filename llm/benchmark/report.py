"""Several results as one HTML page: the hardware's limits, the roofline, how cost grows, and every table."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from llm.benchmark import tables
from llm.benchmark.result import Case, Result, bandwidth_of, peak_of

AXES = {
    'width': 'size of the residual stream',
    'layers': 'transformer blocks',
    'length': 'tokens per row',
    'batch': 'rows per step',
    'devices': 'devices',
}
KINDS = ('matmul', 'attention', 'train', 'decode')  # the colours of the roofline, in this order
TITLES = {
    'matmul': 'Matrix products and memory',
    'attention': 'Attention',
    'train': 'Training steps',
    'decode': 'Reading prompts and writing text',
    'compile': 'Compiling',
    'data': 'Data pipeline',
}


def write_report(results: Mapping[str, Result], path: pathlib.Path) -> pathlib.Path:
    """Writes the page.

    Args:
        results: by name, `matmul` among them: its measured limits are the roof. Names `train-AXIS`, with AXIS one of
            AXES, are drawn as cost against that axis.
        path: of the HTML file.

    Raises:
        MachineError: if the page cannot be written.
    """
    from llm.analysis import pages

    limits = results['matmul']
    sections = [_section(name, result) for name, result in results.items()]
    context = {
        'device': _device(limits),
        'subtitle': _subtitle(limits),
        'cards': _cards(results),
        'limits': tables.limits(limits.hardware),
        'rooflines': rooflines(results),
        'scaling': _scaling(results),
        'others': _others(results),
        'sections': sections,
        'explanations': explanations(sections),
        'environment': pages.facts(limits.environment),
    }
    return pages.write_page('benchmark.html.j2', path, context)


def _subtitle(result: Result) -> str:
    place = result.environment
    return f'{place["date"][:10]} · jax {place["jax"]} · code {place["code"]}'


def _device(result: Result) -> str:
    place = result.environment
    if place['platform'] == 'cpu':
        return f'{place["cpu"]}, {place["cores"]} cores'
    return f'{place["devices"]} × {place["device"]}'


def _cards(results: Mapping[str, Result]) -> list[tuple[str, str, str]]:
    hardware = results['matmul'].hardware
    cards = []
    for dtype, peak in hardware['measured']['flops_per_second'].items():
        sheet = hardware['datasheet']['flops_per_second'].get(dtype)
        note = f'{peak / sheet:.0%} of the data sheet' if sheet else 'measured; no data sheet'
        cards.append((f'peak, {dtype}', tables.rate(peak), note))
    if bandwidth := bandwidth_of({'measured': hardware['measured']}):
        sheet = hardware['datasheet']['bytes_per_second']
        note = f'{bandwidth / sheet:.0%} of the data sheet' if sheet else 'measured; no data sheet'
        cards.append(('memory bandwidth', tables.bandwidth(bandwidth), note))
    steps = [case for result in results.values() for case in result.cases if case.kind == 'train' and case.seconds]
    if steps:
        best = max(steps, key=lambda c: c.derived['mfu'].get(c.convention, {}).get('measured') or 0)
        for source, label in (('datasheet', 'of the data sheet'), ('measured', 'of the measured peak')):
            if value := best.derived['mfu'].get(best.convention, {}).get(source):
                cards.append(('best MFU', f'{value:.1%}', f'{label}; {best.convention}'))
        cards.append(('its tokens per second', f'{best.derived["tokens_per_second"]["median"]:,.0f}', _short(best)))
    return cards


def _short(case: Case) -> str:
    shape = case.shape
    return f'{shape["layers"]} × {shape["width"]}, T {shape["length"]}, B {shape["batch"]}'


def rooflines(results: Mapping[str, Result]) -> list[Any]:
    """A plot per type of operands: what was reached over FLOPs per byte, under the measured roof."""
    from llm.analysis import plots

    hardware = results['matmul'].hardware
    bandwidth = bandwidth_of(hardware)
    drawn = []
    for dtype in hardware['measured']['flops_per_second']:
        peak = peak_of(hardware, 'measured', dtype)
        points: dict[str, list[tuple[float, float]]] = {}
        for result in results.values():
            for case in result.cases:
                if case.dtype == dtype and case.devices == 1 and 'intensity' in case.derived:
                    rate = case.derived['flops_per_second'][case.convention]
                    points.setdefault(case.kind, []).append((case.derived['intensity'], rate))
        if not points or not bandwidth:
            continue
        unit, factor = ('TFLOP/s', 1e12) if peak >= 1e13 else ('GFLOP/s', 1e9)
        xs = [x for group in points.values() for x, _ in group]
        low, ridge = min(*xs, peak / bandwidth) / 2, peak / bandwidth
        high = max(*xs, ridge) * 2
        roof = plots.Series(
            'roof: measured bandwidth, measured peak',
            [low, ridge, high],
            [low * bandwidth / factor, peak / factor, peak / factor],
            colour=len(KINDS),
            dashed=True,
        )
        series = [roof]
        for kind in KINDS:
            if kind in points:
                x, y = zip(*points[kind])
                series.append(plots.Series(kind, x, [v / factor for v in y], colour=KINDS.index(kind), line=False))
        sheet = hardware['datasheet']['flops_per_second'].get(dtype)
        if sheet:
            series.append(
                plots.Series(
                    "data sheet's peak", [ridge, high], [sheet / factor] * 2, colour=len(KINDS) + 1, dashed=True
                )
            )
        title = f'Roofline, {dtype}'
        drawn.append(plots.line_plot(title, 'FLOPs per byte', unit, series, log_x=True, log_y=True))
    return drawn


def _scaling(results: Mapping[str, Result]) -> list[Any]:
    """Milliseconds a step against each axis, and what they would be in proportion to FLOPs from the largest down."""
    from llm.analysis import plots

    drawn = []
    for axis, label in AXES.items():
        cases = results[f'train-{axis}'].cases if f'train-{axis}' in results else ()
        cases = sorted((case for case in cases if case.seconds), key=lambda case: case.shape[axis])
        if len(cases) < 2:
            continue
        x = [case.shape[axis] for case in cases]
        y = [1e3 * case.derived['seconds']['median'] for case in cases]
        work = [case.flops[case.convention] / case.devices for case in cases]
        series = [
            plots.Series('measured', x, y, marked=True),
            plots.Series('in proportion to FLOPs', x, [y[-1] * w / work[-1] for w in work], colour=1, dashed=True),
        ]
        look = {'log_x': True, 'log_y': True, 'x_ticks': x}
        drawn.append(plots.line_plot(f'Cost against {axis}', label, 'ms per step', series, **look))
    return drawn


def _others(results: Mapping[str, Result]) -> list[Any]:
    """Compile seconds against depth, and decoding against the batch."""
    from llm.analysis import plots

    drawn = []
    if 'compile' in results:
        cases = [case for case in results['compile'].cases if case.seconds]
        series = []
        for colour, cache in enumerate(('cold', 'warm')):
            here = sorted((c for c in cases if c.shape['cache'] == cache), key=lambda c: c.shape['layers'])
            x, y = [c.shape['layers'] for c in here], [c.derived['seconds']['median'] for c in here]
            name = 'cold' if cache == 'cold' else 'from the cache'
            series.append(plots.Series(name, x, y, colour=colour, marked=True))
        drawn.append(
            plots.line_plot('Compile time against depth', AXES['layers'], 'seconds', series, from_zero=True, x_ticks=x)
        )
    if 'decode' in results:
        cases = [case for case in results['decode'].cases if case.seconds and case.shape['part'] == 'decode']
        groups: dict[Any, list[Case]] = {}
        for case in sorted(cases, key=lambda c: c.shape['batch']):
            groups.setdefault((case.shape['layers'], case.shape['width'], case.shape['context']), []).append(case)
        series = []
        for i, ((layers, width, context), here) in enumerate(groups.items()):
            x = [case.shape['batch'] for case in here]
            y = [case.derived['milliseconds_per_token'] for case in here]
            floor = [case.derived['floor_milliseconds_per_token'] for case in here]
            name = f'{layers} × {width}, context {context}'
            series.append(plots.Series(name, x, y, colour=i, marked=True))
            series.append(plots.Series(f'{name}: floor', x, floor, colour=i, dashed=True))
        look = {'log_x': True, 'log_y': True, 'x_ticks': [case.shape['batch'] for case in cases]}
        drawn.append(plots.line_plot('Writing a token', 'rows at a time', 'ms per token of all rows', series, **look))
    return drawn


def _section(name: str, result: Result) -> dict[str, Any]:
    header, rows = tables.cells(result.cases)
    _, _, axis = name.partition('-')
    title = TITLES[result.kind] + (f': {axis}' if axis else '')
    # Columns of words first; numbers are set to the right.
    words = [i for i, label in enumerate(header) if label in ('case', 'asked', 'ran')]
    return {'title': title, 'header': header, 'rows': rows, 'words': words, 'remarks': tables.remarks(result)}


def explanations(sections: Sequence[dict[str, Any]]) -> list[str]:
    """What the columns of these tables mean."""
    used = {label for section in sections for label in section['header']}
    return [text for label, text in tables.EXPLANATIONS.items() if label in used]
