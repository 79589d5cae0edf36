"""Curves of an ablation: means over the seeds with bands, and the paired difference along training."""

from collections.abc import Callable

from markupsafe import Markup

from llm.ablation.plan import UNIT, cost
from llm.ablation.results import Arm, Results
from llm.analysis import plots, statistics
from llm.analysis.plots import Series

Curve = dict[int, float]  # by step


def draw(results: Results) -> list[Markup]:
    """Held-out loss, training loss, and held-out differences to the base; without those that nothing is known for."""
    tokenizers = {(arm.config.tokenizer, arm.config.model.vocab_size) for arm in results.arms}
    axis = {'tokens': 'tokens', 'flops': 'training FLOPs'}[results.plan['budget']]
    drawn = [
        _plot('Held-out bits per byte along training', axis, UNIT, _means(results, _held_out), False),
        _plot('Training loss', axis, 'nats per token', _means(results, _training), True)
        if len(tokenizers) == 1
        else None,
        _plot(f'Held-out difference to {results.base.label}', axis, UNIT, _differences(results), False),
    ]
    return [one for one in drawn if one is not None]


def _plot(title: str, x_label: str, y_label: str, series: list[Series], log_y: bool) -> Markup | None:
    return plots.line_plot(title, x_label, y_label, series, log_y=log_y) if series else None


def _training(arm: Arm) -> list[Curve]:
    return [{row['step']: row['loss'] for row in run.workdir.rows('train')} for run in arm.runs]


def _held_out(arm: Arm) -> list[Curve]:
    """On the same few windows each time; the last evaluation, on all of them, is another measure and left out."""
    last = arm.config.training.steps
    rows = [run.workdir.rows('evaluation') for run in arm.runs]
    return [{row['step']: row['bits_per_byte'] for row in one if row['step'] < last} for one in rows]


def _means(results: Results, curves: Callable[[Arm], list[Curve]]) -> list[Series]:
    return [
        _series(arm, colour, curves(arm), budget=results.plan['budget'])
        for colour, arm in enumerate(results.arms)
        if _common(curves(arm))
    ]


def _differences(results: Results) -> list[Series]:
    """Of arms that make as many steps as the base."""
    series, base = [], _held_out(results.base)
    for colour, one in enumerate(results.comparisons, start=1):
        if one.arm.config.training.steps != results.base.config.training.steps:
            continue
        pairs = list(zip(_held_out(one.arm), base, strict=True))
        curves = [{step: a[step] - b[step] for step in a if step in b} for a, b in pairs]
        if _common(curves):
            series.append(_series(one.arm, colour, curves, results.plan['budget']))
    return series


def _series(arm: Arm, colour: int, curves: list[Curve], budget: str) -> Series:
    """The mean over seeds with Student's 95% interval, at the steps that all seeds have."""
    steps = _common(curves)
    intervals = [statistics.mean_interval([curve[step] for curve in curves]) for step in steps]
    band = None if len(curves) < 2 else ([one.low for one in intervals], [one.high for one in intervals])
    each = cost(arm.config, budget) / arm.config.training.steps
    return Series(arm.label, [each * step for step in steps], [one.mean for one in intervals], colour, band=band)


def _common(curves: list[Curve]) -> list[int]:
    return sorted(set.intersection(*map(set, curves))) if curves else []
