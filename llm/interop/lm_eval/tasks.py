"""The harness's tasks: found, described and run."""

import contextlib
import difflib
import functools
import importlib.metadata
import json
import logging as python_logging
import os
import pathlib
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from llm.errors import MachineError, UserError, first_line
from llm.evaluation.results import INTERVAL, Metric, Result
from llm.evaluation.subject import Subject
from llm.evaluation.tasks import Settings
from llm.interop.lm_eval.model import GlassboxLM

SEED = 1234  # of the few-shot examples, as the harness has it
BOOTSTRAP = 1000  # resamples for the standard errors that have no formula
_LOUD = ('lm_eval', 'huggingface_hub', 'datasets')  # what they remark, the result or the error says too


def version() -> str:
    """The harness's."""
    return importlib.metadata.version('lm-eval')


def load_tasks(names: Sequence[str], include_path: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Finds tasks, groups and tags, and reads their data.

    Args:
        names: of tasks, or paths of YAML files.
        include_path: folders with YAML files. The harness's own tasks are only looked at for names that are not there.

    Returns:
        What the harness's `TaskManager.load` gives for each name.

    Raises:
        UserError: if there is no such task, or its data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    for folder in include_path:
        if not pathlib.Path(folder).is_dir():
            raise UserError(f'there is no folder {folder}; --include-path names folders with YAML files of tasks')
    with _quiet():
        folders = [str(pathlib.Path(folder).expanduser().resolve()) for folder in include_path]
        manager = TaskManager(include_path=folders, include_defaults=False)
        if any(name not in manager.all_tasks and not pathlib.Path(name).is_file() for name in names):
            manager = TaskManager(include_path=folders)
        loaded = {}
        for name in names:
            if name not in manager.all_tasks and not pathlib.Path(name).is_file():
                close = difflib.get_close_matches(name, manager.all_tasks, n=1)
                hint = f'perhaps you meant {close[0]}' if close else 'check the name'
                raise UserError(f'there is no file, corpus or harness task {name}; {hint}')
            try:
                loaded[name] = manager.load([name])
            except Exception as error:  # whatever datasets, YAML or the code of a task raises
                raise UserError(
                    f'the harness cannot load {name}: {type(error).__name__}: {first_line(error)} (data that is not on '
                    'disk needs the network)'
                ) from error
            for task in loaded[name]['tasks'].values():
                if getattr(task, 'UNSAFE_CODE', False):
                    raise UserError(f'{name} runs what the model writes as code, which is not done here; leave it out')
                if getattr(task, 'MULTIMODAL', False):
                    raise UserError(f'{name} shows pictures, which the model cannot see; leave it out')
    return loaded


def configuration(loaded: dict[str, Any]) -> dict[str, Any]:
    """What a loaded task is, as far as it can be written down: its configuration and the fingerprint of its data."""
    described = {}
    for name, task in loaded['tasks'].items():
        config = task.dump_config()
        config.pop('metadata', None)
        prints = {split: getattr(rows, '_fingerprint', None) for split, rows in (task.dataset or {}).items()}
        described[name] = json.loads(json.dumps({'config': config, 'data': prints}, default=str, sort_keys=True))
    return described


def measure(name: str, loaded: dict[str, Any], subject: Subject, settings: Settings) -> Result:
    """Runs a task, or all those of a group.

    Args:
        name: as the user gave it.
        loaded: of `load_tasks`.
        subject: the model.
        settings: `limit`, `num_fewshot` and `chat` concern it.

    Returns:
        The harness's metrics. Those of a group's tasks are named `task: metric`.

    Raises:
        UserError: if a task asks for what there is not.
        MachineError: if the harness fails.
    """
    import lm_eval

    _prepare(loaded['tasks'], settings.num_fewshot)
    with _quiet():
        try:
            found = lm_eval.evaluate(
                GlassboxLM(subject, settings.chat),
                loaded,
                limit=settings.limit,
                bootstrap_iters=BOOTSTRAP,
                apply_chat_template=settings.chat,
                fewshot_as_multiturn=True,  # the harness's own default
            )
        except (UserError, MachineError):
            raise
        except Exception as error:
            said = f'{type(error).__name__}: {first_line(error)}'
            raise MachineError(f'lm-evaluation-harness failed on {name}: {said}') from error
    results, samples = found.get('groups', {}) | found['results'], found['samples']
    metrics = [
        metric
        for task, measured in results.items()
        for metric in _metrics(measured, '' if len(results) == 1 else f'{task}: ')
    ]
    shots = sorted({int(shots) for shots in found['n-shot'].values()})
    facts = {
        'samples': sum(map(len, samples.values())),
        'examples before each': ', '.join(map(str, shots)),
        'tasks': ', '.join(samples) if len(samples) > 1 else None,
        'chat template': settings.chat,
        'harness': f'lm-eval {version()}',
    }
    return Result(name, 'lm_eval', tuple(metrics), facts, samples=tuple(_samples(samples)))


def _prepare(tasks: dict[str, Any], num_fewshot: int | None) -> None:
    """Sets examples and seeds as the harness's own command does."""
    random.seed(0)
    np.random.seed(SEED)
    for name, task in tasks.items():
        own = task.get_config('num_fewshot')
        if num_fewshot is not None and own != 0:
            task.set_config(key='num_fewshot', value=num_fewshot)
        elif num_fewshot:
            logging.warning('%s is made to be asked without examples, so --num-fewshot makes no difference to it', name)
        elif own is None:
            task.set_config(key='num_fewshot', value=0)
        task.set_fewshot_seed(seed=SEED)


def _metrics(found: dict[str, Any], prefix: str) -> Iterator[Metric]:
    """The harness's `name,filter` and `name_stderr,filter` entries as metrics."""
    from llm.analysis import statistics

    reach = statistics.normal_quantile(INTERVAL)
    for key, value in found.items():
        name, _, part = key.partition(',')
        if not part or name.endswith('_stderr') or not isinstance(value, int | float):
            continue
        error = found.get(f'{name}_stderr,{part}')
        error = float(error) if isinstance(error, int | float) else None
        ends = (None, None) if error is None else (value - reach * error, value + reach * error)
        shown = name if part == 'none' else f'{name} ({part})'
        yield Metric(prefix + shown, float(value), found.get('sample_len'), error, *ends, 'normal' if error else '')


def _samples(samples: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for task, rows in samples.items():
        for row in rows:
            asked = row['arguments']
            response = row['filtered_resps']
            yield {
                'task': task,
                'prompt': asked[0][0] if asked else '',
                'response': response[0] if len(response) == 1 else response,
                **row,
            }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the harness prints off stdout, its remarks and bars off logs, and its bootstrap in this process.

    A process that has started jax has threads, and must not be forked.
    """
    import datasets
    from lm_eval.api import task

    loggers, bars = [python_logging.getLogger(name) for name in _LOUD], datasets.is_progress_bar_enabled()
    levels, before = [logger.level for logger in loggers], os.environ.get('DISABLE_MULTIPROC')
    for logger in loggers:
        logger.setLevel(python_logging.ERROR)
    datasets.disable_progress_bars()
    os.environ['DISABLE_MULTIPROC'] = '1'
    task.tqdm = functools.partial(tqdm, disable=None, leave=False, dynamic_ncols=True)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        task.tqdm = tqdm
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
        os.environ.pop('DISABLE_MULTIPROC')
        if before is not None:
            os.environ['DISABLE_MULTIPROC'] = before
