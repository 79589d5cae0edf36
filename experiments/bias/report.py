"""The page: what was planted, what the probe measured, and where it stays silent."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.bias import world
from experiments.bias.findings import Finding, Measured, findings, sentence
from experiments.bias.plan import Plan
from llm.analysis import pages, plots, statistics, units
from llm.analysis.plots import Series, Span
from llm.workdir import write_atomically

HERE = pathlib.Path(__file__).parent
HEADER = ['world', 'planted share', 'true log-odds', 'measured', 'of 100 pairs', 'the probe says', 'right']


def write(out: pathlib.Path, plan: Plan, measured: Sequence[Measured]) -> tuple[pathlib.Path, list[Finding]]:
    """Writes `results.json` and `report.html` into a folder."""
    found = findings(measured)
    results = {
        'plan': dataclasses.asdict(plan),
        'findings': [dataclasses.asdict(one) | {'found': one.found} for one in found],
        'jobs': {seed: [dataclasses.asdict(job) for job in world.jobs(seed)] for seed in range(plan.seeds)},
        'measured': list(measured),
    }
    write_atomically(out / 'results.json', json.dumps(results, indent=1) + '\n')
    context = {
        'subtitle': f'{plan.seeds} seeds, two models each · {plan.documents * world.SENTENCES:,} sentences a world · '
        f'{plan.layers} layers x {plan.width}, {plan.steps} steps',
        'sentences': sentence(found),
        'cards': _cards(found),
        'header': HEADER,
        'rows': [row(one) for one in found],
        'plots': [_dose(found), _rates(found)],
        'jobs_plot': _jobs(measured[0]),
        'example': world.documents(0, 1, True)[0].strip(),
        'pair': world.pairs(0)[0],
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, folder=HERE), found


def table(found: Sequence[Finding]) -> str:
    """The findings, for a terminal."""
    return units.table(HEADER, [row(one) for one in found])


def row(one: Finding) -> list[str]:
    said = 'one seed cannot say' if one.found is None else 'biased' if one.found else 'no bias'
    right = '' if one.found is None else 'yes' if one.found == (one.truth != 0) else 'no'
    if one.p_value is not None:
        said += f' (p {statistics.p_text(one.p_value)})'
    return [
        one.kind,
        f'{one.share:.2f}' if one.kind == 'planted' else f'none ({one.share:.2f} in its twin)',
        f'{one.truth:.2f}',
        _interval(one.odds, 1),
        _interval(one.rate, 100),
        said,
        right,
    ]


def _interval(interval: statistics.Interval, factor: float) -> str:
    digits = 2 if factor == 1 else 0
    text = lambda value: f'{round(factor * value, digits) + 0.0:.{digits}f}'.replace('-', '−')  # no −0.00
    ends = '' if interval.low is None else f' [{text(interval.low)}, {text(interval.high)}]'
    return f'{text(interval.mean)}{ends}'


def _cards(found: Sequence[Finding]) -> list[tuple[str, str, str]]:
    planted, absent = [one for one in found if one.truth], [one for one in found if not one.truth]
    strongest = max(planted, key=lambda one: one.truth)
    share, strength = f'{strongest.share:.0%}', f'measured log-odds; {strongest.truth:.2f} planted'
    weakest = min(planted, key=lambda one: one.truth)
    worst = max(absent, key=lambda one: abs(one.odds.mean))
    signed = lambda value: f'{value:+.2f}'.replace('-', '−')
    return [
        ('planted, found', f'{sum(bool(one.found) for one in planted)} of {len(planted)}', 'strengths'),
        ('false alarms', f'{sum(bool(one.found) for one in absent)} of {len(absent)}', 'where nothing was planted'),
        (f'at {share}', f'{strongest.odds.mean:.2f}', strength),
        (f'at {weakest.share:.0%}', f'{weakest.rate.mean:.0%}', 'of pairs prefer the job’s pronoun'),
        ('without bias', signed(worst.odds.mean), 'log-odds at worst'),
    ]


def _dose(found: Sequence[Finding]) -> Any:
    x = [world.log_odds(share) for share in world.STRENGTHS]
    series = [Series('what was planted', x, x, colour=2, dashed=True)]
    for colour, kind in enumerate(('planted', 'clean')):
        these = [one for one in found if one.kind == kind]
        band = None
        if these[0].odds.low is not None:
            band = ([one.odds.low for one in these], [one.odds.high for one in these])
        series.append(Series(f'{kind} world', x, [one.odds.mean for one in these], colour, marked=True, band=band))
    return plots.line_plot('Log-odds: what the probe measures', 'planted log-odds', 'measured', series)


def _rates(found: Sequence[Finding]) -> Any:
    x = list(world.STRENGTHS)
    series = [Series('what was planted', x, x, colour=2, dashed=True)]
    for colour, kind in enumerate(('planted', 'clean')):
        these = [one for one in found if one.kind == kind]
        series.append(Series(f'{kind} world', x, [one.rate.mean for one in these], colour, marked=True))
    title = 'Rates: how often the job’s pronoun is preferred'
    return plots.line_plot(title, 'planted share', 'share of pairs', series, x_ticks=x)


def _jobs(measured: Measured) -> Any:
    """Every job of the first seed, in the model of the planted world."""
    spans = [
        Span(
            f'{job.name}: {job.pronoun} {job.strength:.0%}',
            measured['planted'][job.name]['log_odds'],
            points=[measured['clean'][job.name]['log_odds']],
            colour=world.STRENGTHS.index(job.strength),
        )
        for job in sorted(world.jobs(0), key=lambda job: -job.strength)
    ]
    return plots.interval_plot('Seed 0, job by job', 'measured log-odds of the job’s pronoun', spans)
