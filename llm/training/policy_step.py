"""A step of reinforcement learning on the devices of a run: rollout, rewards, updates, each timed."""

import time
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from llm import chat
from llm.config import Config
from llm.errors import UserError
from llm.inference.rollout import Rollout
from llm.parallel import mesh as mesh_lib
from llm.parallel.row_programs import RowPrograms
from llm.training.policy_update import make_rollout, make_update
from llm.training.rewards import RewardSource
from llm.training.train_state import TrainState
from llm.training.train_step import Metrics


class PolicyStep:
    """One step: responses to a batch of prompts, their rewards, and the updates made from them.

    It has the face of `llm.parallel.step.TrainStep`: rows that this process loads, a place for them, a call. What is
    drawn follows from the seed, the step and a response's place in the batch, so a run that is resumed draws the same.

    The host waits for each of the three parts, so that they can be timed; what waiting costs is next to nothing beside
    a rollout. The time of compiling is in none of them.
    """

    def __init__(self, config: Config, mesh: Mesh, placed: TrainState, prepared: Any):
        """
        Args:
            config: the run's, with an online objective.
            mesh: the devices.
            placed: the state's shapes with their shardings, which every new state keeps.
            prepared: `tokenizer`, and the table of prompts `train` with `columns(indices)`.

        Raises:
            UserError: if the prompts of an update cannot be shared by the devices, or the rewards cannot be used.
        """
        self._config, self._table = config, prepared.train
        _check_divides(config, mesh)
        self.programs = RowPrograms(mesh, config.parallel.wrapper == 'pmap')
        self.local_rows = mesh_lib.local_rows(mesh, config.training.batch_size)
        self.rewards = RewardSource(config, mesh, prepared.tokenizer, self.programs)
        axis = self.programs.axis
        self.end_ids = chat.end_ids(prepared.tokenizer)
        self._draw = self.programs.compile(make_rollout(config, axis, end_ids=self.end_ids), (None, 0, None), 0)
        places = (jax.tree.map(lambda leaf: leaf.sharding, placed), mesh_lib.replicated(mesh))
        self._update = self.programs.compile(
            make_update(config, axis), (None, 0, 0, None), (None, None), shardings=places, donate=(0,)
        )
        self._warned = set()

    def place(self, local: dict[str, np.ndarray]) -> dict[str, Any]:
        """Puts this process's prompts where the rollout wants them; which ones they are stays with the host."""
        indices = local['indices']
        on_devices = self.programs.place({name: local[name] for name in ('prompts', 'prompt_lengths')})
        return on_devices | {'indices': indices}

    def draw(self, state: TrainState, batch: dict[str, Any], hyper: dict[str, Any]) -> Rollout:
        """The responses of a step, on the devices, before anything is learned from them."""
        return self._draw(state, {name: batch[name] for name in ('prompts', 'prompt_lengths')}, hyper)

    def __call__(self, state: TrainState, batch: dict[str, Any], hyper: dict[str, Any]) -> tuple[TrainState, Metrics]:
        """One step. The old state's memory is reused.

        Args:
            state: with `step` the number of steps before this one.
            batch: what `place` returned.
            hyper: `llm.training.train_step.hyperparameters(config)`.

        Raises:
            UserError: if a reward is not a number, or the reward function fails.
        """
        step = int(jax.device_get(state.step)) + 1
        clock = _Clock(self.programs)
        rolled = jax.block_until_ready(self.draw(state, batch, hyper))
        clock.lap('rollout')
        columns = lambda: self._table.columns(batch['indices'])
        rewards = jax.block_until_ready(self.rewards(rolled, columns, step))
        clock.lap('score')
        state, metrics = jax.block_until_ready(self._update(state, rolled, rewards, hyper))
        clock.lap('update')
        state, metrics = self.programs.whole((state, metrics))
        self._warn(step, metrics)
        seconds = {f'seconds/{name}': (value, 1.0) for name, value in clock.seconds.items()}
        length, responses = metrics['completions/mean_length']
        speed = {'rollout_tokens_per_second': (length, clock.seconds['rollout'])}
        return state, metrics | seconds | speed

    def _warn(self, step: int, metrics: Metrics) -> None:
        """Says, once, that there is nothing to learn from, and why."""
        names = ('frac_reward_zero_std', 'eos_rate', 'reward')
        same, ended, reward = (float(a) / float(b) for a, b in (jax.device_get(metrics[name]) for name in names))
        objective, rollout = self._config.objective, self._config.objective.rollout
        if same == 1 and 'same' not in self._warned:
            among = 'each prompt' if rollout.samples_per_prompt > 1 else 'the batch'
            logging.warning(
                'step %d: all responses to %s have the same reward (%g on average), so nothing tells a better one; '
                'vary the prompts, raise objective.rollout.samples_per_prompt or the temperature, or refine the reward',
                *(step, among, reward),
            )
            self._warned.add('same')
        if ended == 0 and 'endless' not in self._warned:
            logging.warning(
                'step %d: no response ended within objective.rollout.max_new_tokens %d; raise it, start from a model '
                'fine-tuned on texts that end, or set objective.reward.missing_eos_penalty (now %g)',
                *(step, rollout.max_new_tokens, objective.reward.missing_eos_penalty),
            )
            self._warned.add('endless')


class _Clock:
    """Seconds between laps, by name, without those spent on compiling."""

    def __init__(self, programs: RowPrograms):
        self.seconds: dict[str, float] = {}
        self.programs = programs
        self._last = self._now()

    def _now(self) -> float:
        return time.perf_counter() - self.programs.compiling

    def lap(self, name: str) -> None:
        now = self._now()
        self.seconds[name], self._last = now - self._last, now


def _check_divides(config: Config, mesh: Mesh) -> None:
    """Raises UserError unless the prompts of each micro-batch of an update can be dealt out to the devices evenly."""
    cut = config.objective.rollout.minibatches * config.training.accumulation
    prompts, replicas = config.training.batch_size // cut, mesh_lib.row_parts(mesh)
    if prompts % replicas:
        raise UserError(
            f'prompts of an update (training.batch_size / objective.rollout.minibatches / training.accumulation) are '
            f'{prompts}; they must be a multiple of the {replicas} devices along data x fsdp'
        )
