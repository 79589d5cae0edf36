"""Where the reward of a response comes from: reward models, which never leave the device, and a function in Python.

Rewards are float32 from the first array that holds them. What is not a number is never learned from: it ends the run
with the name of who gave it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from llm import runtime
from llm.chat import Message
from llm.config import Config, RewardConfig
from llm.errors import UserError
from llm.inference.rollout import Rollout
from llm.model import Transformer
from llm.objectives import reward_model
from llm.parallel.row_programs import RowPrograms
from llm.tokenizer import Tokenizer, open_workdir
from llm.training.checkpoint import load_params
from llm.training.reward_function import call_function, load_function, moment
from llm.workdir import Workdir


class RewardSource:
    """Gives the responses of a run their rewards.

    Reward models score on the device; of the rest only the ids of the responses leave it, and only for a function
    written in Python, which each process calls with its own rows.
    """

    def __init__(self, config: Config, mesh: Mesh, tokenizer: Tokenizer, programs: RowPrograms):
        """
        Args:
            config: the run's, with an online objective.
            mesh: the devices.
            tokenizer: the policy's.
            programs: how functions of rows run on them.

        Raises:
            UserError: if a reward model or the function cannot be used.
        """
        self._config, self._tokenizer, self._programs = config.objective.reward, tokenizer, programs
        self._samples = config.objective.rollout.samples_per_prompt
        rewards, new = self._config, config.objective.rollout.max_new_tokens
        judges = load_judges(rewards, tokenizer, config.data.sequence_length, mesh)
        self._names, self._params = tuple(j.path for j in judges), tuple(j.params for j in judges)
        models = tuple((j.model, j.mean, j.std) for j in judges)
        self._judge = programs.compile(
            lambda params, tokens, lengths: judge(models, params, rewards.ensemble, tokens, lengths),
            (None, 0, 0),
            (0, 0) if programs.mapped else (0, None),
        )
        self._ids = programs.compile(functools.partial(completion_ids, max_new_tokens=new), (0,), (0, 0))
        self._total = programs.compile(functools.partial(total_reward, rewards), (0, 0), 0)
        self._function = load_function(rewards.function) if rewards.function else None

    def __call__(self, rolled: Rollout, columns: Callable[[], dict[str, list]], step: int | None) -> Array:
        """The reward of each row, in float32, where the row is.

        Args:
            rolled: what was drawn.
            columns: gives the texts and columns of this process's prompts, in their order.
            step: for errors; None is an evaluation.

        Raises:
            UserError: if a reward is not a number, or the function fails.
        """
        parts = {}
        if self._params:
            parts['models'], finite = self._judge(self._params, rolled.tokens, rolled.lengths)
            finite = np.asarray(finite).reshape(-1, len(self._names)).all(axis=0)
            if not finite.all():
                raise UserError(
                    f'the reward model {self._names[int(np.argmin(finite))]} gave a reward that is not a number '
                    f'{moment(step)}; the policy or the reward model has diverged: lower the learning rate, or train '
                    'the reward model again'
                )
        if self._function is not None:
            parts |= self._programs.place({'function': self._ask(rolled, columns(), step)})
        return self._total(parts, rolled.ended)

    def _ask(self, rolled: Rollout, columns: dict[str, list], step: int | None) -> Float[np.ndarray, 'rows']:
        ids, counts = (self._programs.local(x) for x in self._ids(rolled))
        completions = completion_texts(self._tokenizer, ids, counts, columns['prompts'])
        columns = {name: [value for value in values for _ in range(self._samples)] for name, values in columns.items()}
        return call_function(self._function, self._config.function, step, completions, columns)


def total_reward(
    config: RewardConfig, parts: dict[str, Float[Array, 'rows']], ended: Bool[Array, 'rows']
) -> Float[Array, 'rows']:
    """What `models` and `function` (either may be absent) give, less the penalty of a response that does not end."""
    weights = {'models': 1.0, 'function': config.function_weight}
    rewards = sum(weights[name] * part.astype(jnp.float32) for name, part in parts.items())
    return rewards - jnp.where(ended, 0.0, config.missing_eos_penalty)


class Judge(NamedTuple):
    """A reward model that is ready to score. Its rewards count in deviations from what it gave where it was trained."""

    path: str
    model: Transformer
    params: Any
    mean: float
    std: float


def load_judges(config: RewardConfig, tokenizer: Tokenizer, length: int, mesh: Mesh | None = None) -> tuple[Judge, ...]:
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
    if open_workdir(workdir.path).digest != tokenizer.digest:
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
    _, params = load_params(workdir, mesh=mesh)
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


def score_texts(
    judges: Sequence[Judge], config: RewardConfig, rows: Sequence[Sequence[int]]
) -> Float[np.ndarray, 'rows']:
    """What an ensemble says of prompts with their responses, given as ids of any lengths."""
    lengths = np.array([len(row) for row in rows], np.int32)
    tokens = np.zeros((len(rows), int(lengths.max())), np.int32)
    for place, row in zip(tokens, rows):
        place[: len(row)] = row
    models = tuple((j.model, j.mean, j.std) for j in judges)
    score = jax.jit(lambda params: judge(models, params, config.ensemble, jnp.array(tokens), jnp.array(lengths))[0])
    return np.asarray(score(tuple(j.params for j in judges)))


def completion_ids(rolled: Rollout, max_new_tokens: int) -> tuple[Int[Array, 'rows new'], Int[Array, 'rows']]:
    """The tokens of the responses alone, from column 0, and how many there are: all that leaves the device."""
    width = rolled.tokens.shape[1]
    place = rolled.prompt_lengths[:, None] + jnp.arange(max_new_tokens, dtype=jnp.int32)[None, :]
    ids = jnp.take_along_axis(rolled.tokens, jnp.minimum(place, width - 1), axis=1)
    return ids, rolled.lengths - rolled.prompt_lengths


def completion_texts(
    tokenizer: Tokenizer,
    ids: Int[np.ndarray, 'rows new'],
    counts: Int[np.ndarray, 'rows'],
    prompts: Sequence[str | list[Message]],
) -> list[str]:
    """What responses say: to a plain text they are how it goes on, in a conversation a text of their own.

    Args:
        tokenizer: the policy's.
        ids, counts: see `completion_ids`.
        prompts: as the rows have them; to each as many responses follow each other.
    """
    each = len(ids) // len(prompts)
    plain = [isinstance(prompt, str) for prompt in prompts for _ in range(each)]
    return [tokenizer.decode(row[:count], continued) for row, count, continued in zip(ids, counts, plain)]
