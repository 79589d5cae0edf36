"""The page: when the loss falls, which heads are there by then, and what is lost without them."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from markupsafe import Markup

from experiments.induction import measure as measuring
from experiments.induction.plan import ONE, RANDOM, TWO, Plan
from experiments.induction.sequences import measured_blocks
from llm.analysis import lens, pages, plots, statistics, units
from llm.environment import code_version
from llm.errors import UserError
from llm.sweep import registry
from llm.training.checkpoint import load_params
from llm.workdir import write_atomically

ARMS = (TWO, ONE, RANDOM)
NEW = 'two layers, new characters'
SHOWN_PERIOD = 12  # tokens of the block in the picture of two heads


@dataclasses.dataclass(frozen=True)
class Findings:
    """Everything that the page shows.

    Attributes:
        histories: of each arm, seed by seed.
        removals: of the two-layer models on sequences that repeat, seed by seed.
        patterns: of the first of them: the best induction head's and the best previous-token head's, each with its
            name, and the characters they read.
        seconds: of training, all runs together.
    """

    histories: dict[str, list[measuring.History]]
    removals: list[measuring.Removal]
    patterns: tuple[str, list[tuple[str, np.ndarray]]]
    seconds: float


def measure(out: pathlib.Path, plan: Plan) -> Findings:
    """Reads the runs of a folder.

    Raises:
        UserError: if one of them is not done.
    """
    runs = registry.open_sweep(out / 'sweep')
    if waiting := [run.name for run in runs if registry.status(run.workdir) != 'done']:
        raise UserError(
            f'{waiting[0]} in {out} is not done yet; go on with `python -m experiments.induction --out {out}`'
        )
    of = {arm: [run for run in runs if _arm(run) == arm] for arm in ARMS}
    return Findings(
        {arm: [measuring.history(run, plan) for run in members] for arm, members in of.items()},
        [measuring.removal(run, plan) for run in of[TWO]],
        _patterns(of[TWO][0], plan),
        sum(row['seconds'] or 0 for row in registry.rows(runs)),
    )


def _arm(run: registry.Run) -> str:
    return next(arm for arm in sorted(ARMS, key=len, reverse=True) if run.name.startswith(arm))


def _patterns(run: registry.Run, plan: Plan) -> tuple[str, list[tuple[str, np.ndarray]]]:
    config, params = measuring.model_config(run), load_params(run.workdir)[1]
    tokens = measured_blocks(1, min(SHOWN_PERIOD, plan.period), measuring.JUDGING)
    pattern = lens.run(params, config, tokens, ('pattern',)).activations['pattern']
    scores = jax.device_get(lens.head_scores(pattern, tokens))
    shown = []
    for kind, title in (('previous', 'looks at the previous token'), ('induction', 'looks at what came next before')):
        layer, head = np.unravel_index(np.argmax(scores[kind]), scores[kind].shape)
        shown.append((f'layer {layer}, head {head} {title} ({scores[kind][layer, head]:.2f})', pattern[layer, 0, head]))
    return '⊢' + ''.join(chr(token - 16) for token in tokens[0, 1:]), [(name, np.asarray(map_)) for name, map_ in shown]


# ------------------------------------------------------------------------------------------------------------- words


def final(histories: Sequence[measuring.History], name: str) -> list[float]:
    """A loss of every seed at the end."""
    return [getattr(history, name)[-1] for history in histories]


def best(history: measuring.History, kind: str) -> np.ndarray:
    """The highest score of a kind among the heads, at every checkpoint."""
    return history.scores[kind].max(axis=(1, 2))


def table(findings: Findings) -> str:
    """What the arms reached, for the terminal."""
    return units.table(*_rows(findings))


def _rows(findings: Findings) -> tuple[list[str], list[list[str]]]:
    header = ['', 'new, nats', 'said again, nats', 'best induction score', 'best previous-token score']
    rows = []
    for arm, histories in findings.histories.items():
        cells = [final(histories, 'new'), final(histories, 'again')]
        cells += [[float(best(history, kind)[-1]) for history in histories] for kind in ('induction', 'previous')]
        rows.append([arm, *(_interval(statistics.mean_interval(values)) for values in cells)])
    return header, rows


def _interval(interval: statistics.Interval) -> str:
    if interval.low is None:
        return f'{interval.mean:.3f}'
    return f'{interval.mean:.3f} ± {interval.high - interval.mean:.3f}'


def comparisons(findings: Findings) -> dict[str, statistics.Difference]:
    """Paired over seeds: losses on repeated spans of arms, and with and without some heads."""
    two = final(findings.histories[TWO], 'again')
    found = {
        ONE: statistics.paired_difference(final(findings.histories[ONE], 'again'), two),
        RANDOM: statistics.paired_difference(final(findings.histories[RANDOM], 'again'), two),
    }
    whole = [removal.whole for removal in findings.removals]
    for name, label in REMOVED.items():
        losses = [getattr(removal, name) for removal in findings.removals]
        if None not in losses:
            found[label] = statistics.paired_difference(losses, whole)
    return found


REMOVED = {
    'without_induction': 'the induction heads',
    'without_previous': 'the head below that looks back',
    'without_others': 'as many other heads',
}


def sentences(findings: Findings) -> list[str]:
    """What was found, with what it rests on."""
    found = comparisons(findings)
    low = statistics.mean_interval(final(findings.histories[TWO], 'again')).mean
    said = [
        f'Two layers come to {low:.2f} nats on spans that are said again. One layer stays {_difference(found[ONE])} '
        f'above, two layers whose training never repeated {_difference(found[RANDOM])}.'
    ]
    heads = [head for removal in findings.removals for head in removal.induction]
    if not heads:
        return [*said, f'No head has an induction score of {measuring.FOUND:g} or more.']
    counts = ', '.join(str(len(removal.induction)) for removal in findings.removals)
    upper = sum(layer > 0 for layer, _ in heads)
    said.append(
        f'Heads with an induction score of {measuring.FOUND:g} or more, by seed: {counts}; {upper} of {len(heads)} are '
        'in the second layer.'
    )
    for label in REMOVED.values():
        if label in found:
            said.append(f'Without {label}, spans that are said again cost {_difference(found[label])} more.')
    if all(removal.scores_without_previous for removal in findings.removals):
        before, after = (
            np.mean([np.mean(getattr(removal, name)) for removal in findings.removals])
            for name in ('scores', 'scores_without_previous')
        )
        said.append(
            f'Without the head that looks back the induction scores fall from {before:.2f} to {after:.2f}: what it '
            'writes is what the induction heads search for.'
            if after < before / 2
            else f'Without the head that looks back the induction scores go from {before:.2f} to {after:.2f}.'
        )
    return said


def _difference(difference: statistics.Difference) -> str:
    if difference.low is None:
        return f'{difference.mean:.2f} nats'
    return f'{difference.mean:.2f} nats (95% interval {difference.low:.2f} to {difference.high:.2f})'


# -------------------------------------------------------------------------------------------------------------- page


def write(out: pathlib.Path, plan: Plan, findings: Findings) -> pathlib.Path:
    """Writes `report.html` and `results.json`."""
    results = {
        'plan': dataclasses.asdict(plan),
        'code': code_version(),
        'seconds': findings.seconds,
        'histories': {arm: [_plain(one) for one in several] for arm, several in findings.histories.items()},
        'removals': [_plain(removal) for removal in findings.removals],
        'comparisons': {name: one._asdict() for name, one in comparisons(findings).items()},
    }
    write_atomically(out / 'results.json', json.dumps(results, indent=1) + '\n')
    text, patterns = findings.patterns
    context = {
        'subtitle': f'{sum(map(len, findings.histories.values()))} runs · attention only, width {plan.width}, '
        f'{plan.heads} heads a layer · {plan.steps:,} steps of {plan.rows} sequences · seeds: {plan.seeds} · training '
        f'took {units.duration(findings.seconds)}',
        'sentences': sentences(findings),
        'losses': [_loss_plot(findings), _score_plot(findings)],
        'heads': [_heads_plot(findings, 'previous', 0), _heads_plot(findings, 'induction', 1)],
        'removed': _removal_plot(findings),
        'patterns': [_pattern_figure(name, map_, text) for name, map_ in patterns],
        'table': _rows(findings),
        'period': plan.period,
        'found': measuring.FOUND,
        'rows': plan.rows_measured,
    }
    return pages.write_page('page.html.j2', out / 'report.html', context, pathlib.Path(__file__).parent)


def _plain(one: Any) -> dict[str, Any]:
    plain = dataclasses.asdict(one)
    if isinstance(one, measuring.History):
        plain['scores'] = {name: scores.round(5).tolist() for name, scores in plain['scores'].items()}
    return plain


def _over_seeds(title: str, y_label: str, series: dict[str, list[np.ndarray]], steps: Sequence[int], dashed=()):
    """Mean over seeds, with everything between the lowest and the highest seed pale."""
    lines = []
    for colour, (name, curves) in enumerate(series.items()):
        curves = np.array(curves)
        band = (curves.min(0), curves.max(0)) if len(curves) > 1 else None
        lines.append(plots.Series(name, steps, curves.mean(0), colour, dashed=name in dashed, band=band))
    return plots.line_plot(title, 'step', y_label, lines, from_zero=True)


def _loss_plot(findings: Findings):
    series = {arm: [history.again for history in histories] for arm, histories in findings.histories.items()}
    series[NEW] = [history.new for history in findings.histories[TWO]]
    steps = findings.histories[TWO][0].steps
    return _over_seeds('Loss on spans that are said again', 'nats per token', series, steps, dashed=(NEW,))


def _score_plot(findings: Findings):
    series = {
        arm: [best(history, 'induction') for history in histories] for arm, histories in findings.histories.items()
    }
    return _over_seeds(
        'Best induction score of any head', 'share of attention', series, findings.histories[TWO][0].steps
    )


def _heads_plot(findings: Findings, kind: str, layer: int):
    words = {'previous': 'previous token', 'induction': 'what came next before'}
    title = f'Layer {layer}, every head of every seed: attention to {words[kind]}'
    lines = []
    for seed, history in enumerate(findings.histories[TWO]):
        for head in range(history.scores[kind].shape[2]):
            curve = history.scores[kind][:, layer, head]
            lines.append(plots.Series(f'seed {seed}', history.steps, curve, seed, legend=head == 0))
    return plots.line_plot(title, 'step', 'share of attention', lines, from_zero=True)


def _removal_plot(findings: Findings):
    spans = []
    whole = [removal.whole for removal in findings.removals]
    found = comparisons(findings)
    for colour, (name, label) in enumerate(REMOVED.items()):
        if label in found:
            points = [getattr(removal, name) - base for removal, base in zip(findings.removals, whole, strict=True)]
            spans.append(
                plots.Span(f'without {label}', found[label].mean, found[label].low, found[label].high, points, colour)
            )
    return plots.interval_plot('What spans that are said again cost', 'nats per token above the whole model', spans)


def _pattern_figure(title: str, pattern: np.ndarray, text: str) -> Markup:
    """A head's attention as a picture: a row for each query, a column for each key."""
    size, cell = len(text), 10
    squares = [
        Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="var(--series-1)" fill-opacity="{:.2f}"/>').format(
            (key + 1) * cell, (query + 1) * cell, cell - 1, cell - 1, pattern[query, key]
        )
        for query in range(size)
        for key in range(query + 1)
        if pattern[query, key] >= 0.02
    ]
    letter = Markup('<text x="{}" y="{}" text-anchor="middle" font-size="8" fill="currentColor">{}</text>')
    names = [letter.format((place + 1.45) * cell, 0.75 * cell, character) for place, character in enumerate(text)]
    names += [letter.format(0.5 * cell, (place + 1.75) * cell, character) for place, character in enumerate(text)]
    side = (size + 1) * cell
    return Markup(
        '<figure><figcaption>{}</figcaption><svg role="img" aria-label="{}" viewBox="0 0 {} {}">{}{}</svg></figure>'
    ).format(title, title, side, side, Markup('').join(squares), Markup('').join(names))
