"""Several runs of one objective at once: the library's train step under `vmap`, over seeds, coefficients and members.

A population is a list of configs that differ in numbers only. Its parameters, tables of examples and hyperparameters
are stacked on a first axis; one compiled program trains them all, each on its own rows.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rlhf import wishlist
from llm.config import AdamW, Config, Cosine, DataConfig, ModelConfig, Objective, TrainingConfig
from llm.training.train_state import initial_model, state_from_params
from llm.training.train_step import hyperparameters, make_train_step

MODEL = ModelConfig(
    vocab_size=wishlist.VOCABULARY,
    context_length=wishlist.LENGTH,
    num_layers=2,
    width=64,
    num_heads=2,
    position='learned',
    activation='gelu',
)


def make_config(
    objective: Objective, *, steps: int, batch_size: int, learning_rate: float, seed: int, name: str = 'wishlist'
) -> Config:
    """A run on Wishlist: AdamW without decay, cosine to a tenth."""
    return Config(
        name=name,
        seed=seed,
        model=MODEL,
        data=DataConfig(sequence_length=wishlist.LENGTH),
        objective=objective,
        optimizer=AdamW(learning_rate=learning_rate, weight_decay=0.0, b2=0.99),
        schedule=Cosine(horizon=steps, warmup=min(20, steps // 4)),
        training=TrainingConfig(steps=steps, batch_size=batch_size),
    )


def stack(trees: Sequence[Any]) -> Any:
    """One tree whose leaves have the members on their first axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def pick(tree: Any, members: int | Sequence[int]) -> Any:
    """A member of a stacked tree, or several in this order; a member may be taken several times."""
    index = members if isinstance(members, int) else np.asarray(members)
    return jax.tree.map(lambda leaf: leaf[index], tree)


def members_of(tree: Any) -> int:
    """How many members a stacked tree has."""
    return jax.tree.leaves(tree)[0].shape[0]


def initial_parameters(configs: Sequence[Config]) -> Any:
    """Fresh parameters of each config's seed, stacked."""
    seeds = jnp.array([config.seed for config in configs])
    return jax.jit(jax.vmap(lambda seed: initial_model(configs[0].model, seed)))(seeds)


def orders(configs: Sequence[Config], rows: int) -> np.ndarray:
    """Which rows each step of each member reads, (steps, members, batch): epoch after epoch, each in its own order."""
    result = []
    for config in configs:
        random = np.random.default_rng((0, config.seed))
        needed = config.training.steps * config.training.batch_size
        epochs = [random.permutation(rows) for _ in range(-(-needed // rows))]
        result.append(np.concatenate(epochs)[:needed].reshape(config.training.steps, -1))
    return np.stack(result, axis=1)


def train(configs: Sequence[Config], params: Any, table: dict[str, np.ndarray], order: np.ndarray) -> tuple[Any, dict]:
    """Trains a population to the end of its configs' steps.

    Args:
        configs: of the members; only numbers may differ.
        params: stacked, where to start.
        table: arrays (members, rows, ...), the examples.
        order: (steps, members, batch), the rows of each step.

    Returns:
        The stacked parameters, and the metrics' means as arrays (steps, members).
    """
    hyper = stack([hyperparameters(config) for config in configs])
    seeds = jnp.array([config.seed for config in configs])
    return _train(configs[0], params, seeds, jax.tree.map(jnp.asarray, table), jnp.asarray(order), hyper)


@functools.partial(jax.jit, static_argnums=0)
def _train(config, params, seeds, table, order, hyper):
    step = jax.vmap(make_train_step(config))

    def one(state, rows):
        batch = jax.tree.map(lambda array: jax.vmap(lambda own, index: own[index])(array, rows), table)
        state, metrics = step(state, batch, hyper)
        return state, {name: total / jnp.maximum(weight, 1e-9) for name, (total, weight) in metrics.items()}

    state, metrics = jax.lax.scan(one, jax.vmap(functools.partial(state_from_params, config))(params, seeds), order)
    return state.params, metrics
