"""The page, the text on stdout and the JSON of what was measured."""

import pathlib
from typing import Any

from experiments.probing.labels import MEANING
from llm.analysis import pages, plots, units

HERE = pathlib.Path(__file__).parent
HEADER = (
    *('', 'commonest label', 'token alone', 'embedding', 'best depth', 'which', 'control', 'selectivity', 'untrained'),
)
MEMORY_HEADER = ['', 'neurons that fire', 'promotes what follows', 'by chance', 'in its first ten', 'by chance']


def write(results: dict[str, Any], out: pathlib.Path) -> pathlib.Path:
    """Writes `report.html` and `results.json` into a folder.

    Raises:
        MachineError: if they cannot be written.
    """
    pages.write_results(out, results)
    context = {
        'name': pathlib.Path(results['workdir']).name,
        'results': results,
        'claims': claims(results),
        'header': HEADER,
        'rows': rows(results),
        'plots': [_curves(task, one, results['depths']) for task, one in results['tasks'].items()],
        'classes': {task: _shares(one) for task, one in results['tasks'].items()},
        'meaning': MEANING,
        'memory_header': MEMORY_HEADER,
        'memory_rows': memory_rows(results),
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, folder=HERE)


def claims(results: dict[str, Any]) -> list[str]:
    """What the numbers say, in sentences that depend on them."""
    said = []
    for task, one in results['tasks'].items():
        over_token, over_untrained = one['best_over_token'], one['best_over_untrained']
        depth = results['depths'][one['best_depth']]
        sure = (over_token['low'] or 0) > 0 and (over_untrained['low'] or 0) > 0
        best = one['accuracy'][one['best_depth']]
        if sure:
            verdict = f'more than the token alone by {_points(over_token)} and than the untrained model by'
            said.append(
                f'{_capital(MEANING[task])} can be read off {depth} for {_percent(best)} of tokens: {verdict} '
                f'{_points(over_untrained)} points.'
            )
        else:
            said.append(
                f'{_capital(MEANING[task])}: {_percent(best)} at the best depth ({depth}), which is not surely more '
                f'than both the token alone ({_points(over_token)} points more) and the untrained model '
                f'({_points(over_untrained)}).'
            )
    if results['memories']:
        agreeing = [
            str(i)
            for i, layer in enumerate(results['memories'])
            if layer['fired'] and layer['agreement']['10']['low'] > layer['chance']['10']['high']
        ]
        said.append(
            'Neurons promote, among their first ten tokens, the one that follows where they fire most more often than '
            + (f'chance in layers {", ".join(agreeing)}.' if agreeing else 'chance in no layer.')
        )
    return said


def rows(results: dict[str, Any]) -> list[list[str]]:
    table = []
    for task, one in results['tasks'].items():
        best = one['best_depth']
        table.append(
            [
                task,
                f'{one["commonest"]["mean"]:.1%}',
                f'{one["by_token"]["mean"]:.1%}',
                f'{one["accuracy"][0]["mean"]:.1%}',
                _percent(one['accuracy'][best]),
                results['depths'][best],
                f'{one["control"][best]["mean"]:.1%}',
                _percent(one['selectivity'][best]),
                f'{one["untrained"][best]["mean"]:.1%}',
            ]
        )
    return table


def memory_rows(results: dict[str, Any]) -> list[list[str]]:
    table = []
    for i, layer in enumerate(results['memories'] or []):
        row = [f'layer {i}', f'{layer["fired"]:,} of {layer["neurons"]:,}']
        for k in ('1', '10'):
            row += [_percent(layer[what][k]) if layer['fired'] else '' for what in ('agreement', 'chance')]
        table.append(row)
    return table


def text(results: dict[str, Any]) -> str:
    """What stdout shows."""
    parts = [units.table(list(HEADER), rows(results))]
    if results['memories']:
        parts.append(units.table(MEMORY_HEADER, memory_rows(results)))
    return '\n\n'.join([*parts, '\n'.join(claims(results))])


def _curves(task: str, one: dict[str, Any], depths: list[str]):
    x = list(range(len(depths)))
    flat = lambda interval: [100 * interval['mean']] * len(x)

    def curve(name, label, colour, dashed=False):
        values = one[name]
        ends = [[None if v[end] is None else 100 * v[end] for v in values] for end in ('low', 'high')]
        return plots.Series(label, x, [100 * v['mean'] for v in values], colour, True, dashed, band=tuple(ends))

    series = [
        curve('accuracy', 'this model', 0),
        curve('untrained', 'untrained', 2),
        curve('control', 'control task', 1),
        plots.Series('token alone', x, flat(one['by_token']), 3, dashed=True),
        plots.Series('commonest label', x, flat(one['commonest']), 4, dashed=True),
    ]
    return plots.line_plot(
        f'{task}: {MEANING[task]}', 'layers read', 'right on held-out documents (%)', series, x_ticks=x
    )


def _shares(one: dict[str, Any]) -> str:
    shares = ', '.join(f'{name} {share:.0%}' for name, share in zip(one['classes'], one['shares']))
    return f'{shares}; {one["tokens"]:,} tokens'


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _points(interval: dict[str, float]) -> str:
    shown = f'{100 * interval["mean"]:.1f}'
    if interval['low'] is not None:
        shown += f' [{100 * interval["low"]:.1f}, {100 * interval["high"]:.1f}]'
    return shown.replace('-', '−')


def _percent(interval: dict[str, float]) -> str:
    shown = f'{interval["mean"]:.1%}'
    if interval['low'] is not None:
        shown += f' [{interval["low"]:.1%}, {interval["high"]:.1%}]'
    return shown.replace('-', '−')
