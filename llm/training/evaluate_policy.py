"""Held-out prompts: what the policy answers, and what that is worth to those who judge it."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from llm.config import Config, LoRAConfig
from llm.data.examples import held_out_batches
from llm.parallel import distributed
from llm.training.policy_step import PolicyStep
from llm.training.policy_update import make_rollout
from llm.training.train_state import TrainState
from llm.training.train_step import hyperparameters


class PolicyEvaluator:
    """Draws responses to held-out prompts, always with the same random numbers, and has them judged."""

    def __init__(self, config: Config, table: Any, step: PolicyStep):
        """
        Args:
            config: the run's, with an online objective.
            table: the held-out prompts.
            step: the run's, whose devices and rewards are used.
        """
        config = dataclasses.replace(config, lora=LoRAConfig())  # what is measured is the whole model
        self._table, self._rows, self._programs, self._rewards = (
            table,
            config.training.batch_size,
            step.programs,
            step.rewards,
        )
        self._local = slice(*step.local_rows)
        self._hyper = hyperparameters(config)
        draw = make_rollout(config, step.programs.axis, end_ids=step.end_ids)
        self._draw = step.programs.compile(draw, (None, 0, None), 0)
        self._samples = config.objective.rollout.samples_per_prompt

    def measure(self, params: Any, max_windows: int | None = None) -> dict[str, float]:
        """Returns `reward`, its deviation `reward_std`, `eos_rate`, `completions/mean_length` and `rows`, responses.

        Args:
            params: the parameters of the whole model.
            max_windows: answer about this many prompts, spread evenly; None answers all.
        """
        state = TrainState(jnp.zeros((), jnp.int32), params, {}, (), None)
        found = []
        for batch, real in held_out_batches(self._table, self._rows, max_windows):
            for x in batch.values():
                x[real:] = x[0]  # a real prompt, for what is drawn to fill the batch and left out below
            local = {name: x[self._local] for name, x in batch.items()}
            on_devices = self._programs.place({name: local[name] for name in ('prompts', 'prompt_lengths')})
            rolled = self._draw(state, on_devices, self._hyper)
            columns = functools.partial(self._table.columns, local['indices'])
            rewards = self._rewards(rolled, columns, None)
            values = (rewards, rolled.ended, rolled.lengths - rolled.prompt_lengths)
            each = [distributed.whole(x).reshape(-1)[: real * self._samples] for x in values]
            found.append(np.array(each, np.float64))
        rewards, ended, lengths = np.concatenate(found, axis=1)
        return {
            'reward': float(rewards.mean()),
            'reward_std': float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0,
            'eos_rate': float(ended.mean()),
            'completions/mean_length': float(lengths.mean()),
            'rows': len(rewards),
        }
