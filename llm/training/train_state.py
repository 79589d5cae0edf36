"""Everything a run carries from one step to the next."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from llm.config import Config
from llm.model import Transformer
from llm.training.optimizer import hyperparameters, make_optimizer


@flax.struct.dataclass
class TrainState:
    """A pytree.

    Attributes:
        step: updates made.
        params: what is trained.
        frozen: what is used but not trained.
        opt_state: the optimizer's.
        ema: averaged parameters, or None.
    """

    step: Int[Array, '']
    params: Any
    frozen: Any
    opt_state: Any
    ema: Any


def create_state(config: Config, seed: int | Array) -> TrainState:
    """The state before the first update; a pure function, meant to be called under `jit`."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = Transformer(config.model).init(jax.random.key(seed), tokens)['params']
    return state_from_params(config, params)


def state_from_params(config: Config, params: Any) -> TrainState:
    """A state at step 0 with these parameters and a fresh optimizer."""
    opt_state = make_optimizer(config, hyperparameters(config)).init(params)
    ema = None if config.training.ema_decay is None else jax.tree.map(jnp.array, params)
    return TrainState(jnp.zeros((), jnp.int32), params, {}, opt_state, ema)


def abstract_state(config: Config) -> TrainState:
    """Shapes and dtypes of the state, computed without memory."""
    return jax.eval_shape(lambda: create_state(config, 0))
