"""From the stages' arrays to curves, and from curves to what can be claimed."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.rlhf.plan import Plan
from experiments.rlhf.reinforcement import agree
from experiments.rlhf.statistics import Fit, Interval, Kind, at_kl, best_of_n, fit, over_prompts, over_seeds
from experiments.rlhf.store import Tree
from llm.inference.best_of_n import kl_bound

Verdict = Literal['shown', 'in every seed', 'one seed', 'not shown', 'opposite']


@dataclass(frozen=True)
class Curve:
    """A way from the SFT model on.

    Attributes:
        name: for people.
        kl, gold: (seeds, points, prompts), the first point the SFT model. Gold reward, not standardised.
        proxy: the same of what was optimised, in deviations over the SFT model's samples; None where there is none.
    """

    name: str
    kl: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray | None = None

    @property
    def gain(self) -> np.ndarray:
        """(seeds, points, prompts) over the SFT model."""
        return self.gold - self.gold[:, :1]

    def at(self, target: float) -> np.ndarray:
        """Gold reward (seeds,) where the curve first reaches this KL."""
        return np.array([at_kl(kl.mean(-1), gold.mean(-1), target) for kl, gold in zip(self.kl, self.gold)])

    def fitted(self, kind: Kind) -> Fit:
        return fit(kind, self.kl[:, 1:], self.gain[:, 1:])


class Curves:
    """Every curve of the experiment."""

    def __init__(self, plan: Plan, stages: dict[str, Tree]):
        self.plan, self.stages = plan, stages
        self.sft = stages['pool']['gold'].mean(-1)  # (seeds, prompts)
        self.deviation = float(stages['pool']['gold'].std(axis=(1, 2)).mean())  # of gold over the SFT model's samples
        self.weak = plan.sizes[0]
        self.best_of_n_kl = np.array([kl_bound(n) for n in plan.ns])

    def best_of_n(self, size: int, agreement: Literal['single', 'mean', 'min'] = 'single') -> Curve:
        """The best of n by a reward model, the mean over its repetitions, or by what they agree on."""
        models, gold = self.stages['reward_models'][str(size)], self.stages['pool']['gold']
        raw, statistics = models['raw'], models['statistics']
        each = []
        for i in range(len(gold)):
            if agreement == 'single':
                judged = [agree(raw[i, [m]], statistics[i, [m]], 0.0) for m in range(raw.shape[1])]
            else:
                judged = [agree(raw[i], statistics[i], float(agreement == 'min'))]
            each.append(
                [
                    np.mean([best_of_n(judge, values, self.plan.ns) for judge, values in pairs], axis=0).T
                    for pairs in ([(judge, gold[i]) for judge in judged], [(judge, judge) for judge in judged])
                ]
            )
        golden, proxy = (np.stack([one[k] for one in each]) for k in range(2))
        what = {'single': 'one reward model', 'mean': 'mean of the ensemble', 'min': 'least of the ensemble'}[agreement]
        return Curve(f'best-of-n, {what}, {size:,} pairs', self._kl(golden), golden, proxy)

    def best_of_n_by_gold(self) -> Curve:
        """The ceiling: the best of n by the gold reward itself."""
        gold = self.stages['pool']['gold']
        best = best_of_n(gold, gold, self.plan.ns).swapaxes(1, 2)
        return Curve('best-of-n, gold reward', self._kl(best), best)

    def _kl(self, like: np.ndarray) -> np.ndarray:
        return np.broadcast_to(self.best_of_n_kl[:, None], like.shape)

    def dpo(self) -> Curve:
        """DPO after training, a point for each beta, from the largest on."""
        stage = self.stages['dpo']
        first = lambda start, rest: np.concatenate([start[:, None], rest], axis=1)
        return Curve(
            f'DPO, {self.weak:,} pairs',
            first(np.zeros_like(self.sft), stage['kl']),
            first(self.sft, stage['gold']),
        )

    def policy(self, stage: Literal['ppo', 'grpo', 'ensembles'], arm: int, name: str) -> Curve:
        """A policy along its training."""
        tree = self.stages[stage]
        gold = tree['gold'][:, arm].copy()
        gold[:, 0] = self.sft  # measured on many more samples
        return Curve(name, tree['kl'][:, arm], gold, tree['proxy'][:, arm])

    def by_coefficient(self, stage: Literal['ppo', 'grpo']) -> list[tuple[float, Curve]]:
        return [
            (coefficient, self.policy(stage, arm, f'{stage.upper()}, {penalty(coefficient)}'))
            for arm, coefficient in enumerate(self.plan.coefficients)
        ]

    def unpenalised(self, stage: Literal['ppo', 'grpo']) -> Curve:
        return self.by_coefficient(stage)[self.plan.coefficients.index(0.0)][1]

    def grpo_by_size(self) -> list[tuple[int, Curve]]:
        """GRPO without a penalty against reward models of each data size."""
        arms = [self.plan.coefficients.index(0.0)]
        arms += [len(self.plan.coefficients) + i for i in range(len(self.plan.sizes) - 1)]
        return [
            (size, self.policy('grpo', arm, f'GRPO, no penalty, {size:,} pairs'))
            for size, arm in zip(self.plan.sizes, arms)
        ]

    def ensemble(self, agreement: Literal['mean', 'min'], coefficient: float) -> Curve:
        """GRPO against the ensemble."""
        count = len(self.plan.ensemble_coefficients)
        arm = (agreement == 'min') * count + self.plan.ensemble_coefficients.index(coefficient)
        what = {'mean': 'mean', 'min': 'least'}[agreement]
        return self.policy('ensembles', arm, f'GRPO, {what} of the ensemble, {penalty(coefficient)}')


def penalty(coefficient: float) -> str:
    return f'KL penalty {coefficient:g}' if coefficient else 'no penalty'


@dataclass(frozen=True)
class Evidence:
    """A difference that a claim rests on.

    Attributes:
        what: the two sides.
        interval: the mean over seeds, and its interval over them.
        seeds: each seed's own mean, and its interval over the held-out prompts.
    """

    what: str
    interval: Interval
    seeds: tuple[Interval, ...]

    @property
    def verdict(self) -> Verdict:
        """Shown, if the interval over seeds is above 0 or if every seed's own is: three repetitions, each sure."""
        if len(self.seeds) < 2:
            return 'one seed' if self.seeds[0].low > 0 else 'not shown'
        if self.interval.low > 0 or all(each.low > 0 for each in self.seeds):
            return 'shown'
        if self.interval.high < 0 or all(each.high < 0 for each in self.seeds):
            return 'opposite'
        return 'in every seed' if all(each.mean > 0 for each in self.seeds) else 'not shown'


@dataclass(frozen=True)
class Claim:
    """Something that over-optimisation is said to do, and what was seen of it here."""

    title: str
    text: str
    evidence: tuple[Evidence, ...]

    @property
    def verdict(self) -> str:
        """In a few words, over all the evidence."""
        verdicts = [each.verdict for each in self.evidence]
        if all(verdict == 'shown' for verdict in verdicts):
            return 'shown'
        seen = ('shown', 'in every seed', 'one seed')
        if all(verdict in seen for verdict in verdicts):
            return 'one seed' if 'one seed' in verdicts else 'in every seed'
        if any(verdict in seen for verdict in verdicts):
            return 'in part'
        return 'opposite' if all(verdict == 'opposite' for verdict in verdicts) else 'not shown'


def evidence(what: str, differences: np.ndarray) -> Evidence:
    """From differences (seeds, prompts) that are positive where the claim has it right."""
    return Evidence(what, over_seeds(differences.mean(-1)), tuple(over_prompts(own) for own in differences))


def claims(curves: Curves) -> list[Claim]:
    """Each claim of the experiment with its evidence."""
    return [
        _best_of_n_turns(curves),
        _policies_fall(curves),
        _more_pairs_help(curves),
        _penalty_bounds(curves),
        _ensembles_help(curves),
    ]


def _mean(values: np.ndarray) -> Interval:
    """Of (seeds, prompts), over seeds."""
    return over_seeds(values.mean(-1))


def _highest(curve: Curve) -> np.ndarray:
    """Gold (seeds, prompts) at the point of each seed's curve where its mean is highest."""
    return np.stack([gold[gold.mean(-1).argmax()] for gold in curve.gold])


def _best_of_n_turns(curves: Curves) -> Claim:
    gold, n = curves.best_of_n(curves.weak).gold, curves.plan.ns
    top, last = int(gold.mean((0, 2)).argmax()), _place(curves.plan, 64)
    text = (
        f'Judged by a reward model that learned from {curves.weak:,} pairs, one sample is worth {_mean(gold[:, 0])}, '
        f'the best of {n[top]} {_mean(gold[:, top])}, the best of {n[last]} {_mean(gold[:, last])}.'
    )
    return Claim(
        'Best-of-n turns: choosing harder by a weak reward model ends in a worse response',
        text,
        (evidence(f'gold, best of {n[top]} − best of {n[last]}', gold[:, top] - gold[:, last]),),
    )


def _policies_fall(curves: Curves) -> Claim:
    found, parts = [], []
    for stage in ('ppo', 'grpo'):
        curve, name = curves.unpenalised(stage), stage.upper()
        gold, proxy = curve.gold, curve.proxy
        found.append(evidence(f'{name}: proxy at the end − at the start', proxy[:, -1] - proxy[:, 0]))
        found.append(evidence(f'{name}: gold of SFT − gold at the end', gold[:, 0] - gold[:, -1]))
        parts.append(
            f'{name} raises the proxy by {_mean(proxy[:, -1] - proxy[:, 0])} deviations and takes gold from {_mean(gold[:, 0])} to '
            f'{_mean(gold[:, -1])} (highest on the way: {_mean(_highest(curve))}), at a KL of '
            f'{_mean(curve.kl[:, -1])} nats.'
        )
    title = 'Without a KL penalty the proxy rises while gold falls below the SFT model'
    return Claim(title, ' '.join(parts), tuple(found))


def _more_pairs_help(curves: Curves) -> Claim:
    small, large = curves.plan.sizes[0], curves.plan.sizes[-1]
    last = _place(curves.plan, 64)
    best = {size: curves.best_of_n(size).gold[:, last] for size in curves.plan.sizes}
    highest = {size: _highest(curve) for size, curve in curves.grpo_by_size()}
    ends = {size: curve.gold[:, -1] for size, curve in curves.grpo_by_size()}
    listed = lambda values: ', '.join(f'{size:,}: {_mean(value)}' for size, value in values.items())
    n, sides = curves.plan.ns[last], f'{large:,} − {small:,} pairs'
    text = (
        f'Gold of the best of {n} by pairs: {listed(best)}. Highest gold of GRPO without a penalty: {listed(highest)}; '
        f'at its end: {listed(ends)}.'
    )
    found = (
        evidence(f'best of {n}: {sides}', best[large] - best[small]),
        evidence(f'GRPO, highest: {sides}', highest[large] - highest[small]),
        evidence(f'GRPO, at the end: {sides}', ends[large] - ends[small]),
    )
    return Claim('More pairs for the reward model raise gold', text, found)


def _penalty_bounds(curves: Curves) -> Claim:
    found, parts = [], []
    for stage in ('ppo', 'grpo'):
        name, ends = stage.upper(), {c: curve.kl[:, -1] for c, curve in curves.by_coefficient(stage)}
        listed = ', '.join(f'{c:g}: {_mean(kl)}' for c, kl in ends.items())
        parts.append(f'KL at the end of {name} by coefficient, in nats: {listed}.')
        for low, high in itertools.pairwise(sorted(ends)):
            found.append(evidence(f'{name}: KL with coefficient {low:g} − with {high:g}', ends[low] - ends[high]))
    return Claim('A KL penalty bounds KL', ' '.join(parts), tuple(found))


def _ensembles_help(curves: Curves) -> Claim:
    last = _place(curves.plan, 64)
    n, single, alone = curves.plan.ns[last], curves.best_of_n(curves.weak), curves.unpenalised('grpo')
    found = []
    described = lambda best, trained: (
        f'{_mean(best.gold[:, last])}; GRPO without a penalty: highest {_mean(_highest(trained))}, at the end '
        f'{_mean(trained.gold[:, -1])}'
    )
    parts = [f'Gold of the best of {n} by one reward model: {described(single, alone)}.']
    for agreement, word in (('mean', 'mean'), ('min', 'least')):
        best, trained = curves.best_of_n(curves.weak, agreement), curves.ensemble(agreement, 0.0)
        parts.append(f'By the {word} of {curves.plan.members}: {described(best, trained)}.')
        found += [
            evidence(f'best of {n}: {word} − one', best.gold[:, last] - single.gold[:, last]),
            evidence(f'GRPO, highest: {word} − one', _highest(trained) - _highest(alone)),
            evidence(f'GRPO, at the end: {word} − one', trained.gold[:, -1] - alone.gold[:, -1]),
        ]
    return Claim('An ensemble of reward models mitigates it', ' '.join(parts), tuple(found))


def _place(plan: Plan, n: int) -> int:
    """Where n is among the plan's, or the last."""
    return plan.ns.index(n) if n in plan.ns else len(plan.ns) - 1


def compared(curves: Curves) -> list[Curve]:
    """What is compared at equal KL."""
    rows = [curves.best_of_n_by_gold(), curves.best_of_n(curves.plan.sizes[-1])]
    rows += [curves.best_of_n(curves.weak, agreement) for agreement in ('single', 'mean', 'min')]
    rows.append(curves.dpo())
    rows += [curve for stage in ('ppo', 'grpo') for _, curve in curves.by_coefficient(stage)]
    rows += [curve for _, curve in curves.grpo_by_size()[1:]]
    for agreement in ('mean', 'min'):
        rows += [curves.ensemble(agreement, coefficient) for coefficient in curves.plan.ensemble_coefficients]
    return rows


def at_equal_kl(curves: Sequence[Curve], targets: Sequence[float]) -> list[tuple[str, list[Interval | None]]]:
    """For each curve, gold reward at each KL with its interval; None where some seed's never gets there."""
    table = []
    for curve in curves:
        values = [curve.at(target) for target in targets]
        table.append((curve.name, [over_seeds(value) if np.all(np.isfinite(value)) else None for value in values]))
    return table


def fits(curves: Curves) -> list[tuple[str, Fit]]:
    """Gao et al.'s forms, fitted."""
    best = [curves.best_of_n(size) for size in curves.plan.sizes]
    trained = [curves.unpenalised('ppo'), *(curve for _, curve in curves.grpo_by_size())]
    return [(c.name, c.fitted('best_of_n')) for c in best] + [(c.name, c.fitted('rl')) for c in trained]


def as_json(curves: Curves) -> dict:
    """Everything the page says, for programs."""
    number = lambda value: float(value) if math.isfinite(value) else None  # JSON has no others
    plain = lambda interval: None if interval is None else [number(value) for value in interval]
    return {
        'plan': dataclasses.asdict(curves.plan),
        'claims': [
            {
                'title': claim.title,
                'verdict': claim.verdict,
                'text': claim.text,
                'evidence': [
                    {
                        'what': e.what,
                        'verdict': e.verdict,
                        'interval': plain(e.interval),
                        'seeds': [plain(each) for each in e.seeds],
                    }
                    for e in claim.evidence
                ],
            }
            for claim in claims(curves)
        ],
        'gold_at_equal_kl': {
            name: dict(zip(map(str, curves.plan.targets), map(plain, row)))
            for name, row in at_equal_kl(compared(curves), curves.plan.targets)
        },
        'fits': {
            name: {
                'form': one.kind,
                'alpha': plain(one.alpha),
                'beta': plain(one.beta),
                'peak_kl': plain(one.peak_kl),
                'r_squared': number(one.r_squared),
            }
            for name, one in fits(curves)
        },
    }
