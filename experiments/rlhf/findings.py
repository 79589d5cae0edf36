"""What can be claimed of the curves, and how surely."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.rlhf.curves import Curve, Curves
from experiments.rlhf.plan import Plan
from experiments.rlhf.statistics import Fit, Interval, over_prompts, over_seeds

Verdict = Literal['shown', 'in every seed', 'one seed', 'not shown', 'opposite']


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
        _dpo_turns(curves),
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
            f'{name} raises the proxy by {_mean(proxy[:, -1] - proxy[:, 0])} deviations and takes gold from '
            f'{_mean(gold[:, 0])} to {_mean(gold[:, -1])} (highest on the way: {_mean(_highest(curve))}), at '
            f'a KL of {_mean(curve.kl[:, -1])} nats.'
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


def shared_errors(curves: Curves) -> np.ndarray:
    """How much the ensemble's members err alike: the mean correlation (seeds,) of what two of them say, less gold.

    Within each prompt's responses, as only there one is chosen over another; what a straight line on gold explains is
    taken out.
    """
    gold, raw = curves.stages['pool']['gold'], curves.stages['reward_models'][str(curves.weak)]['raw']
    centred = lambda x: x - x.mean(-1, keepdims=True)
    found = []
    for own_gold, own_raw in zip(centred(gold), centred(raw)):
        flat = own_gold.ravel()
        errors = [said.ravel() - flat * (said.ravel() @ flat) / (flat @ flat) for said in own_raw]
        found.append(np.mean(np.corrcoef(errors)[np.triu_indices(len(errors), 1)]))
    return np.array(found)


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
    parts.append(
        f'The errors of two members, within a prompt, correlate at {over_seeds(shared_errors(curves))}: what all of '
        'them get wrong together, no agreement of theirs can tell.'
    )
    return Claim('An ensemble of reward models mitigates it', ' '.join(parts), tuple(found))


def _dpo_turns(curves: Curves) -> Claim:
    curve, betas = curves.dpo(), curves.plan.betas
    gold, kl = curve.gold[:, 1:], curve.kl[:, 1:]
    top = int(gold.mean((0, 2)).argmax())
    text = (
        f'Of the betas, {betas[top]:g} ends best: gold {_mean(gold[:, top])} at a KL of {_mean(kl[:, top])}; '
        f'{betas[-1]:g}, the smallest, ends at {_mean(gold[:, -1])} and {_mean(kl[:, -1])} nats.'
    )
    return Claim(
        'Found besides: DPO, which has no reward model, turns too (Rafailov et al. 2024)',
        text,
        (evidence(f'gold, beta {betas[top]:g} − beta {betas[-1]:g}', gold[:, top] - gold[:, -1]),),
    )


def _place(plan: Plan, n: int) -> int:
    """Where n is among the plan's, or the last."""
    return plan.ns.index(n) if n in plan.ns else len(plan.ns) - 1


def compared(curves: Curves) -> list[Curve]:
    """What is compared at equal KL."""
    rows = [curves.best_of_n_by_gold(), curves.best_of_n(curves.plan.sizes[-1])]
    rows += [curves.best_of_n(curves.weak, agreement) for agreement in ('single', 'mean', 'min')]
    rows += [curves.dpo(), *(curve for curve, _ in curves.policies())]
    return rows


def at_equal_kl(curves: Sequence[Curve], targets: Sequence[float]) -> list[tuple[str, list[Interval | None]]]:
    """For each curve, gold reward at each KL with its interval; None where some seed's never gets there."""
    table = []
    for curve in curves:
        values = [curve.at(target) for target in targets]
        table.append((curve.name, [over_seeds(value) if np.all(np.isfinite(value)) else None for value in values]))
    return table


def endings(curves: Curves) -> list[tuple[str, list[Interval]]]:
    """Of every trained policy at the end: KL, gold, the proxy's gain, and the share of responses that end."""
    table = []
    for curve, ended in curves.policies():
        proxy = curve.proxy[:, -1] - curve.proxy[:, 0]
        table.append((curve.name, [*map(_mean, (curve.kl[:, -1], curve.gold[:, -1], proxy)), over_seeds(ended)]))
    return table


def fits(curves: Curves) -> list[tuple[str, Fit]]:
    """Gao et al.'s forms, fitted."""
    best = [curves.best_of_n(size) for size in curves.plan.sizes]
    trained = [curves.dpo(), curves.unpenalised('ppo'), *(curve for _, curve in curves.grpo_by_size())]
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
        'policies_at_the_end': {
            name: dict(zip(('kl', 'gold', 'proxy_gain', 'ended'), map(plain, row))) for name, row in endings(curves)
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
