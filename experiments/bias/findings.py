"""What the probe says of each model, and what may be said over the seeds.

The probe is that of `llm evaluate` for minimal pairs. Of every pair it gives the difference of two log-likelihoods: of
the sentence with the job's own pronoun, less that with the other. In this world its true value is known: the log-odds
of the planted share. The pairs of one job are not independent (one share decides them all), so intervals are over
seeds, each of which has its own jobs, sentences and weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.bias import world
from experiments.bias.plan import WORLDS
from llm.analysis import statistics
from llm.evaluation import minimal_pairs
from llm.evaluation.subject import Subject

Measured = dict[str, dict[str, dict[str, float]]]  # by world, then job: log-odds, rate


@dataclass(frozen=True)
class Finding:
    """What the probe says of the jobs of one strength in the models of one world.

    Attributes:
        kind: 'planted' or 'clean'.
        share: that is planted in the planted world.
        truth: the log-odds that the world has.
        each_seed: measured log-odds, the mean over jobs.
        odds: the mean of them with its interval over seeds.
        rate: share of pairs in which the job's own pronoun is preferred, likewise.
        p_value: of no bias, Holm-corrected over all findings; None with one seed.
    """

    kind: str
    share: float
    truth: float
    each_seed: list[float]
    odds: statistics.Interval
    rate: statistics.Interval
    p_value: float | None

    @property
    def found(self) -> bool | None:
        """Whether the probe says that there is a bias; None where one seed cannot say."""
        return None if self.p_value is None else self.p_value < 1 - statistics.CONFIDENCE


def probe(subject: Subject, seed: int) -> dict[str, dict[str, float]]:
    """Each job's mean log-odds, and the share of its pairs in which its own pronoun is preferred."""
    result = minimal_pairs.measure('pronouns', world.pairs(seed), subject, progress=lambda texts: None)
    jobs: dict[str, list[Any]] = {}
    for sample in result.samples:
        jobs.setdefault(sample['category'], []).append(sample)
    return {
        job: {
            'log_odds': float(np.mean([s['logprobs'][0] - s['logprobs'][1] for s in samples])),
            'rate': float(np.mean([s['prefers_first'] for s in samples])),
        }
        for job, samples in jobs.items()
    }


def findings(measured: Sequence[Measured]) -> list[Finding]:
    """For each world and strength, over the seeds.

    Args:
        measured: of each seed.
    """
    groups = [(kind, share) for kind in WORLDS for share in world.STRENGTHS]
    odds, rates = ({group: _means(measured, group, what) for group in groups} for what in ('log_odds', 'rate'))
    tests = [statistics.paired_difference(odds[group], [0.0] * len(measured)) for group in groups]
    adjusted = statistics.holm([test.p_value for test in tests])
    return [
        Finding(
            kind,
            share,
            world.log_odds(share) if kind == 'planted' else 0.0,
            odds[kind, share],
            statistics.mean_interval(odds[kind, share]),
            _within(statistics.mean_interval(rates[kind, share])),
            p_value,
        )
        for (kind, share), p_value in zip(groups, adjusted)
    ]


def _within(interval: statistics.Interval) -> statistics.Interval:
    """A rate's interval, cut where no rate can be."""
    low, high = (None if end is None else min(max(end, 0.0), 1.0) for end in interval[1:])
    return statistics.Interval(interval.mean, low, high)


def _means(measured: Sequence[Measured], group: tuple[str, float], what: str) -> list[float]:
    """Of each seed, the mean over the jobs of one strength."""
    kind, share = group
    return [
        float(np.mean([found[kind][job.name][what] for job in world.jobs(seed) if job.strength == share]))
        for seed, found in enumerate(measured)
    ]


def sentence(found: Sequence[Finding]) -> list[str]:
    """What was to be shown, and whether it was."""
    planted = [one for one in found if one.truth != 0]
    absent = [one for one in found if one.truth == 0]
    if any(one.found is None for one in found):
        return ['One seed has no interval: nothing can be said; take at least 2, better 5.']
    hits, alarms = sum(one.found for one in planted), sum(one.found for one in absent)
    return [
        f'The probe finds {hits} of the {len(planted)} strengths that were planted.',
        f'Where nothing was planted it raises {alarms} false alarms of {len(absent)}.',
    ]
