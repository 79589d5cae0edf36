"""The reward model: a number per response, fitted to rankings with Bradley and Terry's model (Ouyang et al. 2022)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.config import RewardModel
from llm.model.dtypes import wide
from llm.model.transformer import Transformer
from llm.objectives.log_probs import masked_sum

Batch = dict[str, Array]
Metrics = dict[str, tuple[Array, Array]]


class Hyperparameters(NamedTuple):
    """The numbers of the objective that a compiled step takes as arguments."""

    margin_scale: Float[Array, '']
    centring: Float[Array, '']


def hyperparameters(config: RewardModel) -> Hyperparameters:
    return Hyperparameters(jnp.float32(config.margin_scale), jnp.float32(config.centring))


def rewards(
    model: Transformer, params: Any, tokens: Int[Array, 'rows length'], lengths: Int[Array, 'rows']
) -> Float[Array, 'rows']:
    """The reward of each right-padded row, read at its last real token (the EOS of a response that ended).

    A row of length 0 is read at its first column: leave it out.
    """
    hidden = model.apply({'params': params}, tokens, with_logits=False).hidden
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    last = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
    last = last.astype(wide(last.dtype))
    kernel = params['reward_head']['kernel'].astype(last.dtype)
    return jnp.matmul(last, kernel, precision='highest')[:, 0]


def make_loss(config: RewardModel, model: Transformer, hyper: Hyperparameters):
    """Builds the objective: -log s(r_w - r_l - margin) + centring (r_w + r_l)^2, summed over every pair of a ranking.

    Returns:
        `loss(params, batch, rng) -> (loss_sum, weight, metrics)`, the weight in pairs. `batch` has `tokens` (batch,
        responses, length), `lengths` (batch, responses; 0 is no response) and `scores` (batch, responses): two
        responses are a pair if their scores differ, and the margin is `margin_scale` times the difference.
        `metrics`: `loss`, `accuracy` (share of pairs put the right way round), `margin` (r_w - r_l), and per response
        `mean_reward` and `mean_squared_reward`.
    """

    def loss(params: Any, batch: Batch, rng: Array | None) -> tuple[Array, Array, Metrics]:
        del rng
        tokens, lengths, scores = batch['tokens'], batch['lengths'], batch['scores']
        flat = rewards(model, params, tokens.reshape(-1, tokens.shape[-1]), lengths.reshape(-1))
        reward = flat.reshape(lengths.shape)
        real = lengths > 0
        better = scores[:, :, None] - scores[:, None, :]  # of response i over response j
        pairs = real[:, :, None] & real[:, None, :] & (better > 0)
        margin = reward[:, :, None] - reward[:, None, :]
        margin_scale, centring = (h.astype(reward.dtype) for h in hyper)
        losses = -jax.nn.log_sigmoid(margin - margin_scale * better.astype(reward.dtype))
        losses = losses + centring * jnp.square(reward[:, :, None] + reward[:, None, :])
        of_pairs = lambda values: jnp.sum(masked_sum(values, pairs))
        total, weight = of_pairs(losses), jnp.sum(pairs, dtype=reward.dtype)
        responses = jnp.sum(real, dtype=reward.dtype)
        metrics = {
            'loss': (total, weight),
            'accuracy': (of_pairs((margin > 0).astype(reward.dtype)), weight),
            'margin': (of_pairs(margin), weight),
            'mean_reward': (jnp.sum(masked_sum(reward, real)), responses),
            'mean_squared_reward': (jnp.sum(masked_sum(jnp.square(reward), real)), responses),
        }
        return total, weight, metrics

    return loss


def pair_margins(reward: np.ndarray, scores: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The margins r_w - r_l of all pairs of rankings, each (examples, responses), in one row."""
    real = lengths > 0
    pairs = real[:, :, None] & real[:, None, :] & (scores[:, :, None] > scores[:, None, :])
    return (reward[:, :, None] - reward[:, None, :])[pairs]


def calibration_error(margins: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015) of the probability s(r_w - r_l) that a pair's order is right.

    The model backs the response with the higher reward, with a confidence of s(|margin|) in [0.5, 1]; the error is the
    distance of confidence and accuracy, averaged over bins of equal width by the number of their pairs.

    Args:
        margins: r_w - r_l of each pair, at least one. A margin of 0 is half right.
        bins: of the confidence.

    Raises:
        ValueError: without margins.
    """
    if margins.size == 0:
        raise ValueError('no pairs to measure calibration on')
    margins = margins.astype(np.float64)
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = np.where(margins == 0, 0.5, margins > 0)
    which = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    distance = np.bincount(which, weights=right - confidence, minlength=bins)
    return float(np.abs(distance).sum() / margins.size)


def summary(reward: np.ndarray, scores: np.ndarray, lengths: np.ndarray, bins: int = 10) -> dict[str, float]:
    """What to say about a reward model on held-out rankings.

    Args:
        reward, scores, lengths: (examples, responses); a length of 0 is no response.
        bins: of the calibration error.

    Returns:
        `min_reward`, `mean_reward`, `max_reward`, `reward_std` (unbiased) of the responses; and, if any two scores of a
        ranking differ, `accuracy`, `margin`, `loss` (without margin and centring) and `calibration_error` of the pairs.
    """
    margins, values = pair_margins(reward, scores, lengths).astype(np.float64), reward[lengths > 0].astype(np.float64)
    said = {
        'min_reward': float(values.min()),
        'mean_reward': float(values.mean()),
        'max_reward': float(values.max()),
        'reward_std': float(values.std(ddof=1)) if values.size > 1 else 0.0,
    }
    if margins.size == 0:
        return said
    return said | {
        'accuracy': float(np.mean(margins > 0)),
        'margin': float(np.mean(margins)),
        'loss': float(np.mean(np.logaddexp(0, -margins))),
        'calibration_error': calibration_error(margins, bins),
    }
