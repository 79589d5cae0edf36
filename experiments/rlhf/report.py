"""The page: claims first, then the curves they rest on, then responses to read."""

import json
import pathlib
from typing import Any

import numpy as np

from experiments.rlhf import findings, wishlist
from experiments.rlhf.curves import Curve, Curves, penalty
from experiments.rlhf.plan import SHOWN
from experiments.rlhf.statistics import Fit, Interval, Kind, over_seeds
from llm.analysis import pages, plots
from llm.analysis.plots import Series
from llm.environment import code_version, cpu_model, processors
from llm.workdir import write_atomically

HERE = pathlib.Path(__file__).parent
MARKS = {
    'shown': 'done',
    'in every seed': 'running',
    'one seed': 'running',
    'in part': 'running',
    'not shown': 'failed',
    'opposite': 'failed',
}
WORDS = {
    'shown': 'shown',
    'in every seed': 'in every seed, but not surely',
    'one seed': 'in the one seed there is',
    'in part': 'shown in part',
    'not shown': 'not shown',
    'opposite': 'the opposite',
}
ROOT_KL = '√KL from the SFT model (KL in nats)'


def write(out: pathlib.Path, curves: Curves, times: dict[str, tuple[float, float]]) -> pathlib.Path:
    """Writes `report.html` and `results.json` into a folder.

    Raises:
        MachineError: if the page cannot be written.
    """
    results = findings.as_json(curves) | {'times': times, 'code': code_version()}
    write_atomically(out / 'results.json', json.dumps(results, indent=1) + '\n')
    claims = findings.claims(curves)
    context = {
        'subtitle': _subtitle(curves, times),
        'cards': _cards(curves),
        'claims': [(claim, MARKS[claim.verdict], WORDS[claim.verdict]) for claim in claims],
        'words': WORDS,
        'sections': _plots(curves),
        'targets': [f'{target:g}' for target in curves.plan.targets],
        'compared': _compared(curves),
        'endings': [[name, *map(str, row[:-1]), f'{row[-1].mean:.1%}'] for name, row in findings.endings(curves)],
        'fits': [_fit_row(name, one) for name, one in findings.fits(curves)],
        'rewards': _reward_rows(curves),
        'responses': _responses(curves),
        'facts': pages.facts({'plan': vars(curves.plan), 'seconds, and of processors': _seconds(times)}),
    }
    return pages.write_page('report.html.j2', out / 'report.html', context, folder=HERE)


def _subtitle(curves: Curves, times: dict[str, tuple[float, float]]) -> str:
    seeds = len(curves.plan.seeds)
    wall, processor = (sum(each[i] for each in times.values()) / 60 for i in range(2))
    return (
        f'{seeds} seed{"s" if seeds > 1 else ""} · {wall:.0f} minutes, {processor:.0f} of processor time, on '
        f'{processors()} cores ({cpu_model()}) · code {code_version()}'
    )


def _seconds(times: dict[str, tuple[float, float]]) -> dict[str, str]:
    return {name: f'{wall:.0f}, {processor:.0f}' for name, (wall, processor) in times.items()}


def _cards(curves: Curves) -> list[tuple[str, str, str]]:
    models, preferences = curves.stages['reward_models'], curves.stages['preferences']
    accuracy = {size: over_seeds(models[str(size)]['accuracy'].mean(1)) for size in curves.plan.sizes}
    single = curves.best_of_n(curves.weak).gold.mean((0, 2))
    ceiling = curves.best_of_n_by_gold().gold.mean((0, 2))
    cards = [('gold of the SFT model', f'{curves.sft.mean():.2f}', 'of at most 4')]
    for size in (curves.plan.sizes[0], curves.plan.sizes[-1]):
        cards.append(
            (
                f'accuracy, {size:,} pairs',
                f'{accuracy[size].mean:.1%}',
                f'held out; best possible {preferences["bayes"].mean():.1%}',
            )
        )
    peak = int(single.argmax())
    cards.append(
        (
            'best-of-n, weak model',
            f'{single[peak]:.2f}',
            f'at n = {curves.plan.ns[peak]}; {single[-1]:.2f} at {curves.plan.ns[-1]}',
        )
    )
    cards.append(('best-of-n, gold reward', f'{ceiling[-1]:.2f}', f'at n = {curves.plan.ns[-1]}'))
    for stage in ('ppo', 'grpo'):
        curve = curves.unpenalised(stage)
        cards.append(
            (
                f'{stage.upper()}, no penalty',
                _signed(curve.gold[:, -1].mean()),
                f'gold at KL {curve.kl[:, -1].mean():.1f}',
            )
        )
    return cards


def _signed(value: float) -> str:
    return f'{value:.2f}'.replace('-', '−')


def _plots(curves: Curves) -> list[dict[str, Any]]:
    """Sections of plots: title, what to see, plots."""
    plan = curves.plan
    weak = curves.best_of_n(curves.weak)
    overoptimised = [_gold_and_proxy(curves, weak, 'best_of_n', f'Best-of-n, {curves.weak:,} pairs', per_seed=False)]
    for stage in ('ppo', 'grpo'):
        curve = curves.unpenalised(stage)
        overoptimised.append(_gold_and_proxy(curves, curve, 'rl', f'{stage.upper()}, no KL penalty', per_seed=True))
    size, curve = curves.grpo_by_size()[1]
    title = f'GRPO, no KL penalty, {size:,} pairs'
    overoptimised.append(_gold_and_proxy(curves, curve, 'rl', title, per_seed=True))
    sizes = [(f'{size:,} pairs', curves.best_of_n(size)) for size in plan.sizes]
    ceiling = ('the gold reward', curves.best_of_n_by_gold())
    ensembles = [
        (name, curves.best_of_n(curves.weak, kind))
        for name, kind in (('one', 'single'), ('mean', 'mean'), ('least', 'min'))
    ]
    coefficients = {stage: curves.by_coefficient(stage) for stage in ('ppo', 'grpo')}
    alone = ('one, no penalty', curves.unpenalised('grpo'))
    agreed = [
        (f'{word}, {penalty(c)}', curves.ensemble(kind, c))
        for kind, word in (('mean', 'mean'), ('min', 'least'))
        for c in plan.ensemble_coefficients
    ]
    return [
        {
            'title': 'Over-optimisation',
            'text': 'Gold and proxy as gains over the SFT model, in deviations of each over the SFT model’s own '
            'responses. Left of its peak, the proxy is a guide; right of it, it is what is being exploited. Dashed: '
            'the fitted forms of Gao et al. (2022) for gold. Policies: a line for each seed, as their KLs differ.',
            'plots': overoptimised,
        },
        {
            'title': 'All methods on one scale',
            'text': f'Gold reward by √KL; reward models and DPO have {curves.weak:,} pairs. Areas are 95% intervals '
            'over the seeds, drawn as far as every seed’s curve goes.',
            'plots': [
                _gold_curves(
                    'Gold reward by method',
                    curves,
                    [
                        ('best-of-n', weak),
                        ('DPO, by beta', curves.dpo()),
                        ('PPO, no penalty', curves.unpenalised('ppo')),
                        ('GRPO, no penalty', curves.unpenalised('grpo')),
                    ],
                ),
                _gold_curves(
                    'GRPO by pairs for the reward model, no penalty',
                    curves,
                    [(f'{size:,} pairs', c) for size, c in curves.grpo_by_size()],
                ),
            ],
        },
        {
            'title': 'Better judges',
            'text': 'Best-of-n by more data and by agreement: the ceiling is the gold reward as the judge; an '
            f'ensemble is {plan.members} reward models on the same {curves.weak:,} pairs with other heads and orders.',
            'plots': [
                _gold_curves('Best-of-n by pairs for the reward model', curves, [*sizes, ceiling]),
                _gold_curves('Best-of-n by an ensemble', curves, ensembles),
                _gold_curves('GRPO by an ensemble', curves, [alone, *agreed]),
            ],
        },
        {
            'title': 'What a KL penalty does',
            'text': 'KL over training by coefficient, a line for each seed; and where the same policies end in gold.',
            'plots': [
                plot
                for stage, arms in coefficients.items()
                for plot in (
                    _over_steps(f'KL of {stage.upper()} over training', 'KL in nats', plan, arms, 'kl'),
                    _over_steps(f'Gold of {stage.upper()} over training', 'gold reward', plan, arms, 'gold'),
                )
            ],
        },
    ]


def _gold_and_proxy(curves: Curves, curve: Curve, kind: Kind, title: str, per_seed: bool):
    gold, proxy = curve.gain.mean(-1) / curves.deviation, (curve.proxy - curve.proxy[:, :1]).mean(-1)
    roots = np.sqrt(np.maximum(curve.kl.mean(-1), 0))
    series = []
    for colour, (name, values) in enumerate((('gold', gold), ('proxy', proxy))):
        if per_seed:
            for seed in range(len(values)):
                series.append(Series(name, roots[seed], values[seed], colour=colour, legend=seed == 0))
        else:
            series.append(_with_band(name, roots[0], values, colour))
    fitted = curve.fitted(kind)
    x = np.linspace(0, roots.max(), 60)
    name = 'fit of gold: ' + ('d(α − βd)' if kind == 'best_of_n' else 'd(α − β log d)')
    series.append(Series(name, x, fitted(x**2) / curves.deviation, colour=2, dashed=True))
    return plots.line_plot(title, ROOT_KL, 'gain, deviations', series)


def _gold_curves(title: str, curves: Curves, named: list[tuple[str, Curve]]):
    """Gold against √KL, each curve as far as all its seeds go, with intervals over them."""
    series = []
    for colour, (name, curve) in enumerate(named):
        reach = min(kl.mean(-1).max() for kl in curve.kl)
        x = np.linspace(0, np.sqrt(reach) * 0.999, 30)
        values = np.stack([curve.at(root**2) for root in x], axis=1)
        series.append(_with_band(name, x, values, colour))
    return plots.line_plot(title, ROOT_KL, 'gold reward', series)


def _over_steps(title: str, label: str, plan, arms, what: str):
    steps = (0, *plan.looks)
    series = [
        Series(penalty(coefficient), steps, values, colour=colour, legend=seed == 0)
        for colour, (coefficient, curve) in enumerate(arms)
        for seed, values in enumerate(getattr(curve, what).mean(-1))
    ]
    return plots.line_plot(title, 'step', label, series)


def _with_band(name: str, x: np.ndarray, values: np.ndarray, colour: int) -> Series:
    """The mean over seeds of (seeds, points), with intervals where there are several seeds."""
    intervals = [over_seeds(column) for column in values.T]
    band = None
    if len(values) > 1:
        band = ([each.low for each in intervals], [each.high for each in intervals])
    return Series(name, x, [each.mean for each in intervals], colour=colour, band=band)


def _compared(curves: Curves) -> list[tuple[str, list[str]]]:
    table = findings.at_equal_kl(findings.compared(curves), curves.plan.targets)
    return [(name, ['—' if value is None else str(value) for value in row]) for name, row in table]


def _fit_row(name: str, one: Fit) -> list[str]:
    form = 'd(α − βd)' if one.kind == 'best_of_n' else 'd(α − β log d)'
    return [name, form, str(one.alpha), str(one.beta), str(one.peak_kl), f'{one.r_squared:.2f}']


def _reward_rows(curves: Curves) -> list[list[str]]:
    """Each data size: pairs, members, accuracy, correlation with gold over the pool."""
    gold, rows = curves.stages['pool']['gold'], []
    for size in curves.plan.sizes:
        models = curves.stages['reward_models'][str(size)]
        raw = models['raw']
        correlation = [
            np.mean([np.corrcoef(raw[i, m].ravel(), gold[i].ravel())[0, 1] for m in range(raw.shape[1])])
            for i in range(len(gold))
        ]
        rows.append(
            [
                f'{size:,}',
                str(raw.shape[1]),
                _percent(over_seeds(models['accuracy'].mean(1))),
                str(over_seeds(np.array(correlation))),
            ]
        )
    rows.append(['the gold reward', '', _percent(over_seeds(curves.stages['preferences']['bayes'])), '1'])
    return rows


def _percent(interval: Interval) -> str:
    ends = '' if np.isnan(interval.low) else f' [{interval.low:.1%}, {interval.high:.1%}]'
    return f'{interval.mean:.1%}{ends}'


def _responses(curves: Curves) -> dict[str, Any]:
    """Responses to some held-out prompts: the prompts, and rows of (who, [(text, gold)])."""
    _, held_out = wishlist.prompts()
    pool, raw = curves.stages['pool'], curves.stages['reward_models'][str(curves.weak)]['raw']
    shown = list(SHOWN)
    best = raw[0, 0, shown, :64].argmax(-1)
    rows = [('SFT', pool['tokens'][0, shown, 0], pool['lengths'][0, shown, 0])]
    rows.append(('best of 64, weak model', pool['tokens'][0, shown, best], pool['lengths'][0, shown, best]))
    dpo = curves.stages['dpo']
    for index, beta in enumerate(curves.plan.betas):
        if index in (len(curves.plan.betas) // 2, len(curves.plan.betas) - 1):
            rows.append((f'DPO, β = {beta:g}', dpo['tokens'][0, index], dpo['lengths'][0, index]))
    for stage in ('ppo', 'grpo'):
        tree = curves.stages[stage]
        for arm, coefficient in enumerate(curves.plan.coefficients):
            if coefficient == 0 or arm == 1:
                who = f'{stage.upper()}, {penalty(coefficient)}'
                for i, seed in enumerate(curves.plan.seeds):
                    if i == 0 or coefficient == 0:  # what is exploited differs from seed to seed
                        name = who + (f', seed {seed}' if i else '')
                        rows.append((name, tree['tokens'][i, arm], tree['lengths'][i, arm]))
    cells = []
    for who, tokens, lengths in rows:
        gold = wishlist.gold_reward(tokens, lengths)
        cells.append(
            (who, [(wishlist.text(*row) or '(empty)', _signed(value)) for *row, value in zip(tokens, lengths, gold)])
        )
    names = lambda prompt: ' '.join(wishlist.NAMES[token] for token in prompt[1:-1])
    return {'prompts': [names(held_out[i]) for i in shown], 'rows': cells}
