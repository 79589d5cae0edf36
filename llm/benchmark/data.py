"""`benchmark data`: how fast batches are made, beside how fast the training step eats them."""

import dataclasses
import itertools
import time
from collections.abc import Callable

from llm import runtime
from llm.benchmark import models
from llm.benchmark.measure import Timing, ratio
from llm.benchmark.options import Data
from llm.benchmark.result import Case
from llm.benchmark.train_step import step_case
from llm.config import Config, ParallelConfig
from llm.config_file import load_config
from llm.errors import MachineError

ENOUGH = 20  # times the training step's speed: from here on, data is never what a run waits for


def dtypes(options: Data) -> tuple[str, ...]:
    return (_config(options).model.compute_dtype,)


def _config(options: Data) -> Config:
    config = load_config(options.config) if options.config else Config()
    config = dataclasses.replace(config, parallel=ParallelConfig())  # one device: both sides of the ratio scale alike
    return runtime.resolve(models.set_fields(config, options.set))


def plan(options: Data) -> list[tuple[str, Callable[[], list[Case]]]]:
    config = _config(options)
    return [(models.label(config), lambda: data_cases(config, options))]


def data_cases(config: Config, options: Data) -> list[Case]:
    """The pipeline and the training step of one config, and the ratio of their speeds.

    Raises:
        MachineError: if grain, which the pipeline is made of, is not installed.
    """
    try:
        from llm.data.batches import TrainBatches
        from llm.data.prepare import prepare
    except ImportError as error:
        raise MachineError(f'benchmark data needs the data pipeline, and {error.name} is not installed here') from error
    prepared = prepare(config)
    batches = TrainBatches(config, prepared.train).iterate(0, [])
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter() - start
    for _ in itertools.islice(batches, options.warmup * options.batches):
        pass
    seconds = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        for _ in itertools.islice(batches, options.batches):
            pass
        seconds.append((time.perf_counter() - start) / options.batches)
    name = models.label(config)
    tokens = config.training.batch_size * config.data.sequence_length
    common = {'kind': 'data', 'shape': models.shape(config), 'tokens': tokens}
    pipeline = Case(name=f'{name} pipeline', kernel=f'{len(prepared.train)} corpora, grain', **common).timed(
        Timing(seconds, first, options.batches)
    )
    step = step_case(
        Case(name=f'{name} training step', dtype=config.model.compute_dtype, kernel='training step', **common),
        config,
        repeats=options.repeats,
        warmup=options.warmup,
        seed=options.seed,
        compiled_cost=False,
    )
    times, low, high = ratio(step.seconds, pipeline.seconds)
    verdict = 'enough' if low >= ENOUGH else f'less than the {ENOUGH} times that leave no doubt'
    note = f'the pipeline is {times:.1f} [{low:.1f}, {high:.1f}] times as fast as the training step: {verdict}'
    extra = {'data_to_step_ratio': {'median': times, 'low': low, 'high': high}}
    return [dataclasses.replace(pipeline, notes=(note,), extra=extra), step]
