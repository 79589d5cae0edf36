"""From the stages' arrays to curves of gold reward against KL."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from experiments.rlhf.plan import Plan
from experiments.rlhf.reinforcement import agree
from experiments.rlhf.statistics import Fit, Kind, at_kl, best_of_n, fit
from experiments.rlhf.store import Tree
from llm.inference.best_of_n import kl_bound


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
        golden, proxy = [], []
        for own_raw, own_statistics, own_gold in zip(raw, statistics, gold):
            if agreement == 'single':
                judges = [agree(one[None], numbers[None], 0.0) for one, numbers in zip(own_raw, own_statistics)]
            else:
                judges = [agree(own_raw, own_statistics, float(agreement == 'min'))]
            golden.append(np.mean([best_of_n(judge, own_gold, self.plan.ns) for judge in judges], axis=0).T)
            proxy.append(np.mean([best_of_n(judge, judge, self.plan.ns) for judge in judges], axis=0).T)
        golden, proxy = np.stack(golden), np.stack(proxy)
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

    def policies(self) -> list[tuple[Curve, np.ndarray]]:
        """Every trained policy's curve, and how many of its responses end at last, (seeds,)."""
        agreed = [self.ensemble(kind, c) for kind in ('mean', 'min') for c in self.plan.ensemble_coefficients]
        arms = {
            'ppo': [curve for _, curve in self.by_coefficient('ppo')],
            'grpo': [curve for _, curve in (*self.by_coefficient('grpo'), *self.grpo_by_size()[1:])],
            'ensembles': agreed,
        }
        return [
            (curve, self.stages[stage]['ended'][:, arm, -1])
            for stage, own in arms.items()
            for arm, curve in enumerate(own)
        ]

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
