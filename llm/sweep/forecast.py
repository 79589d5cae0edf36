"""What a sweep will cost, before it is started: FLOPs, memory and time of each run."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llm.analysis import flops, memory, units
from llm.config import Config
from llm.runtime import product_flops, product_seconds, resolve
from llm.sweep.registry import Run


class Forecast(NamedTuple):
    """Of one run."""

    name: str
    parameters: int
    flops: float  # of all its steps, by the default convention
    bytes: int  # of one training step
    seconds: float | None  # training time, without compiling and evaluating; None where no speed is known


def speed(runs: Sequence[Run]) -> float | None:
    """FLOP/s that finished runs of the sweep reached, the median; None if there are none."""
    reached = [
        summary['flops'] / summary['seconds']
        for summary in (run.workdir.summary() for run in runs)
        if summary.get('status') == 'done' and summary.get('seconds')
    ]
    return statistics.median(reached) if reached else None


def bound(configs: Mapping[str, Config]) -> float:
    """FLOP/s of a feed-forward product of the smallest model, there and back: what a run here cannot exceed by much."""
    model = min((config.model for config in configs.values()), key=lambda model: model.width)
    return product_flops(model) / product_seconds(model)


def forecasts(configs: Mapping[str, Config], flops_per_second: float | None) -> list[Forecast]:
    """Predicts every run of a sweep.

    Args:
        configs: by the runs' names.
        flops_per_second: what a run reaches here; see `speed`.
    """
    known: dict[Any, tuple[int, int]] = {}  # traced once for each model and batch
    result = []
    for name, config in configs.items():
        training = dataclasses.replace(config.training, steps=1)
        key = (config.model, training, config.data.sequence_length, type(config.optimizer), config.objective)
        if key not in known:
            known[key] = memory.parameter_count(config.model), memory.memory_estimate(resolve(config)).total
        parameters, size = known[key]
        total = flops.run_flops(config)
        result.append(
            Forecast(name, parameters, total, size, None if not flops_per_second else total / flops_per_second)
        )
    return result


def text(predicted: Sequence[Forecast]) -> str:
    """For a terminal."""
    seconds = lambda value: '' if value is None else units.duration(value)
    rows = [
        [one.name, units.count(one.parameters), units.flops(one.flops), units.size(one.bytes), seconds(one.seconds)]
        for one in predicted
    ]
    times = [one.seconds for one in predicted if one.seconds is not None]
    total = [
        f'{len(predicted)} runs',
        '',
        units.flops(sum(one.flops for one in predicted)),
        f'{units.size(max(one.bytes for one in predicted))} at most',
        seconds(sum(times)) if times else '',
    ]
    return units.table(['run', 'parameters', 'training FLOPs', 'memory of a step', 'time'], [*rows, total])
