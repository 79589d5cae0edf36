"""Ablations: a base, named changes of it, and the same seeds for all of them.

    Ablation('Does rotating queries and keys help?', base, {'learned': {'model.position': 'learned'}})

`run` trains base and arms over the same seeds: with one seed, runs see the same data in the same order and start from
the same weights wherever shapes agree. Arms get equal tokens or equal training FLOPs, and if asked for a learning rate
of their own. What came of it is read by `llm.ablation.results`, from the workdirs.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from llm import config_json
from llm.analysis import flops
from llm.config import Config
from llm.errors import MachineError, UserError
from llm.sweep import forecast, registry, space
from llm.sweep.experiment import run_sweep
from llm.sweep.options import SweepOptions
from llm.workdir import write_atomically

METRIC = 'held_out.bits_per_byte'  # per byte of text: a loss per token is another thing under another tokenizer
UNIT = 'bits per byte'
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the base's learning rate, that tuning tries
OTHER_SEEDS = 1000  # the first seed of arms that are not paired
TUNING_SEED = 2000  # which no reported run has
PLAN = 'ablation.json'

Budget = Literal['tokens', 'flops']


@dataclass(frozen=True)
class Ablation:
    """A question.

    Attributes:
        question: in one line.
        base: what every arm is compared with.
        arms: the overrides of each, by dotted name; no overrides is the base again, under another name.
        base_label: what the base is, in this question.
        other_seeds: arms whose runs get seeds that the base's do not have: what seeds alone do.
        notes: what a reader of the result has to know.
    """

    question: str
    base: Config
    arms: Mapping[str, Mapping[str, Any]] = field(hash=False)
    base_label: str = 'base'
    other_seeds: tuple[str, ...] = ()
    notes: str = ''

    def __post_init__(self):
        if not self.arms:
            raise UserError(f'the ablation {self.question!r} has no arm')
        if self.base_label in self.arms:
            raise UserError(f'an arm is named {self.base_label}, as the base is; give it another label')
        for label in self.other_seeds:
            if label not in self.arms:
                raise UserError(f'other_seeds names {label}, which is no arm of {", ".join(self.arms)}')


def arm_configs(ablation: Ablation, budget: Budget = 'tokens') -> dict[str, Config]:
    """The config of the base and of every arm, by label, the base first.

    An arm makes as many steps as the base's tokens, or training FLOPs, allow; if that is another number than it has,
    its schedule is stretched by the same factor, so that it decays to its end.

    Raises:
        UserError: for a field that the config does not have, or a value that it refuses.
    """
    configs = {ablation.base_label: ablation.base}
    for label, overrides in ablation.arms.items():
        try:
            config = config_json.override(ablation.base, dict(overrides))
        except UserError as error:
            raise UserError(f'arm {label}: {error}') from error
        steps = max(1, round(cost(ablation.base, budget) / cost(config, budget) * config.training.steps))
        configs[label] = stretched(config, steps)
    return configs


def cost(config: Config, budget: Budget) -> float:
    """What a run spends: tokens, or training FLOPs by the default convention of `llm.analysis.flops`."""
    if budget == 'flops':
        return flops.run_flops(config)
    return config.training.steps * config.training.batch_size * config.data.sequence_length


def stretched(config: Config, steps: int) -> Config:
    """The config with another number of steps, its schedule and each of the schedule's ramps in proportion."""
    factor = steps / config.training.steps
    if factor == 1:
        return config
    lengths = {
        f.name: round(getattr(config.schedule, f.name) * factor)
        for f in dataclasses.fields(config.schedule)
        if f.name in ('horizon', 'warmup', 'decay')
    }
    if 'horizon' in lengths:  # rounding may take the ramps one step past it
        ramps = lengths['warmup'] + lengths.get('decay', 0)
        lengths['horizon'] = max(1, lengths['horizon'])
        lengths['warmup'] = max(0, lengths['warmup'] - max(0, ramps - lengths['horizon']))
    else:
        lengths['warmup'] = max(1, lengths['warmup'])
    values = {f'schedule.{name}': value for name, value in lengths.items()}
    return config_json.override(config, {'training.steps': steps, **values})


def run_configs(ablation: Ablation, arms: Mapping[str, Config], seeds: int) -> dict[str, dict[str, Config]]:
    """The runs of each arm, by label and name, in the order of their seeds.

    Args:
        ablation: which.
        arms: the config of each.
        seeds: runs of each, from seed 0 on.
    """
    return {
        label: space.configs(
            config,
            space.product(space.point(label), space.seeds(seeds, OTHER_SEEDS if label in ablation.other_seeds else 0)),
        )
        for label, config in arms.items()
    }


def learning_rates(config: Config, factor: float) -> dict[str, float]:
    """Every peak learning rate of the optimizer times a factor, as overrides; Muon has two."""
    return {
        f'optimizer.{f.name}': getattr(config.optimizer, f.name) * factor
        for f in dataclasses.fields(config.optimizer)
        if f.name.endswith('learning_rate')
    }


def tuning_configs(arms: Mapping[str, Config]) -> dict[str, dict[float, Config]]:
    """For each arm its config at each factor of the learning rate, under the tuning seed."""
    return {
        label: {
            factor: config_json.override(
                config,
                {'seed': TUNING_SEED, 'data.seed': TUNING_SEED, **learning_rates(config, factor)}
                | {'name': f'{label},rate={factor:g}'},
            )
            for factor in FACTORS
        }
        for label, config in arms.items()
    }


def tune(
    folder: pathlib.Path, arms: Mapping[str, Config], options: SweepOptions
) -> tuple[dict[str, Config], dict[str, dict[str, float | None]]]:
    """Gives each arm, and the base, the learning rate that is best on the tuning seed.

    Args:
        folder: of the sweep that finds it.
        arms: the config of each.
        options: how its runs are done.

    Returns:
        The configs at those rates, and what was measured: for each arm the metric at each factor, None where the run
        failed, as it does where it diverges.

    Raises:
        MachineError: if all runs of an arm failed.
    """
    tried = tuning_configs(arms)
    configs = {config.name: config for one in tried.values() for config in one.values()}
    failure = None
    try:
        run_sweep(folder, configs, options)
    except MachineError as error:  # of a rate that is too high; the others are done
        failure = error
    measured = {row['name']: row.get(METRIC) for row in registry.rows(registry.open_sweep(folder))}
    chosen, table = {}, {}
    for label, one in tried.items():
        found = {factor: measured[config.name] for factor, config in one.items()}
        good = {factor: value for factor, value in found.items() if value is not None}
        if not good:
            raise failure or MachineError(f'no run of arm {label} in {folder} was measured')
        best = min(good, key=good.get)
        chosen[label] = config_json.override(arms[label], learning_rates(arms[label], best))
        table[label] = {f'{factor:g}': value for factor, value in found.items()}
    return chosen, table


def run(
    name: str,
    ablation: Ablation,
    folder: pathlib.Path,
    *,
    seeds: int = 5,
    budget: Budget = 'tokens',
    tuned: bool = False,
    options: SweepOptions,
) -> None:
    """Trains all runs of an ablation that are not done, and writes down in the folder which belong to which arm.

    Args:
        name: of the ablation.
        ablation: the question.
        folder: of the sweep; the sweep that tunes learning rates is in `tuning/` in it.
        seeds: runs of each arm.
        budget: what is equal among the arms.
        tuned: whether each arm gets a learning rate of its own.
        options: how the runs are done.

    Raises:
        MachineError: if runs failed for good; what is done can be reported.
    """
    check_seeds(seeds)
    arms, rates = arm_configs(ablation, budget), {}
    if tuned:
        arms, rates = tune(folder / 'tuning', arms, options)
    runs = run_configs(ablation, arms, seeds)
    everything = {name: config for one in runs.values() for name, config in one.items()}
    registry.create(folder, everything)
    plan = {
        'schema_version': 1,
        'name': name,
        'question': ablation.question,
        'notes': ablation.notes,
        'budget': budget,
        'base': ablation.base_label,
        'arms': {label: list(one) for label, one in runs.items()},
        'other_seeds': list(ablation.other_seeds),
        'learning_rate_factors': rates,
    }
    write_atomically(folder / PLAN, json.dumps(plan, indent=1) + '\n')
    run_sweep(folder, everything, options)


def forecast_text(ablation: Ablation, folder: pathlib.Path, seeds: int, budget: Budget, tuned: bool) -> str:
    """What `run` would do, for a terminal: its runs, and what they would cost."""
    check_seeds(seeds)
    arms = arm_configs(ablation, budget)
    runs = {name: config for one in run_configs(ablation, arms, seeds).values() for name, config in one.items()}
    if tuned:
        tuning = {config.name: config for one in tuning_configs(arms).values() for config in one.values()}
        runs = tuning | runs
    known = registry.open_sweep(folder) if (folder / 'sweep.json').is_file() else []
    return forecast.text(forecast.forecasts(runs, forecast.speed(known)))


def check_seeds(seeds: int) -> None:
    """Refuses a number of seeds that is none, or that would run into those set apart."""
    if not 1 <= seeds <= OTHER_SEEDS:
        raise UserError(f'--seeds is {seeds}; it must be between 1 and {OTHER_SEEDS}')
