"""How far the policy has gone from its reference: estimates per token, the exact number, and a coefficient that adapts.

With d = log pi(token) - log ref(token), for a token drawn from pi (Schulman 2020, "Approximating KL divergence"):

    estimator   value                        its gradient, where it is part of a loss
    k1          d                            0 in expectation: it belongs in the reward
    k2          d^2 / 2                      that of KL(pi || ref)
    k3          exp(-d) - 1 + d              that of KL(ref || pi)
    ratio_k3    pi / old (exp(-d) - 1 + d)   that of KL(pi || ref), also for tokens drawn from an older policy
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

Estimator = Literal['k1', 'k2', 'k3', 'ratio_k3']


def kl_per_token(
    estimator: Estimator,
    logprobs: Float[Array, '*batch'],
    reference_logprobs: Float[Array, '*batch'],
    ratio: Float[Array, '*batch'] | None = None,
) -> Float[Array, '*batch']:
    """One of the estimates above, in nats per token.

    Args:
        estimator: which.
        logprobs: of the policy, through which the gradient goes.
        reference_logprobs: of the reference.
        ratio: probability under the policy over that under the policy that drew the token; for 'ratio_k3'.
    """
    d = logprobs - reference_logprobs
    if estimator == 'k1':
        return d
    if estimator == 'k2':
        return jnp.square(d) / 2
    k3 = jnp.expm1(-d) + d
    return k3 if estimator == 'k3' else ratio * k3


def exact_kl(
    log_p: Float[Array, '*batch vocabulary'], log_q: Float[Array, '*batch vocabulary']
) -> Float[Array, '*batch']:
    """KL(p || q) in nats of normalised log-probabilities over the whole vocabulary. What p rules out adds nothing."""
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), jnp.zeros_like(p)), axis=-1)


def adapted_coefficient(
    coefficient: Float[Array, ''],
    observed: Float[Array, ''],
    responses: int | float | Float[Array, ''],
    target: float | Float[Array, ''],
    horizon: float | Float[Array, ''],
) -> Float[Array, '']:
    """The next KL coefficient of PPO's proportional controller (Ziegler et al. 2019).

    Args:
        coefficient: the one used so far.
        observed: mean KL per response, in nats, of what was just drawn.
        responses: how many were drawn.
        target: KL per response to keep to.
        horizon: responses over which the coefficient adapts.
    """
    error = jnp.clip(observed / target - 1, -0.2, 0.2)
    return coefficient * (1 + error * responses / horizon)
