"""The page: accuracies first, then what the ablations take away, then images with what was said about them."""

import base64
import io
import json
import pathlib
from typing import Any

import numpy as np

from experiments.images import measure
from experiments.images.measure import KINDS, NO_IMAGE, PROBES, Results
from experiments.images.plan import BASE, PATCH
from experiments.images.probes import CAPTION
from llm.analysis import pages, plots, statistics, units
from llm.analysis.statistics import Interval
from llm.data import images, tasks_digits
from llm.environment import code_version, cpu_model, processors
from llm.workdir import write_atomically

HERE = pathlib.Path(__file__).parent
TITLES = {CAPTION: 'caption', 'larger': 'which is larger', 'same': 'same digit', 'sum': 'sum'}
SHOWN, MISTAKES = 8, 8  # questions of each kind that the page shows: some, and of those that were answered wrong
LINEAR, COMPOSED = PROBES
KEPT = 4  # test images that are left as files, to ask about


def write(out: pathlib.Path, results: Results) -> pathlib.Path:
    """Writes `report.html`, `results.json` and a few test images into a folder.

    Raises:
        MachineError: if the page cannot be written.
    """
    write_atomically(out / 'results.json', json.dumps(measure.as_json(results), indent=1) + '\n')
    files = _files(out)
    context = {
        'subtitle': f'{results.parameters:,} parameters · seeds: {results.plan.seeds}, arms done: '
        f'{len(results.answers)} of {len(results.plan.arms)} · {results.plan.steps} steps of '
        f'{results.plan.rows} examples · training {units.duration(results.seconds)} on {processors()} cores '
        f'({cpu_model()}) · code {code_version()}',
        'cards': [
            (
                TITLES[kind],
                f'{results.accuracy(BASE, kind).mean:.1%}',
                f'linear probe {results.accuracy_of(LINEAR, kind).mean:.1%}',
            )
            for kind in KINDS
        ],
        'sentences': sentences(results),
        'table': table(results),
        'ahead': [_ahead(results, LINEAR), _ahead(results, COMPOSED)],
        'ablation': ablation(results),
        'curves': [_curves(results)],
        'asked': [(TITLES[kind], results.tests[kind].prompt, _shown(results, kind)) for kind in KINDS],
        'tested': {TITLES[kind]: len(results.tests[kind].answers) for kind in KINDS},
        'images': {side: len(tasks_digits.numbers(side)) for side in ('train', 'held_out', 'test')},
        'seeds': results.plan.seeds,
        'tokens': (tasks_digits.SIZE // PATCH) ** 2,
        'command': _command(out, files),
        'facts': pages.facts({'plan': vars(results.plan)}),
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, folder=HERE)


def table(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: a kind of question each."""
    head = ['', 'questions', BASE, *(['seeds'] * (results.plan.seeds > 1)), LINEAR, COMPOSED, NO_IMAGE]
    rows = []
    for kind in KINDS:
        seeds = results.right(BASE, kind).mean(1)
        spread = [' '.join(f'{100 * seed:.1f}' for seed in seeds)] if len(seeds) > 1 else []
        others = [
            percent(results.accuracy_of(name, kind)) if kind in results.baselines[name] else ''
            for name in (LINEAR, COMPOSED, NO_IMAGE)
        ]
        number = str(len(results.tests[kind].answers))
        rows.append([TITLES[kind], number, percent(results.accuracy(BASE, kind)), *spread, *others])
    return head, rows


def sentences(results: Results) -> list[str]:
    """What the test says, each with its interval."""
    found = []
    for name, kinds in results.baselines.items():
        if name == NO_IMAGE:
            continue
        for kind in kinds:
            gain = results.ahead(name, kind)
            way = 'ahead of' if gain.low > 0 else 'behind' if gain.high < 0 else 'not distinguishable from'
            found.append(f'{TITLES[kind]}: {BASE} are {way} the {name}, {points(gain)} points')
    return found


def ablation(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: an arm each, its accuracies and how it does against the base over paired seeds."""
    head = ['', *(TITLES[kind] for kind in KINDS), 'all', 'less the base, points', 'verdict']
    arms = [arm for arm in results.answers if arm != BASE]
    differences = {arm: results.against_base(arm) for arm in arms}
    corrected = dict(zip(arms, statistics.holm([differences[arm].p_value for arm in arms])))
    rows = []
    for arm in results.answers:
        cells = [f'{results.right(arm, kind).mean():.1%}' for kind in KINDS]
        cells.append(f'{np.mean(results.overall(arm)):.1%}')
        if arm == BASE:
            rows.append([arm, *cells, '', ''])
            continue
        one = differences[arm]
        said = statistics.outcome(one, corrected[arm], lower_is_better=False)
        rows.append([arm, *cells, points(Interval(one.mean, one.low, one.high)), said])
    return head, rows


def text(results: Results) -> str:
    """The tables and the findings, for a terminal."""
    parts = [units.table(*table(results)), '\n'.join(sentences(results))]
    if len(results.answers) > 1:
        parts.append(units.table(*ablation(results)))
    return '\n\n'.join(parts)


def percent(one: Interval) -> str:
    return f'{one.mean:.1%} [{one.low:.1%}, {one.high:.1%}]'


def points(one: Interval) -> str:
    """A difference of accuracies, in points."""
    ends = '' if one.low is None else f' [{100 * one.low:+.1f}, {100 * one.high:+.1f}]'
    return f'{100 * one.mean:+.1f}{ends}'.replace('-', '−')


def _ahead(results: Results, name: str):
    """How far the base is ahead of a probe, kind by kind."""
    kinds = list(results.baselines[name])
    gains = [results.ahead(name, kind) for kind in kinds]
    spans = [
        plots.Span(TITLES[kind], 100 * gain.mean, 100 * gain.low, 100 * gain.high, colour=KINDS.index(kind))
        for kind, gain in zip(kinds, gains)
    ]
    return plots.interval_plot(f'Accuracy above the {name}', 'points', spans)


def _curves(results: Results):
    series = [
        plots.Series(arm, *zip(*curve), colour=colour, marked=True, legend=seed == 0)
        for colour, (arm, curves) in enumerate(results.curves.items())
        for seed, curve in enumerate(curves)
    ]
    return plots.line_plot('Held-out loss of the answers', 'step', 'nats per token', series, log_y=True)


def _shown(results: Results, kind: str) -> list[dict[str, Any]]:
    """Questions of a kind with the first seed's answers: every so many, then the first of those answered wrong."""
    test, given = results.tests[kind], results.answers[BASE][0][kind]
    right = results.right(BASE, kind)[0] > 0
    some = list(range(0, len(given), -(-len(given) // SHOWN)))
    wrong = [number for number in np.flatnonzero(~right).tolist() if number not in some][:MISTAKES]
    pixels = tasks_digits.digits().images
    return [
        {
            'images': [_data(pixels[image]) for image in test.numbers[number]],
            'said': given[number],
            'right': bool(right[number]),
            'answer': test.answers[number],
        }
        for number in [*some, *wrong]
    ]


def _data(image: np.ndarray) -> str:
    """An image as the source of an `<img>`."""
    file = io.BytesIO()
    images.write_png(file, image[:, :, None])
    return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'


def _files(out: pathlib.Path) -> list[pathlib.Path]:
    """Some test images as files, each named after its number and digit."""
    digits, folder = tasks_digits.digits(), out / 'test_images'
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in tasks_digits.numbers('test')[:KEPT]:
        files.append(folder / f'{number}_{tasks_digits.NUMBERS[digits.labels[number]]}.png')
        images.write_png(files[-1], digits.images[number][:, :, None])
    return files


def _command(out: pathlib.Path, files: list[pathlib.Path]) -> str:
    """How to ask the first run."""
    prompt = tasks_digits.QUESTIONS['sum']
    shown = ' '.join(f'--image {file}' for file in files[:2])
    return f"python -m llm generate --workdir {out}/sweep/runs/RUN --temperature 0 --prompt '{prompt}' {shown}"
