"""Policies that learn from reward models: PPO and GRPO by the library's own rollout and update, many runs at once."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from experiments.rlhf import measuring, wishlist
from experiments.rlhf.training import members_of, pick, stack
from llm.config import Config
from llm.objectives import reward_model
from llm.training.policy_update import make_rollout, make_update
from llm.training.train_state import state_from_params
from llm.training.train_step import hyperparameters


class Judges(NamedTuple):
    """The proxy of every member of a population: one reward model, or an ensemble (Coste et al. 2023).

    Attributes:
        models: parameters with two leading axes, (members, models of each).
        statistics: (members, models of each, 2), mean and deviation of each one's rewards on the SFT model's samples.
        cautious: (members,), 1 where the least of the standardised rewards counts, 0 where their mean does.
    """

    models: Any
    statistics: np.ndarray
    cautious: np.ndarray

    def score(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What each member's proxy says of its rows, (members, ...) like `lengths`."""
        rewards = []
        for member in range(len(self.cautious)):
            own = pick(self.models, member)
            same = np.zeros(members_of(own), int)
            raw = measuring.score(own, tokens[[member]][same], lengths[[member]][same])
            rewards.append(agree(raw, self.statistics[member], self.cautious[member]))
        return np.stack(rewards)


def agree(raw, statistics, cautious):
    """One reward out of several models': standardised, then their mean or, where `cautious`, the least.

    Args:
        raw: (models, ...).
        statistics: (models, 2).
        cautious: 0 or 1.
    """
    shape = (-1,) + (1,) * (raw.ndim - 1)
    standard = (raw - statistics[:, 0].reshape(shape)) / statistics[:, 1].reshape(shape)
    return cautious * standard.min(axis=0) + (1 - cautious) * standard.mean(axis=0)


def reinforce(
    configs: Sequence[Config], policies: Any, judges: Judges, prompts: np.ndarray, looks: Sequence[int]
) -> Iterator[tuple[int, Any, dict[str, np.ndarray]]]:
    """Trains a population, stopping to be looked at.

    Args:
        configs: of the members; they may differ in numbers.
        policies: stacked parameters to start from, which are also the reference.
        judges: who rewards.
        prompts: (prompts, PROMPT_LENGTH), of which each member draws its own.
        looks: steps after which to stop; the last is the end.

    Yields:
        Steps made, the stacked policies, and the metrics' means since the last look, (members,) each.
    """
    hyper = stack([hyperparameters(own) for own in configs])
    # Whether a reference is kept is part of the program: it is if any member has a penalty, and 0 is then a number.
    config = max(configs, key=lambda own: own.objective.kl_coefficient)
    config = dataclasses.replace(config, seed=0)
    seeds = jnp.array([own.seed for own in configs])
    state = jax.jit(jax.vmap(functools.partial(state_from_params, config)))(policies, seeds)
    random = [np.random.default_rng((6, own.seed)) for own in configs]
    rows, metrics = config.training.batch_size, []
    for step in range(1, looks[-1] + 1):
        batch = prompts[np.stack([each.integers(0, len(prompts), rows) for each in random])]
        state, values = _step(config, state, batch, hyper, judges)
        metrics.append(values)
        if step in looks:
            policies = {name: tree for name, tree in state.params.items() if name != 'value_head'}
            yield step, policies, {name: np.mean([each[name] for each in metrics], axis=0) for name in values}
            metrics = []


@functools.partial(jax.jit, static_argnums=0)
def _step(config, state, prompts, hyper, judges):
    """A rollout, its rewards and the updates made from it, of every member."""
    draw, update = make_rollout(config, stop_early=False), make_update(config)

    def one(state, prompts, hyper, judge):
        lengths = jnp.full(prompts.shape[:1], wishlist.PROMPT_LENGTH, jnp.int32)
        rolled = draw(state, {'prompts': prompts, 'prompt_lengths': lengths}, hyper)
        rewards = _judged(judge, rolled.tokens, rolled.lengths)
        state, metrics = update(state, rolled, rewards, hyper)
        return state, {name: total / jnp.maximum(weight, 1e-9) for name, (total, weight) in metrics.items()}

    return jax.vmap(one)(state, prompts, hyper, judges)


def _judged(judge: Judges, tokens: Int[Array, 'rows length'], lengths: Int[Array, 'rows']) -> Float[Array, 'rows']:
    """The proxy of one member, inside the compiled step."""
    raw = jax.vmap(lambda model: reward_model.rewards(measuring.TRANSFORMER, model, tokens, lengths))(judge.models)
    return agree(raw, judge.statistics, judge.cautious)
