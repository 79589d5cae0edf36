"""`benchmark compile`: seconds from a training step's Python to its program, over depths, cold and from the cache."""

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

from llm.benchmark import models, program
from llm.benchmark.measure import summary
from llm.benchmark.options import Compile
from llm.benchmark.result import Case
from llm.benchmark.train_step import random_batch
from llm.config import Config
from llm.training.train_state import create_state
from llm.training.train_step import hyperparameters, make_train_step

DEPTHS = (2, 4, 8, 16)
MOST_REPEATS = 3  # compiling varies little and takes seconds


def dtypes(options: Compile) -> tuple[str, ...]:
    return tuple({named.config.model.compute_dtype for named in _configs(options)})


def _configs(options: Compile) -> list[models.Named]:
    depths = options.layers or DEPTHS
    return models.configs(dataclasses.replace(options, layers=depths), lengths=options.length)


def plan(options: Compile) -> list[tuple[str, Callable[[], list[Case]]]]:
    repeats = min(options.repeats, MOST_REPEATS)
    return [
        (label, functools.partial(compile_cases, label, config, repeats=repeats))
        for label, config, _ in _configs(options)
    ]


def compile_cases(name: str, config: Config, *, repeats: int) -> list[Case]:
    """Two cases: cold, with the persistent cache off, and warm, with this very program in it."""
    cases = []
    with tempfile.TemporaryDirectory(prefix='glassbox-compile-') as folder:
        for cache in ('cold', 'warm'):
            with _cache(folder if cache == 'warm' else None):
                stages = [_build(config) for _ in range(repeats + (cache == 'warm'))]
            if cache == 'warm':
                stages = stages[1:]  # the first one filled the cache
            medians = {stage: summary([s[stage] for s in stages])['median'] for stage in stages[0]}
            case = Case(
                kind='compile',
                name=f'{name} {cache}',
                shape=models.shape(config) | {'cache': cache},
                dtype=config.model.compute_dtype,
                kernel=f'{config.model.attention_backend} attention',
                seconds=tuple(s['total'] for s in stages),
                compile_seconds=medians,
            )
            cases.append(case)
    return cases


def _build(config: Config) -> dict[str, float]:
    """Seconds of each stage, with nothing remembered from before."""
    jax.clear_caches()
    state = jax.eval_shape(lambda: create_state(config, 0))
    batch = jax.eval_shape(functools.partial(random_batch, config), jax.random.key(0))
    hyper = jax.eval_shape(lambda: hyperparameters(config))
    return program.build(jax.jit(make_train_step(config), donate_argnums=0), state, batch, hyper).seconds


@contextlib.contextmanager
def _cache(folder: str | None) -> Iterator[None]:
    """Compiles with the persistent cache in this folder, or without one; then as before."""
    settings = {
        'jax_enable_compilation_cache': folder is not None,
        'jax_compilation_cache_dir': folder,
        'jax_persistent_cache_min_compile_time_secs': 0.0,
        'jax_persistent_cache_min_entry_size_bytes': -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
