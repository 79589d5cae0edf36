"""The policy's loss on responses that it drew itself: PPO, GRPO and its variants, RLOO."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from llm.config import GRPO, PPO, RLOO
from llm.model.transformer import Transformer
from llm.objectives.kl import kl_per_token
from llm.objectives.log_probs import masked_sum, response_mask, token_log_probs

Batch = dict[str, Array]
Metrics = dict[str, tuple[Array, Array]]


class Hyperparameters(NamedTuple):
    """The numbers of the objective that a compiled step takes as arguments; what an objective lacks is 0.

    `discount`, `gae_lambda`, `kl_target` and `kl_horizon` are for the advantages, made before the loss.
    """

    temperature: Float[Array, '']
    clip: Float[Array, '']
    clip_high: Float[Array, '']
    kl_coefficient: Float[Array, '']
    value_clip: Float[Array, '']
    value_coefficient: Float[Array, '']
    discount: Float[Array, '']
    gae_lambda: Float[Array, '']
    kl_target: Float[Array, '']
    kl_horizon: Float[Array, '']


def hyperparameters(config: PPO | GRPO | RLOO) -> Hyperparameters:
    def number(name):
        value = getattr(config, name, None)
        return jnp.float32(0 if value is None else value)

    numbers = {name: number(name) for name in Hyperparameters._fields}
    numbers['temperature'] = jnp.float32(config.rollout.temperature)
    if getattr(config, 'clip_high', None) is None:
        numbers['clip_high'] = numbers['clip']
    return Hyperparameters(**numbers)


def token_values(params: Any, hidden: Float[Array, 'rows length width']) -> Float[Array, 'rows length']:
    """The value of the state before each token: the head on the hidden vector of the token before; 0 at t = 0."""
    kernel = params['value_head']['kernel'].astype(hidden.dtype)
    values = jnp.matmul(hidden[:, :-1], kernel, precision='highest')[:, :, 0]
    return jnp.pad(values, ((0, 0), (1, 0)))


def make_loss(config: PPO | GRPO | RLOO, model: Transformer, hyper: Hyperparameters):
    """Builds the objective.

    Returns:
        `loss(params, batch, rng) -> (loss_sum, weight, metrics)`. There is no dropout. `batch`, of rows and columns
        as `llm.objectives.log_probs` aligns them: `tokens` (rows, length), `prompt_lengths` and `lengths` (rows,),
        `advantages` and `old_logprobs` (rows, length) float32. `reference_logprobs` (rows, length) for a KL in GRPO's
        loss (for the others it adds the metric). Without `old_logprobs` the old policy is this one, before its only
        update; `sampler_logprobs` (rows, length) add the metric `sampler_logp_gap`, the largest difference. PPO:
        `old_values` and `returns` (rows, length). GRPO with `dapo`: `row_tokens` (rows,) float32, response tokens of
        the whole rollout over its rows. A row of length 0 is padding.

        `metrics`: `loss`, `entropy`, `clip_ratio` (share of ratios that the clip took the gradient from),
        `policy/approxkl`, `val/ratio`, with a reference `kl`, and for PPO `value/loss` and `value/clipfrac`; per token,
        but for RLOO, whose ratios are those of whole responses.

    Raises:
        KeyError: in the loss, if the batch lacks what is listed.
    """

    def loss(params: Any, batch: Batch, rng: Array | None) -> tuple[Array, Array, Metrics]:
        del rng
        tokens, prompt_lengths = batch['tokens'], batch['prompt_lengths']
        mask = response_mask(prompt_lengths, batch['lengths'], tokens.shape[1])
        scored = token_log_probs(
            model, params, tokens, hyper.temperature, prompt_lengths, config.rollout.max_new_tokens
        )
        dtype = scored.logprobs.dtype
        numbers = Hyperparameters(*(h.astype(dtype) for h in hyper))
        # 0 outside the response before anything is computed: nothing can overflow on its way to being left out.
        inside = lambda x: jnp.where(mask, x.astype(dtype), jnp.zeros((), dtype))
        logprobs, advantages = inside(scored.logprobs), inside(batch['advantages'])
        alone = 'old_logprobs' not in batch
        log_ratio = logprobs - (jax.lax.stop_gradient(logprobs) if alone else inside(batch['old_logprobs']))
        in_tokens = jnp.sum(mask, dtype=dtype)
        in_rows = jnp.sum(jnp.any(mask, axis=1), dtype=dtype)
        of_tokens = lambda x: (jnp.sum(masked_sum(x, mask)), in_tokens)

        metrics = {'entropy': of_tokens(scored.entropy)}
        if 'sampler_logprobs' in batch:
            gap = jnp.max(jnp.abs(logprobs - inside(batch['sampler_logprobs'])))
            metrics['sampler_logp_gap'] = gap, jnp.ones_like(gap)
        divergence = None
        if 'reference_logprobs' in batch or (isinstance(config, GRPO) and config.kl_coefficient > 0):
            estimator = config.kl_estimator if isinstance(config, GRPO) else 'k3'
            reference = inside(batch['reference_logprobs'])
            divergence = kl_per_token(estimator, logprobs, reference, jnp.exp(log_ratio))
            metrics['kl'] = of_tokens(divergence)

        if isinstance(config, RLOO):
            log_ratio = jnp.sum(log_ratio, axis=1)
            first = jnp.minimum(prompt_lengths, tokens.shape[1] - 1)[:, None]
            advantages = jnp.take_along_axis(advantages, first, axis=1)[:, 0]
            summed = lambda x: (jnp.sum(jnp.where(jnp.any(mask, axis=1), x, jnp.zeros_like(x))), in_rows)
        else:
            summed = of_tokens
        ratio = jnp.exp(log_ratio)
        losses, clipped = clipped_losses(ratio, advantages, numbers.clip, numbers.clip_high)
        metrics |= {
            'clip_ratio': summed(clipped.astype(dtype)),
            'policy/approxkl': summed(jnp.square(log_ratio) / 2),
            'val/ratio': summed(ratio),
        }

        if isinstance(config, GRPO):
            if divergence is not None:
                losses = losses + numbers.kl_coefficient * divergence
            total, weight = _grpo_sum(config, masked_sum(losses, mask), mask, batch)
        elif isinstance(config, PPO):
            value_losses, value_clipped = _value_losses(config, params, scored.hidden, batch, inside, numbers)
            metrics |= {'value/loss': of_tokens(value_losses), 'value/clipfrac': of_tokens(value_clipped.astype(dtype))}
            total, weight = of_tokens(losses + numbers.value_coefficient * value_losses)
        else:
            total, weight = summed(losses)
        return total, weight, jax.lax.stop_gradient(metrics | {'loss': (total, weight)})

    return loss


def clipped_losses(
    ratio: Float[Array, '*batch'], advantages: Float[Array, '*batch'], low: Float[Array, ''], high: Float[Array, '']
) -> tuple[Float[Array, '*batch'], Bool[Array, '*batch']]:
    """-min(ratio A, clip(ratio, 1 - low, 1 + high) A) (Schulman et al. 2017), and where the clip took the gradient."""
    losses = -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - low, 1 + high) * advantages)
    return losses, ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))


def _grpo_sum(config, row_losses, mask, batch):
    """The sum and the weight to divide it by, which is all that the variants differ in.

    - grpo: the mean of each response's mean over its tokens (Shao et al. 2024).
    - dr_grpo: every token over the longest response there could be (Liu et al. 2025).
    - bnpo: the mean over the tokens of the minibatch.
    - dapo: the mean over tokens, their number that of the whole rollout cut into equal minibatches (Yu et al. 2025).
    """
    dtype = row_losses.dtype
    in_row = jnp.sum(mask, axis=1, dtype=dtype)
    if config.loss == 'grpo':
        row_losses = row_losses / jnp.maximum(in_row, 1)
    elif config.loss == 'dr_grpo':
        row_losses = row_losses / config.rollout.max_new_tokens
    if config.loss in ('grpo', 'dr_grpo'):
        weight = jnp.sum(jnp.any(mask, axis=1), dtype=dtype)
    elif config.loss == 'bnpo':
        weight = jnp.sum(in_row)
    else:
        weight = jnp.sum(batch['row_tokens'].astype(dtype))
    return jnp.sum(row_losses), weight


def _value_losses(config, params, hidden, batch, inside, numbers):
    """Half the squared error of each token's value, the larger of the plain and the clipped one's, and which it was."""
    values, returns = inside(token_values(params, hidden)), inside(batch['returns'])
    plain = jnp.square(values - returns)
    if config.value_clip is None:
        return plain / 2, jnp.zeros(plain.shape, bool)
    old = inside(batch['old_values'])
    clipped = jnp.square(jnp.clip(values, old - numbers.value_clip, old + numbers.value_clip) - returns)
    return jnp.maximum(plain, clipped) / 2, clipped > plain
