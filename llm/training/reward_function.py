"""A reward written in Python: found by its name, called with texts, and not believed."""

import importlib
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from llm.errors import UserError, first_line

RewardFunction = Callable[..., Any]  # reward(prompts, completions, **columns) -> a number for each completion


def load_function(name: str) -> RewardFunction:
    """Finds FILE.py:NAME or MODULE:NAME.

    Raises:
        UserError: if it cannot be imported, or is not there.
    """
    place, _, attribute = name.partition(':')
    try:
        if place.endswith('.py'):
            path = pathlib.Path(place)
            if not path.is_file():
                raise UserError(f'objective.reward.function: there is no file {place}')
            spec = importlib.util.spec_from_file_location(f'reward_{path.stem}', path)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # what dataclasses and pickle look for
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except UserError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UserError(f'objective.reward.function: {place} cannot be imported: {_told(error, place)}') from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserError(f'objective.reward.function: {place} has no function {attribute}')
    return function


def call_function(
    function: RewardFunction, name: str, step: int | None, completions: list[str], columns: dict[str, list]
) -> Float[np.ndarray, 'rows']:
    """Asks a function for the rewards of completions, and believes nothing.

    Args:
        function: `reward(prompts, completions, **columns)`, the columns being those of the prompts.
        name: what errors call it.
        step: for errors; None is an evaluation.
        completions: the text of each response.
        columns: lists as long as that: `prompts` and whatever else the prompts' rows have.

    Raises:
        UserError: one line, if it raises or returns anything but one finite number per completion.
    """
    who, when = f'the reward function {name}', moment(step)
    try:
        result = function(completions=completions, **columns)
        values = list(result)
    except (Exception, SystemExit) as error:
        raise UserError(f'{who} failed {when}: {_told(error, name.partition(":")[0])}') from error
    if len(values) != len(completions):
        raise UserError(f'{who} returned {len(values)} rewards for {len(completions)} completions {when}')
    rewards = np.zeros(len(values), np.float32)
    for row, value in enumerate(values):
        number = np.asarray(value)
        if number.ndim or number.dtype.kind not in 'biuf':
            raise UserError(f'{who} returned {value!r:.60} for row {row} {when}; return numbers')
        with np.errstate(over='ignore'):
            rewards[row] = number
        if not np.isfinite(rewards[row]):
            shown = f'prompt {columns["prompts"][row]!r:.80}, completion {completions[row]!r:.80}'
            raise UserError(f'{who} returned {value!r:.60} for row {row} {when} ({shown})')
    return rewards


def moment(step: int | None) -> str:
    """When something went wrong."""
    return 'on held-out prompts' if step is None else f'at step {step}'


def _told(error: BaseException, place: str) -> str:
    """An exception in one line, with the line of the user's file that it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if pathlib.Path(frame.filename).name == pathlib.Path(place).name] or frames[-1:]
    at = f' ({pathlib.Path(own[-1].filename).name}:{own[-1].lineno})' if own else ''
    return f'{type(error).__name__}: {first_line(error)}{at}'
