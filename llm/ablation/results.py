"""What came of an ablation, read off its workdirs: each arm's runs, its difference to the base, and the verdict."""

import functools
import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm import config_json
from llm.ablation.plan import METRIC, PLAN, UNIT
from llm.analysis import statistics
from llm.analysis.statistics import Difference, Interval, Outcome
from llm.config import Config
from llm.errors import UserError
from llm.sweep import registry
from llm.sweep.registry import Run


@dataclass(frozen=True)
class Arm:
    """The runs of one arm, in the order of their seeds, with a row of `llm.sweep.registry.rows` each."""

    label: str
    runs: tuple[Run, ...]
    rows: tuple[dict[str, Any], ...]

    @functools.cached_property
    def config(self) -> Config:
        """Of its first seed."""
        return self.runs[0].workdir.config()

    @property
    def values(self) -> list[float | None]:
        """The metric of each run; None of one that is not done."""
        return [row.get(METRIC) if row['status'] == 'done' else None for row in self.rows]

    @property
    def missing(self) -> list[str]:
        """Runs that are not done, with how they stand."""
        return [f'{row["name"]} ({row["status"]})' for row in self.rows if row['status'] != 'done']

    @property
    def interval(self) -> Interval | None:
        """The metric's mean over the runs that are done."""
        values = [value for value in self.values if value is not None]
        return statistics.mean_interval(values) if values else None


@dataclass(frozen=True)
class Comparison:
    """An arm against the base.

    Attributes:
        arm: which.
        changed: {field: (the base's value, the arm's)} of the first seed's configs.
        difference: over paired seeds; None if a run of either is not done, as it would be of a choice of seeds.
        p_holm: after correction over all arms.
        outcome: see `llm.analysis.statistics.outcome`.
        verdict: a sentence, without the arm's name.
    """

    arm: Arm
    changed: dict[str, tuple[Any, Any]]
    difference: Difference | None
    p_holm: float | None
    outcome: Outcome
    verdict: str


@dataclass(frozen=True)
class Results:
    """A whole ablation, as it stands."""

    folder: pathlib.Path
    plan: dict[str, Any]
    base: Arm
    comparisons: tuple[Comparison, ...]

    @property
    def arms(self) -> list[Arm]:
        """The base, and all that is compared with it."""
        return [self.base, *[one.arm for one in self.comparisons]]

    @property
    def seeds(self) -> int:
        return len(self.base.runs)

    @property
    def summary(self) -> str:
        """The answer in a line."""
        named: dict[str, list[str]] = {}
        for one in self.comparisons:
            named.setdefault(one.outcome, []).append(one.arm.label)
        words = {'better': 'better', 'worse': 'worse', 'not distinguishable': 'not distinguishable from it'}
        words['untested'] = 'not tested'
        said = [f'{_list(named[key])} {_are(named[key])} {word}' for key, word in words.items() if key in named]
        budget = {'tokens': 'equal tokens', 'flops': 'equal training FLOPs'}[self.plan['budget']]
        rate = 'tuned per arm' if self.plan['learning_rate_factors'] else 'not tuned per arm'
        count = f'{self.seeds} paired seed{"s" if self.seeds > 1 else ""}'
        return f'Against {self.base.label}: {"; ".join(said)} ({count}, {budget}, learning rate {rate}).'


def read(folder: pathlib.Path) -> Results:
    """Reads an ablation that has been started.

    Raises:
        UserError: if the folder holds none.
    """
    path = folder / PLAN
    try:
        plan = json.loads(path.read_text(encoding='utf-8'))
        runs = {run.name: run for run in registry.open_sweep(folder)}
        groups = {label: [runs[name] for name in names] for label, names in plan['arms'].items()}
    except FileNotFoundError as error:
        raise UserError(f'{folder} holds no ablation; start one with `python -m experiments.ablations`') from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f'{path} is damaged ({error}); start the ablation again, what is done stays') from error
    every = [run for group in groups.values() for run in group]
    rows = {row['name']: row for row in registry.rows(every)}
    arms = {label: Arm(label, tuple(group), tuple(rows[run.name] for run in group)) for label, group in groups.items()}
    base = arms.pop(plan['base'])
    return Results(folder, plan, base, tuple(compare(base, list(arms.values()))))


def compare(base: Arm, arms: Sequence[Arm]) -> list[Comparison]:
    """Each arm against the base, their p values corrected as one family."""
    differences = [_difference(base, arm, len(arms)) for arm in arms]
    corrected = statistics.holm([None if one is None else one.p_value for one in differences])
    comparisons = []
    for arm, difference, p in zip(arms, differences, corrected, strict=True):
        changed = config_json.difference(base.config, arm.config)
        del changed['name']
        if difference is None:
            missing = [*base.missing, *arm.missing]
            verdict = f'not compared: {len(missing)} of its runs and the base’s are not done'
            comparisons.append(Comparison(arm, changed, None, None, 'untested', verdict))
        else:
            said = statistics.outcome(difference, p)
            verdict = statistics.verdict(difference, p, UNIT)
            comparisons.append(Comparison(arm, changed, difference, p, said, verdict))
    return comparisons


def _difference(base: Arm, arm: Arm, comparisons: int) -> Difference | None:
    if None in base.values or None in arm.values:
        return None
    return statistics.paired_difference(arm.values, base.values, comparisons=comparisons)


def best_factor(tried: dict[str, float | None]) -> str:
    """Of an arm's learning rates, as the plan has them, the one that was taken."""
    return min((value, factor) for factor, value in tried.items() if value is not None)[1]


def _list(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f'{", ".join(labels[:-1])} and {labels[-1]}'


def _are(labels: Sequence[str]) -> str:
    return 'is' if len(labels) == 1 else 'are'
