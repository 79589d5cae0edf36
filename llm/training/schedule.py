"""Learning-rate schedules as factors in [0, 1] of the peak, pure functions of the update's number."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay

Schedule = Cosine | Linear | WarmupStableDecay | Constant | InverseSquareRoot


def learning_rate_factor(schedule: Schedule, update: Int[Array, ''] | int) -> Float[Array, '']:
    """What the peak learning rate is multiplied by.

    Args:
        schedule: the config's choice.
        update: the update's number, from 1. Warm-up ends at update `warmup`; the final value is reached at `horizon`
            and kept.
    """
    update = jnp.asarray(update, jnp.float32)
    warmup = jnp.minimum(1.0, update / max(schedule.warmup, 1))
    if isinstance(schedule, Constant):
        return warmup
    if isinstance(schedule, InverseSquareRoot):
        return warmup * jnp.sqrt(schedule.warmup / jnp.maximum(update, schedule.warmup))
    decay = schedule.decay if isinstance(schedule, WarmupStableDecay) else schedule.horizon - schedule.warmup
    left = jnp.clip((schedule.horizon - update) / max(decay, 1), 0.0, 1.0)  # part of the decay still ahead
    if isinstance(schedule, Cosine):
        left = 0.5 - 0.5 * jnp.cos(jnp.pi * left)
    return jnp.minimum(warmup, schedule.final_fraction + (1 - schedule.final_fraction) * left)
