"""One update: gradients of the summed loss over micro-batches, divided once, then the optimizer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from llm.config import SFT, Config, Corrupted, Distillation, NextToken
from llm.model import Transformer, lora
from llm.objectives import registry
from llm.parallel.axes import constrain
from llm.training.optimizer import hyperparameters as optimizer_hyperparameters
from llm.training.optimizer import make_optimizer
from llm.training.schedule import learning_rate_factor
from llm.training.train_state import TrainState
from llm.tree import is_stacked, named_leaves

Metrics = dict[str, tuple[Array, Array]]
Loss = Callable[[Any, dict[str, Array], Array | None], tuple[Array, Array, Metrics]]


def hyperparameters(config: Config) -> dict[str, Any]:
    """Every number of the step that is an argument, not a constant: runs that differ only in these share a program."""
    return {
        'optimizer': optimizer_hyperparameters(config),
        'objective': registry.hyperparameters(config),
        'seed': jnp.uint32(config.seed),
    }


def static(config: Config) -> Config:
    """The config with everything set to one value that is an argument of the step, or that only the host reads.

    Runs whose static configs are equal share a compiled step: they differ in numbers alone. A number that decides what
    is computed stays: whether there is a clip norm, but not which.
    """
    some = lambda value, number: None if value is None else number
    training = dataclasses.replace(
        config.training,
        clip_norm=some(config.training.clip_norm, 1.0),
        ema_decay=some(config.training.ema_decay, 0.5),
    )
    objective = config.objective
    if isinstance(objective, NextToken | SFT | Corrupted):
        objective = dataclasses.replace(objective, z_loss=0.0, label_smoothing=0.0)
    if isinstance(objective, Distillation):  # the teacher is asked by a program of its own
        objective = dataclasses.replace(
            objective, teacher='', teacher_step=None, temperature=1.0, teacher_weight=0.5, stored=False
        )
    return dataclasses.replace(
        config,
        name='',
        seed=0,
        data=dataclasses.replace(config.data, seed=0),
        objective=objective,
        optimizer=type(config.optimizer)(),
        training=training,
    )


def make_train_step(config: Config, per_layer: bool = False, axis: str | None = None):
    """Builds the pure step `(state, batch, hyper) -> (state, metrics)`; `llm.parallel.step` compiles it for devices.

    Args:
        config: the run's.
        per_layer: also report the norm of gradient, update and parameter of every tensor (per layer, where stacked).
        axis: name of the axis over which `pmap` runs copies of the step, each with its part of the rows.

    Returns:
        The step. `batch` is a dictionary of (batch, length) arrays; metrics are (sum, weight) pairs: what the
        objective reports (`loss` among it), `tokens`, `grad_norm`, `update_norm`, `param_norm`, `learning_rate`.
    """
    model = Transformer(config.model)

    def step(state: TrainState, batch: dict[str, Array], hyper: dict[str, Any]) -> tuple[TrainState, Metrics]:
        loss = registry.make_loss(config, model, hyper['objective'])
        rng = None
        if config.model.dropout > 0:
            rng = jax.random.fold_in(jax.random.key(hyper['seed']), state.step)
        batch = batch | {'example_ids': _example_ids(batch, axis)}
        whole = lambda params, batch, rng: loss(full_params(config, params, state.frozen), batch, rng)
        sums = summed_gradients(whole, state.params, batch, rng, config.training.accumulation)
        sums = (*sums, tokens_read(config, batch))
        gradients, weight, metrics, tokens = sums if axis is None else jax.lax.psum(sums, axis)
        metrics |= {'tokens': (tokens, jnp.ones_like(tokens))}
        state, values = apply_gradients(config, state, gradients, weight, hyper, per_layer)
        return state.replace(step=state.step + 1), metrics | values

    return step


def full_params(config: Config, params: Any, frozen: Any) -> Any:
    """The model's whole parameter tree: what is trained, or with LoRA what is trained beside what is frozen."""
    return lora.combine(frozen['base'], params, config.lora) if config.lora.rank else params


def tokens_read(config: Config, batch: dict[str, Array]) -> Float[Array, '']:
    """Tokens that count as trained on: those that are predicted, or with examples those that are not padding.

    Where a part of a window is hidden, those that would be predicted if none were: the tokens of its text.
    """
    if 'text_tokens' in batch:
        return jnp.sum(batch['text_tokens'], dtype=jnp.float32)
    if 'lengths' in batch:
        return jnp.sum(batch['lengths'], dtype=jnp.float32)
    if isinstance(config.objective, SFT) and 'segment_ids' in batch:
        return jnp.sum(batch['segment_ids'] > 0, dtype=jnp.float32)
    return jnp.sum(batch['loss_weights'], dtype=jnp.float32)


def apply_gradients(
    config: Config,
    state: TrainState,
    gradients: Any,
    weight: Float[Array, ''],
    hyper: dict[str, Any],
    per_layer: bool = False,
) -> tuple[TrainState, Metrics]:
    """Divides summed gradients by their weight, once, and moves the parameters. The step count stays.

    Args:
        config: the run's.
        state: before the update.
        gradients: of the summed loss, shaped like `state.params`.
        weight: what the loss was summed over.
        hyper: `hyperparameters(config)`, or traced numbers in its place.
        per_layer: also report norms of every tensor.

    Returns:
        The state after the update, and `grad_norm`, `update_norm`, `param_norm`, `learning_rate` as metrics.
    """
    optimizer = make_optimizer(config, hyper['optimizer'])
    gradients = jax.tree.map(lambda g: g / jnp.maximum(weight, 1).astype(g.dtype), gradients)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        decay = hyper['optimizer']['ema_decay']
        ema = jax.tree.map(lambda e, p: (decay * e + (1 - decay) * p).astype(e.dtype), ema, params)
    peak = hyper['optimizer']['learning_rate']
    values = {
        'grad_norm': optax.global_norm(gradients),
        'update_norm': optax.global_norm(updates),
        'param_norm': optax.global_norm(params),
        'learning_rate': peak * learning_rate_factor(config.schedule, state.step + 1),
    }
    if per_layer:
        for kind, tree in (('grad', gradients), ('update', updates), ('param', params)):
            values |= {f'{kind}_norm/{name}': norm for name, norm in _tensor_norms(tree).items()}
    metrics = {name: (value, jnp.ones_like(value)) for name, value in values.items()}
    return state.replace(params=params, opt_state=opt_state, ema=ema), metrics


def _example_ids(batch, axis):
    """Which row of the global batch each row here is."""
    rows = next(iter(batch.values())).shape[0]
    first = 0 if axis is None else jax.lax.axis_index(axis) * rows
    return first + jnp.arange(rows, dtype=jnp.int32)


def summed_gradients(
    loss: Loss, params: Any, batch: dict[str, Array], rng: Array | None, accumulation: int
) -> tuple[Any, Array, Metrics]:
    """Sums of gradients, weights and metrics over micro-batches, each of every `accumulation`-th row."""

    def of(micro_batch):
        def summed(params):
            total, weight, metrics = loss(params, micro_batch, rng)
            return total, (weight, metrics)

        gradients, (weight, metrics) = jax.grad(summed, has_aux=True)(params)
        return gradients, weight, metrics

    if accumulation == 1:
        return of(batch)
    # Every accumulation-th row, so that each device's rows stay where they are.
    split = lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1)
    micro_batches = jax.tree.map(split, batch)
    places = lambda ndim: ('batch', *(None,) * (ndim - 2), *('length',) * (ndim > 1))
    micro_batches = {name: constrain(x, None, *places(x.ndim - 1)) for name, x in micro_batches.items()}
    shapes = jax.eval_shape(of, jax.tree.map(lambda x: x[0], micro_batches))
    start = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    add = lambda total, micro_batch: (jax.tree.map(jnp.add, total, of(micro_batch)), None)
    return jax.lax.scan(add, start, micro_batches)[0]


def _tensor_norms(tree) -> dict[str, Array]:
    """The norm of each tensor by its path; stacked tensors have one per layer."""
    norms = {}
    for name, value in named_leaves(tree):
        axes = tuple(range(1, value.ndim)) if is_stacked(name) else None
        norms[name] = jnp.sqrt(jnp.sum(jnp.square(value.astype(jnp.float32)), axis=axes))
    return norms
