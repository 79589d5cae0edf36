"""The page, the text on stdout and the JSON of what was measured."""

import pathlib
from typing import Any

from experiments.embeddings.measure import COUNTS, MODEL
from experiments.embeddings.pairs import SPELLING
from llm.analysis import pages, plots, statistics, units

HERE = pathlib.Path(__file__).parent
HEADER = (
    *('', 'pairs', '3CosAdd', 'nearest to c', 'random words', 'p (Holm)', 'wrong partners', 'in five', 'MRR'),
    *('3CosAdd of counts',),
)


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
        'rows': relation_rows(results),
        'least_p': sum(bool(row['scores']) for row in results['relations']) / (1 + results['draws']),
        'left_out': {row['name']: row['left_out'] for row in results['relations'] if row['left_out']},
        'forest': _forest(results),
        'map': _map(results['map']),
        'groups': group_rows(results),
        'group_names': list(next(iter(results['groups']['scores'].values()))['by_group']),
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, folder=HERE)


def claims(results: dict[str, Any]) -> list[str]:
    """What the numbers say, in sentences that depend on them."""
    scored = [(row['name'], row['scores'][MODEL]) for row in results['relations'] if row['scores']]
    carried = [name for name, one in scored if one['p_holm'] < 0.05]
    better = [name for name, one in scored if (one['over_nearest']['low'] or 0) > 0]
    groups = results['groups']['scores'][MODEL]
    same, chance = groups['same'], groups['chance']
    said = [
        f'The nearest of {results["groups"]["words"]} words is one of its own group for {_percent(same)} of them; '
        f'with groups mixed up {_percent(chance)}.',
        f"A relation's offsets rank its answers better than offsets of random words do in {len(carried)} of "
        f'{len(scored)} relations (Holm-corrected p below 0.05)' + (f': {", ".join(carried)}.' if carried else '.'),
        f'But the offset helps, so that 3CosAdd finds more first answers than the nearest word to the question does, '
        f'in {len(better)} of {len(scored)}' + (f': {", ".join(better)}.' if better else '.'),
    ]
    meaning = [one['first']['mean'] for name, one in scored if name not in SPELLING]
    spelling = [one['first']['mean'] for name, one in scored if name in SPELLING]
    if meaning and spelling:
        said.append(
            f'First answers, averaged over relations: {sum(meaning) / len(meaning):.1%} where it is about meaning or '
            f'grammar, {sum(spelling) / len(spelling):.1%} where it is about spelling.'
        )
    counted = [row['scores'][COUNTS]['first']['mean'] for row in results['relations'] if COUNTS in row['scores']]
    if counted:
        mean = sum(one['first']['mean'] for _, one in scored) / len(scored)
        said.append(
            f'Over all relations the model answers {mean:.1%}, and vectors of counts over the same text '
            f'{sum(counted) / len(counted):.1%}.'
        )
    return said


def relation_rows(results: dict[str, Any]) -> list[list[str]]:
    rows = []
    for row in results['relations']:
        if not row['scores']:
            rows.append([row['name'], str(len(row['pairs'])), *['too few'] + [''] * (len(HEADER) - 3)])
            continue
        one, counted = row['scores'][MODEL], row['scores'].get(COUNTS)
        rows.append(
            [
                row['name'],
                str(len(row['pairs'])),
                _percent(one['first']),
                f'{one["nearest_first"]["mean"]:.1%}',
                _percent(one['random_first']),
                statistics.p_text(one['p_holm']),
                f'{one["shuffled_first"]["mean"]:.1%}',
                f'{one["in_five"]:.1%}',
                f'{one["reciprocal"]:.3f}',
                f'{counted["first"]["mean"]:.1%}' if counted else '',
            ]
        )
    return rows


def group_rows(results: dict[str, Any]) -> list[list[str]]:
    return [
        [source, _percent(one['same']), _percent(one['chance']), *(f'{v:.0%}' for v in one['by_group'].values())]
        for source, one in results['groups']['scores'].items()
    ]


def text(results: dict[str, Any]) -> str:
    """What stdout shows."""
    header = list(HEADER)
    return '\n'.join([units.table(header, relation_rows(results)), '', *claims(results)])


def _forest(results: dict[str, Any]):
    spans = []
    for row in results['relations']:
        for colour, source in enumerate((MODEL, COUNTS)):
            if source in row['scores']:
                one = row['scores'][source]['over_nearest']
                spans.append(
                    plots.Span(
                        f'{row["name"]}, {source}', *(_hundred(one[end]) for end in ('mean', 'low', 'high')), (), colour
                    )
                )
    title = 'How much the offset adds: 3CosAdd less the nearest word to the question'
    return plots.interval_plot(title, 'percentage points of first answers', spans)


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _map(found: dict[str, Any]):
    clouds = [
        plots.Cloud(name, [x for x, _ in words.values()], [y for _, y in words.values()], list(words), colour)
        for colour, (name, words) in enumerate(found['groups'].items())
        if words
    ]
    if found['kind'] == 'umap':
        return plots.map_plot('Token embeddings, UMAP', '', '', clouds)
    axes = [
        f'principal component {i} ({share:.0%} of the variance)' for i, share in enumerate(found['shares'], start=1)
    ]
    return plots.map_plot('Token embeddings, two principal components', *axes, clouds)


def _percent(interval: dict[str, float]) -> str:
    if interval['low'] is None:
        return f'{interval["mean"]:.1%}'
    return f'{interval["mean"]:.1%} [{max(0, interval["low"]):.1%}, {interval["high"]:.1%}]'
