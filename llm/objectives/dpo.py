"""Direct preference optimisation (Rafailov et al. 2023): a preference becomes a gradient without a reward model."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import DPO
from llm.model.transformer import Transformer
from llm.objectives.log_probs import masked_sum, response_mask, token_log_probs

Batch = dict[str, Array]
Metrics = dict[str, tuple[Array, Array]]


class Hyperparameters(NamedTuple):
    """The numbers of the objective that a compiled step takes as arguments."""

    beta: Float[Array, '']
    label_smoothing: Float[Array, '']


def hyperparameters(config: DPO) -> Hyperparameters:
    return Hyperparameters(jnp.float32(config.beta), jnp.float32(config.label_smoothing))


def response_log_probs(
    model: Transformer,
    params: Any,
    tokens: Int[Array, 'batch responses length'],
    prompt_lengths: Int[Array, 'batch responses'],
    lengths: Int[Array, 'batch responses'],
) -> Float[Array, 'batch responses']:
    """Log-probability of each whole response, in nats. Of the reference model, this is `reference_logprobs`."""
    batch, responses, length = tokens.shape
    scored = token_log_probs(model, params, tokens.reshape(batch * responses, length))
    mask = response_mask(prompt_lengths, lengths, length)
    return masked_sum(scored.logprobs.reshape(tokens.shape), mask)


def pair_losses(
    config: DPO,
    log_ratios: Float[Array, 'batch 2'],
    response_lengths: Float[Array, 'batch 2'],
    hyper: Hyperparameters,
) -> Float[Array, 'batch']:
    """What is minimised, per pair.

    Args:
        config: which loss.
        log_ratios: log-probability under the policy minus that under the reference, chosen first.
        response_lengths: in tokens, at least 1.
        hyper: beta and label smoothing.

    With d the chosen log-ratio minus the rejected one (per token with `length_normalized`), e the label smoothing:

    - sigmoid: -(1 - e) log s(beta d) - e log s(-beta d)    (Rafailov et al. 2023; e > 0: Mitchell 2023, conservative)
    - robust: (-(1 - e) log s(beta d) + e log s(-beta d)) / (1 - 2 e)    (Chowdhury et al. 2024)
    - hinge: max(0, 1 - beta d)    (Zhao et al. 2023, SLiC)
    - ipo: (d - 1 / (2 beta))^2, d always per token    (Azar et al. 2023)
    """
    if config.length_normalized or config.loss == 'ipo':
        log_ratios = log_ratios / response_lengths
    difference = log_ratios[:, 0] - log_ratios[:, 1]
    beta, smoothing = (h.astype(difference.dtype) for h in hyper)
    if config.loss == 'ipo':
        return jnp.square(difference - 1 / (2 * beta))
    logits = beta * difference
    if config.loss == 'hinge':
        return jax.nn.relu(1 - logits)
    right, wrong = -jax.nn.log_sigmoid(logits), -jax.nn.log_sigmoid(-logits)
    if config.loss == 'robust':
        return ((1 - smoothing) * right - smoothing * wrong) / (1 - 2 * smoothing)
    return (1 - smoothing) * right + smoothing * wrong


def make_loss(config: DPO, model: Transformer, hyper: Hyperparameters):
    """Builds the objective.

    Returns:
        `loss(params, batch, rng) -> (loss_sum, weight, metrics)`, the weight in pairs. `batch` has `tokens` (batch, 2,
        length), chosen first, `prompt_lengths` and `lengths` (batch, 2), and, unless `reference_free`,
        `reference_logprobs` (batch, 2): what `response_log_probs` of the reference gave. A pair with a length of 0 is
        padding and counts for nothing. There is no dropout. `metrics`: `loss`, `rewards/chosen`, `rewards/rejected`
        (beta times the log-ratio), `rewards/accuracies` (share of pairs whose chosen reward is the larger),
        `rewards/margins`, `logps/chosen`, `logps/rejected` (nats per response).
    """

    def loss(params: Any, batch: Batch, rng: Array | None) -> tuple[Array, Array, Metrics]:
        del rng
        prompt_lengths, lengths = batch['prompt_lengths'], batch['lengths']
        logprobs = response_log_probs(model, params, batch['tokens'], prompt_lengths, lengths)
        ratios = logprobs
        if not config.reference_free:
            ratios = logprobs - batch['reference_logprobs'].astype(logprobs.dtype)
        response_lengths = jnp.maximum(lengths - prompt_lengths, 1).astype(logprobs.dtype)
        losses = pair_losses(config, ratios, response_lengths, hyper)
        real = jnp.all(lengths > 0, axis=1)
        total = masked_sum(losses, real)
        weight = jnp.sum(real, dtype=total.dtype)
        rewards = jax.lax.stop_gradient(hyper.beta.astype(ratios.dtype) * ratios)
        values = {
            'loss': losses,
            'rewards/chosen': rewards[:, 0],
            'rewards/rejected': rewards[:, 1],
            'rewards/accuracies': (rewards[:, 0] > rewards[:, 1]).astype(rewards.dtype),
            'rewards/margins': rewards[:, 0] - rewards[:, 1],
            'logps/chosen': logprobs[:, 0],
            'logps/rejected': logprobs[:, 1],
        }
        metrics = {name: (masked_sum(value, real), weight) for name, value in values.items()}
        return total, weight, metrics

    return loss
