"""Everything a run carries from one step to the next."""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Int

from llm.config import PPO, Config, ModelConfig, Online, RewardModel
from llm.model import Transformer, lora
from llm.model.initializers import head_kernel
from llm.parallel import mesh as mesh_lib
from llm.training.optimizer import hyperparameters, make_optimizer

_HEADS = {RewardModel: 'reward_head', PPO: 'value_head'}
HEADS = tuple(_HEADS.values())  # what a model's tree may have beside the parameters that predict tokens


@flax.struct.dataclass
class TrainState:
    """A pytree.

    Attributes:
        step: updates made; of reinforcement learning, rollouts learned from.
        params: what is trained.
        frozen: what is used but not trained: `base`, the parameters at the start, which LoRA adapts and from which a
            policy is kept near.
        opt_state: the optimizer's.
        ema: averaged parameters, or None.
        controls: numbers that training moves by itself: `kl_coefficient`, if it is adaptive.
    """

    step: Int[Array, '']
    params: Any
    frozen: Any
    opt_state: Any
    ema: Any
    controls: dict[str, Array] = flax.struct.field(default_factory=dict)

    def stored(self) -> dict[str, Any]:
        """What a checkpoint holds, by item; the step is in its name, what is frozen in a place of its own."""
        items = {'params': self.params, 'opt_state': self.opt_state, 'ema': self.ema, 'controls': self.controls}
        return {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}


def create_state(config: Config, seed: int | Array) -> TrainState:
    """The state before the first update; a pure function, meant to be called under `jit`."""
    return state_from_params(config, initial_model(config.model, seed), seed)


def initial_model(model: ModelConfig, seed: int | Array) -> Any:
    """The parameters of a model that has learned nothing."""
    return Transformer(model).init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))['params']


@functools.lru_cache(maxsize=64)
def parameter_shapes(model: ModelConfig) -> Any:
    """The parameter tree with shapes and dtypes in place of arrays.

    Not to be written to: it is kept, as tracing a model takes long and the runs of a process often share it.
    """
    return jax.eval_shape(lambda: initial_model(model, 0))


def state_from_params(config: Config, model_params: Any, seed: int | Array) -> TrainState:
    """A state at step 0 that starts from a model, with a fresh optimizer.

    Args:
        config: the run's.
        model_params: a whole model's, with or without the objective's head.
        seed: of what has to be added: a head, adapters.
    """
    base = {name: tree for name, tree in model_params.items() if name not in HEADS}
    params = lora.init_adapters(base, config.lora, jax.random.key(seed)) if config.lora.rank else dict(base)
    if (head := head_name(config)) is not None:
        params[head] = model_params.get(head) or {'kernel': head_kernel(config.model, jax.random.key(seed), head)}
    opt_state = make_optimizer(config, hyperparameters(config)).init(params)
    ema = None if config.training.ema_decay is None else jax.tree.map(jnp.array, params)
    frozen = {'base': base} if keeps_base(config) else {}
    return TrainState(jnp.zeros((), jnp.int32), params, frozen, opt_state, ema, _controls(config))


def head_name(config: Config) -> str | None:
    """The head that an objective puts on the model beside the one that predicts tokens."""
    return _HEADS.get(type(config.objective))


def keeps_base(config: Config) -> bool:
    """Whether the run needs the parameters that it started from."""
    return config.lora.rank > 0 or (isinstance(config.objective, Online) and penalised(config.objective))


def penalised(objective: Online) -> bool:
    """Whether an objective keeps the policy near the model that it started from."""
    return objective.kl_coefficient > 0 or getattr(objective, 'kl_target', None) is not None


def _controls(config: Config) -> dict[str, Array]:
    if isinstance(config.objective, PPO) and config.objective.kl_target is not None:
        return {'kl_coefficient': jnp.float32(config.objective.kl_coefficient)}
    return {}


def abstract_state(config: Config) -> TrainState:
    """Shapes and dtypes of the state, computed without memory."""
    return jax.eval_shape(lambda params: state_from_params(config, params, 0), parameter_shapes(config.model))


def placed_state(config: Config, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state on a mesh."""
    abstract = abstract_state(config)
    return mesh_lib.with_shardings(mesh, abstract, abstract.params, *abstract.frozen.values())
