"""How likely a model finds the tokens of its rows: what DPO, PPO, GRPO and RLOO are made of.

Everything per token is aligned with the tokens: column t belongs to token t given what precedes it; column 0 is 0. Rows
are right-padded, and which tokens count follows from lengths, never from the tokens themselves.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm.model.dtypes import wide
from llm.model.transformer import Transformer
from llm.parallel.axes import partitioned

LOGITS_AT_ONCE = 2**26  # numbers on a device; beyond, the vocabulary projection goes through the rows in pieces


class TokenLogProbs(NamedTuple):
    """What one forward pass says about each token, in float32 at least.

    Attributes:
        logprobs: log-probability of token t given the tokens before it; 0 at t = 0.
        entropy: of the distribution that token t came from, in nats; without a gradient; 0 at t = 0.
        hidden: the residual stream after the final norm, for reward and value heads.
    """

    logprobs: Float[Array, 'rows length']
    entropy: Float[Array, 'rows length']
    hidden: Float[Array, 'rows length width']


def response_mask(
    prompt_lengths: Int[Array, '*batch'], lengths: Int[Array, '*batch'], length: int
) -> Bool[Array, '*batch {length}']:
    """True on the tokens of the response: from the prompt's end up to and including the first EOS."""
    steps = jnp.arange(length, dtype=jnp.int32).reshape(*(1,) * prompt_lengths.ndim, length)
    return (prompt_lengths[..., None] <= steps) & (steps < lengths[..., None])


def masked_sum(values: Float[Array, '*batch length'], mask: Bool[Array, '*batch length']) -> Float[Array, '*batch']:
    """Sum over the last axis of what the mask keeps. What it leaves out has no part, be it infinite or not a number."""
    return jnp.sum(jnp.where(mask, values, jnp.zeros_like(values)), axis=-1)


def token_log_probs(
    model: Transformer,
    params: Any,
    tokens: Int[Array, 'rows length'],
    temperature: float | Float[Array, ''] = 1.0,
    prompt_lengths: Int[Array, 'rows'] | None = None,
    max_response: int | None = None,
) -> TokenLogProbs:
    """Reads right-padded rows once and scores every token by what precedes it.

    The logits are not kept for the backward pass but computed again.

    Args:
        model, params: the model; heads beside it in `params` are ignored.
        tokens: the rows. Attention is causal, so padding on the right reaches no real token.
        temperature: logits are divided by it, as they are when sampling.
        prompt_lengths, max_response: if given, only the `max_response` tokens behind each prompt are scored, which
            saves the vocabulary projection of the others; these get 0.
    """
    length = tokens.shape[1]
    hidden = model.apply({'params': params}, tokens, with_logits=False).hidden
    head = {name: params[name] for name in ('embedding', 'lm_head') if name in params}
    if max_response is None:
        logprobs, entropy = _scores(model, head, hidden[:, :-1], tokens[:, 1:], temperature)
        logprobs, entropy = (jnp.pad(x, ((0, 0), (1, 0))) for x in (logprobs, entropy))
    else:
        count = min(max_response, length - 1)
        place = jnp.maximum(prompt_lengths, 1)[:, None] + jnp.arange(count, dtype=jnp.int32)[None, :]
        place = jnp.minimum(place, length - 1)
        before = jnp.take_along_axis(hidden, place[:, :, None] - 1, axis=1)
        scores = _scores(model, head, before, jnp.take_along_axis(tokens, place, axis=1), temperature)
        offset = jnp.arange(length, dtype=jnp.int32)[None, :] - jnp.maximum(prompt_lengths, 1)[:, None]
        scored, offset = (offset >= 0) & (offset < count), jnp.clip(offset, 0, count - 1)
        back = lambda x: jnp.where(scored, jnp.take_along_axis(x, offset, axis=1), jnp.zeros((), x.dtype))
        logprobs, entropy = map(back, scores)
    return TokenLogProbs(logprobs, entropy, hidden.astype(logprobs.dtype))


def _scores(model, head, hidden, targets, temperature):
    """Log-probability of each target and entropy of its distribution, in pieces if the logits are large."""
    rows, length, _ = hidden.shape

    @jax.checkpoint
    def score(head, hidden, targets):
        logits = model.apply({'params': head}, hidden, method='unembed')
        logits = logits.astype(wide(logits.dtype)) / jnp.asarray(temperature, wide(logits.dtype))
        return log_prob_and_entropy(logits, targets)

    devices = jax.sharding.get_abstract_mesh().size if partitioned() else 1  # that share rows and vocabulary
    chunk = max(1, devices * LOGITS_AT_ONCE // (rows * model.config.vocab_size))
    if chunk >= length:
        return score(head, hidden, targets)
    chunks = -(-length // chunk)

    def cut(x):
        padding = ((0, 0), (0, chunks * chunk - length)) + ((0, 0),) * (x.ndim - 2)
        return jnp.pad(x, padding).reshape(rows, chunks, chunk, *x.shape[2:]).swapaxes(0, 1)

    pieces = jax.lax.map(lambda piece: score(head, *piece), (cut(hidden), cut(targets)))
    return tuple(x.swapaxes(0, 1).reshape(rows, chunks * chunk)[:, :length] for x in pieces)


def log_prob_and_entropy(
    logits: Float[Array, '*batch vocabulary'], targets: Int[Array, '*batch']
) -> tuple[Float[Array, '*batch'], Float[Array, '*batch']]:
    """log softmax(logits)[target], and the softmax's entropy in nats (which has no gradient)."""
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(shifted)
    total = jnp.sum(weights, axis=-1)
    log_total = jnp.log(total)
    chosen = jnp.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    # 0 x -inf, a token that cannot come, adds nothing.
    spread = jnp.sum(jnp.where(weights > 0, weights * shifted, jnp.zeros_like(shifted)), axis=-1) / total
    return chosen - log_total, jax.lax.stop_gradient(log_total - spread)
