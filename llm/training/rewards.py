"""Where the reward of a response comes from: reward models, which never leave the device, and a function in Python.

Rewards are float32 from the first array that holds them. What is not a number is never learned from: it ends the run
with the name of who gave it.
"""

import importlib
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm import runtime
from llm.config import RewardConfig
from llm.errors import UserError, first_line
from llm.inference.rollout import Rollout
from llm.model import Transformer
from llm.objectives import reward_model
from llm.tokenizer import Tokenizer
from llm.training.checkpoint import load_params
from llm.workdir import Workdir

RewardFunction = Callable[..., Any]  # reward(prompts, completions, **columns) -> a number for each completion


class Judge(NamedTuple):
    """A reward model that is ready to score. Its rewards count in deviations from what it gave where it was trained."""

    path: str
    model: Transformer
    params: Any
    mean: float
    std: float


def load_judges(
    config: RewardConfig, tokenizer: Tokenizer, length: int, mesh: jax.sharding.Mesh | None = None
) -> tuple[Judge, ...]:
    """Opens the reward models of a run.

    Args:
        config: `models` names their workdirs.
        tokenizer: the policy's, which has to be theirs too.
        length: tokens of the longest row to score.
        mesh: the devices; None is this process's first.

    Raises:
        UserError: if one is no finished reward model, reads other tokens, or shorter rows.
    """
    return tuple(_load_judge(path, tokenizer, length, mesh) for path in config.models)


def _load_judge(path, tokenizer, length, mesh):
    workdir = Workdir.open(path)
    config = runtime.usable_config(workdir)
    if config.objective.kind != 'reward_model':
        raise UserError(
            f'objective.reward.models: {path} was trained with objective {config.objective.kind}; give the workdir of '
            'a reward_model run'
        )
    if Tokenizer.load(workdir.tokenizer_file).digest != tokenizer.digest:
        raise UserError(
            f'objective.reward.models: {path} has another tokenizer than the policy; train it from the same base model'
        )
    if config.model.context_length < length:
        raise UserError(
            f'objective.reward.models: {path} reads {config.model.context_length} tokens and rows have {length}; lower '
            'data.sequence_length'
        )
    statistics = workdir.summary().get('reward_statistics')
    if not statistics:
        raise UserError(f'objective.reward.models: {path} has no reward_statistics in its summary; finish its training')
    if not statistics['std'] > 0:
        raise UserError(f'objective.reward.models: {path} gives every response the same reward; train it longer')
    options = {} if mesh is None else {'mesh': mesh}
    _, params = load_params(workdir, **options)
    return Judge(str(path), Transformer(config.model), params, statistics['mean'], statistics['std'])


def judge(
    judges: tuple[tuple[Transformer, float, float], ...],
    params: tuple[Any, ...],
    ensemble: str,
    tokens: Int[Array, 'rows length'],
    lengths: Int[Array, 'rows'],
) -> tuple[Float[Array, 'rows'], Bool[Array, 'judges']]:
    """What an ensemble says of right-padded rows; a pure function.

    Args:
        judges: model, mean and deviation of each.
        params: of each.
        ensemble: 'mean' or 'min' of their standardised rewards.
        tokens, lengths: the rows.

    Returns:
        The reward of each row, and which judges gave numbers only.
    """
    each = [
        (reward_model.rewards(model, weights, tokens, lengths).astype(jnp.float32) - mean) / std
        for (model, mean, std), weights in zip(judges, params, strict=True)
    ]
    each = jnp.stack(each)
    finite = jnp.all(jnp.isfinite(each), axis=1)
    return (jnp.min if ensemble == 'min' else jnp.mean)(each, axis=0), finite


def completion_ids(rolled: Rollout, max_new_tokens: int) -> tuple[Int[Array, 'rows new'], Int[Array, 'rows']]:
    """The tokens of the responses alone, from column 0, and how many there are: all that leaves the device."""
    width = rolled.tokens.shape[1]
    place = rolled.prompt_lengths[:, None] + jnp.arange(max_new_tokens, dtype=jnp.int32)[None, :]
    ids = jnp.take_along_axis(rolled.tokens, jnp.minimum(place, width - 1), axis=1)
    return ids, rolled.lengths - rolled.prompt_lengths


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
    function: RewardFunction, name: str, step: int, completions: list[str], columns: dict[str, list]
) -> Float[np.ndarray, 'rows']:
    """Asks a function for the rewards of completions, and believes nothing.

    Args:
        function: `reward(prompts, completions, **columns)`, the columns being those of the prompts.
        name: what errors call it.
        step: for errors.
        completions: the text of each response.
        columns: lists as long as that: `prompts` and whatever else the prompts' rows have.

    Raises:
        UserError: one line, if it raises or returns anything but one finite number per completion.
    """
    where = f'the reward function {name}'
    try:
        result = function(completions=completions, **columns)
        values = list(result)
    except Exception as error:
        raise UserError(f'{where} failed at step {step}: {_told(error, name.partition(":")[0])}') from error
    if len(values) != len(completions):
        raise UserError(f'{where} returned {len(values)} rewards for {len(completions)} completions at step {step}')
    rewards = np.zeros(len(values), np.float32)
    for row, value in enumerate(values):
        number = np.asarray(value)
        if number.ndim or number.dtype.kind not in 'biuf':
            raise UserError(f'{where} returned {value!r:.60} for row {row} at step {step}; return numbers')
        with np.errstate(over='ignore'):
            rewards[row] = number
        if not np.isfinite(rewards[row]):
            shown = f'prompt {columns["prompts"][row]!r:.80}, completion {completions[row]!r:.80}'
            raise UserError(f'{where} returned {value!r:.60} for row {row} at step {step} ({shown})')
    return rewards


def _told(error: BaseException, place: str) -> str:
    """An exception in one line, with the line of the user's file that it came from."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if pathlib.Path(frame.filename).name == pathlib.Path(place).name] or frames[-1:]
    at = f' ({pathlib.Path(own[-1].filename).name}:{own[-1].lineno})' if own else ''
    return f'{type(error).__name__}: {first_line(error)}{at}'
