"""How much better than expected: generalised advantages over tokens, and a response against the others of its group."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

GROUP_EPSILON = 1e-4  # added to deviations of responses' rewards, as TRL does


def gae(
    rewards: Float[Array, 'rows length'],
    values: Float[Array, 'rows length'],
    mask: Bool[Array, 'rows length'],
    discount: float | Float[Array, ''],
    lam: float | Float[Array, ''],
) -> tuple[Float[Array, 'rows length'], Float[Array, 'rows length']]:
    """Generalised advantage estimation (Schulman et al. 2016) over the response only.

    delta_t = r_t + discount V_{t+1} - V_t; A_t = delta_t + discount lam A_{t+1}; return_t = A_t + V_t. What follows the
    response has value and advantage 0.

    Args:
        rewards: of producing token t.
        values: of the state before token t.
        mask: the response, one stretch of each row.
        discount, lam: gamma and lambda.

    Returns:
        Advantages (not whitened) and returns, 0 outside the mask.
    """
    zero = jnp.zeros((), values.dtype)
    discount, lam = (jnp.asarray(x, values.dtype) for x in (discount, lam))
    rewards, values = (jnp.where(mask, x, zero) for x in (rewards.astype(values.dtype), values))

    def step(after, column):
        advantage, next_value = after
        reward, value, inside = column
        delta = reward + discount * next_value - value
        advantage = jnp.where(inside, delta + discount * lam * advantage, zero)
        return (advantage, value), advantage

    start = (jnp.zeros_like(values[:, 0]),) * 2
    _, advantages = jax.lax.scan(step, start, (rewards.T, values.T, mask.T), reverse=True)
    return advantages.T, jnp.where(mask, advantages.T + values, zero)


def group_advantages(rewards: Float[Array, 'prompts samples'], scale: bool) -> Float[Array, 'prompts samples']:
    """A response's reward minus the mean of its group (Shao et al. 2024, GRPO).

    Args:
        rewards: of at least two responses to each prompt.
        scale: divide by the group's unbiased deviation + 1e-4; Dr. GRPO (Liu et al. 2025) does not.
    """
    advantages = rewards - jnp.mean(rewards, axis=1, keepdims=True)
    if not scale:
        return advantages
    return advantages / (jnp.std(rewards, axis=1, ddof=1, keepdims=True) + GROUP_EPSILON)


def leave_one_out(rewards: Float[Array, 'prompts samples']) -> Float[Array, 'prompts samples']:
    """A response's reward minus the mean of the others' in its group (Kool et al. 2019; Ahmadian et al. 2024, RLOO)."""
    others = jnp.sum(rewards, axis=1, keepdims=True) - rewards
    return rewards - others / (rewards.shape[1] - 1)


def whiten(
    values: Float[Array, '*batch'],
    mask: Bool[Array, '*batch'] | None = None,
    axis: str | None = None,
    epsilon: float = 1e-8,
) -> Float[Array, '*batch']:
    """To mean 0 and unbiased deviation 1 over what the mask keeps (by default all); 0 outside it.

    Args:
        values: any shape.
        mask: what counts.
        axis: name of a mapped axis (`pmap`) whose copies are whitened together.
        epsilon: added to the deviation.
    """
    mask = jnp.ones(values.shape, bool) if mask is None else mask
    zero = jnp.zeros((), values.dtype)
    total = lambda x: jnp.sum(x) if axis is None else jax.lax.psum(jnp.sum(x), axis)
    count = total(mask.astype(values.dtype))
    mean = total(jnp.where(mask, values, zero)) / jnp.maximum(count, 1)
    centred = jnp.where(mask, values - mean, zero)
    variance = total(jnp.square(centred)) / jnp.maximum(count - 1, 1)
    return centred / (jnp.sqrt(variance) + epsilon)
