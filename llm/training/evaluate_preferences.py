"""Held-out preferences: the loss, how often the better response wins, and what its margin is worth."""

import functools
from typing import Any

import jax
import numpy as np

from llm.config import Config, RewardModel
from llm.data.examples import held_out_batches
from llm.model import Transformer
from llm.objectives import registry, reward_model
from llm.parallel import distributed
from llm.parallel import mesh as mesh_lib
from llm.training.metrics import means


class PreferenceEvaluator:
    """Measures a DPO policy or a reward model on held-out preferences. Compiles once."""

    def __init__(self, config: Config, table: Any, mesh: jax.sharding.Mesh):
        self._config, self._table, self._mesh = config, table, mesh
        self._rows = mesh_lib.padded_rows(mesh, config.evaluation.batch_size)
        self._local = slice(*mesh_lib.local_rows(mesh, self._rows))
        model = Transformer(config.model)
        loss = registry.make_loss(config, model, registry.hyperparameters(config))
        scores_rewards = isinstance(config.objective, RewardModel)

        @functools.partial(jax.jit, out_shardings=mesh_lib.replicated(mesh))
        def measure(params, batch):
            _, _, metrics = loss(params, batch, None)
            if not scores_rewards:
                return metrics, None
            tokens, lengths = (batch[name].reshape(-1, *batch[name].shape[2:]) for name in ('tokens', 'lengths'))
            rewards = reward_model.rewards(model, params, tokens, lengths)
            return metrics, rewards.reshape(batch['lengths'].shape)

        self._measure = measure

    def measure(self, params: Any, max_windows: int | None = None) -> dict[str, Any]:
        """Means over pairs of the objective's metrics, `loss` among them, and `rows` (preferences read).

        A reward model adds what `llm.objectives.reward_model.summary` says: `mean_reward` and `reward_std`, of
        training rows, are what its rewards are standardised by where they are used.

        Args:
            params: the parameters.
            max_windows: read about this many preferences, spread evenly; None reads all.
        """
        totals, found, rows = {}, [], 0
        for batch, real in held_out_batches(self._table, self._rows, max_windows):
            local = {name: x[self._local] for name, x in batch.items()}
            with jax.set_mesh(self._mesh):
                metrics, rewards = self._measure(params, mesh_lib.place(self._mesh, self._rows, local))
            for name, (total, weight) in jax.device_get(metrics).items():
                before = totals.get(name, (0.0, 0.0))
                totals[name] = (before[0] + np.float64(total), before[1] + np.float64(weight))
            rows += real
            if rewards is not None:
                found.append((distributed.whole(rewards), batch['scores'], batch['lengths']))
        measured = means(totals) | {'rows': rows}
        if found:
            measured |= reward_model.summary(*map(np.concatenate, zip(*found)))
        return measured
