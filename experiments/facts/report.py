"""The page: right, wrong, silent, before and after; how well confidence means anything; a few questions."""

import json
import pathlib
from typing import Any

import numpy as np

from experiments.facts.plan import CONFIDENT
from llm.analysis import pages, plots, statistics, units
from llm.workdir import write_atomically

LABELS = {
    'facts': 'before: has read the facts',
    'threshold': 'before, silent below a confidence',
    'answers': 'control: tuned on answers alone',
    'abstains': 'after: taught to abstain',
    'replays': 'after, and still reading the cards',
}
SHOWN = {  # of `measure.rates`, in the order of the table
    'right, known': 'right on known people',
    'abstains, known': 'abstains on known people',
    'wrong, known': 'wrong on known people',
    'right, strangers': 'right on strangers, by chance',
    'abstains, strangers': 'abstains on strangers',
    'wrong, strangers': 'wrong on strangers',
    'confidently wrong, known': f'wrong with p ≥ {CONFIDENT:g} on known people',
    'confidently wrong, strangers': f'wrong with p ≥ {CONFIDENT:g} on strangers',
    'calibration error': 'calibration error of what is answered',
    'told apart': 'known told from strangers by confidence',
}
MAIN = 'confidently wrong, strangers'
FEWEST = 20  # answers in a bin that is drawn
COMPARED = {  # what is held against what, for which rates
    ('abstains', 'facts'): (MAIN, 'right, known'),
    ('replays', 'facts'): (MAIN, 'right, known', 'calibration error'),
    ('replays', 'answers'): (MAIN, 'right, known'),
    ('replays', 'threshold'): (MAIN, 'right, known'),
}


def write(out: pathlib.Path, results: dict[str, Any]) -> pathlib.Path:
    """Writes results.json, with the comparisons, and report.html."""
    compared = comparisons(results)
    said = [{**one, 'difference': one['difference']._asdict()} for one in compared]
    write_atomically(out / 'results.json', json.dumps(results | {'comparisons': said}, indent=1) + '\n')
    context = {
        'sentences': sentences(results),
        'header': ['', *LABELS.values()],
        'rows': rows(results),
        'comparisons': [
            {**one, 'difference': _signed(one['difference']), 'verdict': one['verdict']} for one in compared
        ],
        'plots': [_outcomes(results), _reliability(results)],
        'examples': results['examples'],
        'labels': LABELS,
        'facts': pages.facts(results['facts'] | {'thresholds': [round(t, 3) for t in results['thresholds']]}),
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, pathlib.Path(__file__).parent)


def values(results: dict[str, Any], arm: str, rate: str) -> list[float]:
    return [one[rate] for one in results['rates'][arm]]


def comparisons(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Paired differences over worlds, their p values corrected as one family."""
    found = []
    for (arm, base), rates in COMPARED.items():
        for rate in rates:
            if not np.isfinite([values(results, arm, rate), values(results, base, rate)]).all():
                continue  # nothing was answered that could be calibrated
            difference = statistics.paired_difference(
                values(results, arm, rate), values(results, base, rate), comparisons=sum(map(len, COMPARED.values()))
            )
            found.append({'arm': arm, 'base': base, 'rate': rate, 'difference': difference})
    corrected = statistics.holm([one['difference'].p_value for one in found])
    for one, p in zip(found, corrected, strict=True):
        lower = one['rate'] != 'right, known'
        one['p_holm'] = p
        one['verdict'] = statistics.verdict(one['difference'], p, lower_is_better=lower)
    return found


def rows(results: dict[str, Any]) -> list[list[str]]:
    """What was measured, a row for each rate and a column for each way of answering."""
    found = []
    for rate, label in SHOWN.items():
        found.append([label, *(_cell(values(results, arm, rate)) for arm in LABELS)])
    return found


def _cell(measured: list[float]) -> str:
    good = [value for value in measured if value == value]  # without what was never answered
    if not good:
        return '–'
    interval = statistics.mean_interval(good)
    if interval.low is None or interval.low == interval.high:  # all worlds alike say nothing of their spread
        return f'{interval.mean:.3f}'
    return f'{interval.mean:.3f} [{max(0, interval.low):.3f}, {min(1, interval.high):.3f}]'


def _signed(difference: statistics.Difference) -> str:
    one = lambda value: f'{value:+.3f}'.replace('-', '−')
    if difference.low is None:
        return one(difference.mean)
    return f'{one(difference.mean)} [{one(difference.low)}, {one(difference.high)}]'


def sentences(results: dict[str, Any]) -> list[str]:
    """The answer in a few lines; what the differences are worth is in their table."""
    mean = lambda arm, rate: f'{statistics.mean_interval(values(results, arm, rate)).mean:.0%}'
    said = [
        f'Before: of people it has read of, the model knows {mean("facts", "right, known")} of the facts. Asked about '
        f'strangers, it is wrong in {mean("facts", "wrong, strangers")} of its answers, {mean("facts", MAIN)} with a '
        f'confidence of at least {CONFIDENT:g}.'
    ]
    for arm, label in (
        ('replays', 'Taught to abstain, and still reading the cards'),
        ('abstains', 'Taught to abstain without them'),
        ('answers', 'As much tuning on answers alone'),
        ('threshold', 'Untuned, silent below a confidence'),
    ):
        said.append(
            f'{label}: confidently wrong about strangers in {mean(arm, MAIN)}, silent in '
            f'{mean(arm, "abstains, strangers")}; of people it has read of it says {mean(arm, "right, known")} right '
            f'and is silent in {mean(arm, "abstains, known")}.'
        )
    return said


def _outcomes(results: dict[str, Any]) -> Any:
    spans = []
    for group in ('strangers', 'known'):
        for colour, arm in enumerate(LABELS):
            measured = values(results, arm, f'confidently wrong, {group}')
            interval = statistics.mean_interval(measured)
            spans.append(plots.Span(f'{group}, {arm}', *interval, measured, colour))
    return plots.interval_plot('Confidently wrong, with 95% intervals', 'share of the questions; left is better', spans)


def _reliability(results: dict[str, Any]) -> Any:
    series = [plots.Series('calibrated', [0, 1], [0, 1], colour=6, dashed=True)]
    for colour, arm in enumerate(LABELS):
        bins = [one for one in results['reliability'][arm] if one['count'] >= FEWEST]
        if bins:
            x, y = [one['confidence'] for one in bins], [one['accuracy'] for one in bins]
            series.append(plots.Series(arm, x, y, colour=colour, marked=True))
    return plots.line_plot('Confidence against being right', 'confidence', 'share that is right', series)


def table(results: dict[str, Any]) -> str:
    """The rows for a terminal, without the ends of the intervals."""
    short = [[label, *(cell.split(' [')[0] for cell in cells)] for label, *cells in rows(results)]
    return units.table(['mean over worlds', *LABELS], short)
