"""The optimizer as one optax chain: clip, precondition, decay, scale by the schedule.

Which parameter is what is decided by its name, in one table.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from llm.config import SGD, Adafactor, AdamW, Config, Lion, Muon, Online
from llm.model.parametrization import Role, epsilon_factor, rate_factor
from llm.training.muon import scale_by_muon
from llm.training.schedule import learning_rate_factor

# First match wins. All but vectors decay; the groups are the roles of `llm.model.parametrization`.
GROUPS: tuple[tuple[str, Role], ...] = (
    (r'^(encoder/)?blocks/.*/kernel$', 'hidden'),
    (r'^(embedding|(encoder/)?positions)/table$', 'embedding'),
    (r'^patches/(kernel|rows|columns)$', 'embedding'),
    (r'^lm_head/kernel$', 'head'),
    (r'^(reward|value)_head/kernel$', 'scalar_head'),
    (r'/lora_a$', 'lora_a'),
    (r'/lora_b$', 'lora_b'),
    (r'(^|/)(scale|bias)$', 'vector'),
)
MATRICES = ('hidden', 'lora_a', 'lora_b')  # what Muon takes

Hyper = dict[str, Array]


def hyperparameters(config: Config) -> Hyper:
    """The optimizer's numbers, as the compiled step takes them: changing one recompiles nothing."""
    numbers = dict(vars(config.optimizer))
    for name in ('clip_norm', 'ema_decay'):
        if getattr(config.training, name) is not None:
            numbers[name] = getattr(config.training, name)
    return {name: jnp.float32(value) for name, value in numbers.items()}


def groups(params: Any) -> Any:
    """The group of each parameter, by `GROUPS`, in the shape of the tree.

    Raises:
        ValueError: for a parameter that the table does not know.
    """

    def find(path, _):
        name = '/'.join(key.key for key in path)
        for pattern, group in GROUPS:
            if re.search(pattern, name):
                return group
        raise ValueError(f'parameter {name} is in no group; add a pattern to llm.training.optimizer.GROUPS')

    return jax.tree_util.tree_map_with_path(find, params)


def updates_per_step(config: Config) -> int:
    """Updates that one step of the run makes: more than one only where each learns several times from its rollout."""
    objective = config.objective
    return objective.rollout.epochs * objective.rollout.minibatches if isinstance(objective, Online) else 1


def make_optimizer(config: Config, hyper: Hyper) -> optax.GradientTransformation:
    """Builds the chain.

    Args:
        config: the kind of optimizer, the schedule.
        hyper: `hyperparameters(config)`, or traced numbers in its place.
    """
    decayed = optax.add_decayed_weights(
        hyper['weight_decay'], mask=lambda params: jax.tree.map(lambda group: group != 'vector', groups(params))
    )

    def descend(peak):
        step = lambda count: count // updates_per_step(config) + 1
        return optax.scale_by_schedule(lambda count: -peak * learning_rate_factor(config.schedule, step(count)))

    by_width = _by_width(config)
    chain = [_clip_by_global_norm(hyper['clip_norm'])] if 'clip_norm' in hyper else []
    if isinstance(config.optimizer, Muon):
        adam = optax.scale_by_adam(b1=hyper['b1'], b2=hyper['b2'], eps=1e-8 * epsilon_factor(config.model))
        parts = {
            'matrix': optax.chain(
                scale_by_muon(hyper['momentum'], config.model), *by_width, decayed, descend(hyper['learning_rate'])
            ),
            'other': optax.chain(adam, *by_width, decayed, descend(hyper['adam_learning_rate'])),
        }
        labels = lambda params: jax.tree.map(lambda group: 'matrix' if group in MATRICES else 'other', groups(params))
        return optax.chain(*chain, optax.partition(parts, labels))
    preconditioner = {
        AdamW: lambda: optax.scale_by_adam(
            b1=hyper['b1'], b2=hyper['b2'], eps=hyper['epsilon'] * epsilon_factor(config.model)
        ),
        Adafactor: lambda: _each_layer(
            optax.chain(
                optax.scale_by_factored_rms(decay_rate=hyper['decay_rate']),
                optax.clip_by_block_rms(1.0),
                optax.scale_by_param_block_rms(),
            )
        ),
        Lion: lambda: optax.scale_by_lion(b1=hyper['b1'], b2=hyper['b2']),
        SGD: lambda: optax.trace(decay=hyper['momentum']),
    }[type(config.optimizer)]()
    return optax.chain(*chain, preconditioner, *by_width, decayed, descend(hyper['learning_rate']))


def _by_width(config: Config) -> list[optax.GradientTransformation]:
    """What scales each parameter's step as the parametrisation asks for; nothing in the standard one."""
    if config.model.parametrization == 'standard':
        return []
    factor = lambda group: rate_factor(config.model, group, config.optimizer.kind)

    def update(steps, state, params=None):
        return jax.tree.map(lambda step, group: step * factor(group), steps, groups(steps)), state

    return [optax.GradientTransformation(lambda params: optax.EmptyState(), update)]


def _clip_by_global_norm(limit: Array) -> optax.GradientTransformation:
    """optax's, which fails where gradients are not of the limit's type."""

    def update(gradients, state, params=None):
        norm = optax.global_norm(gradients)
        cast = lambda number, g: number.astype(g.dtype)
        clip = lambda g: jnp.where(norm < limit, g, g / cast(norm, g) * cast(limit, g))
        return jax.tree.map(clip, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _each_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies to each layer's tensors on their own what would otherwise see the stack of all layers as one tensor."""
    stacked = optax.GradientTransformation(jax.vmap(transform.init), jax.vmap(transform.update))

    def labels(params):
        label = lambda name: 'stacked' if name == 'blocks' else 'single'
        return {
            name: {part: label(part) for part in tree} if name == 'encoder' else label(name)
            for name, tree in params.items()
        }

    return optax.partition({'stacked': stacked, 'single': transform}, labels)
