"""The logit lens (nostalgebraist 2020): what the head would say if the model ended after each layer."""

import contextlib
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.analysis.lens.activations import full_precision
from llm.config import ModelConfig
from llm.model import Transformer


class LogitLens(NamedTuple):
    """What the head reads off the stream: in row 0 off the one that enters the first block, in row i after i blocks.

    Attributes:
        tokens: the most probable ones, best first.
        probabilities: theirs.
        entropy: of the whole distribution, in nats.
        target_rank: how many tokens are more probable than the target: 0 is the first.
        target_probability: the target's.
        target_logit: the target's.
    """

    tokens: Int[Array, 'layers+1 batch length top']
    probabilities: Float[Array, 'layers+1 batch length top']
    entropy: Float[Array, 'layers+1 batch length']
    target_rank: Int[Array, 'layers+1 batch length']
    target_probability: Float[Array, 'layers+1 batch length']
    target_logit: Float[Array, 'layers+1 batch length']


def residuals(activations: dict[str, Array]) -> Float[Array, 'layers+1 batch length width']:
    """The stream before the first block and after each, from the sites 'residual_before' and 'residual_after'."""
    return jnp.concatenate([activations['residual_before'][:1], activations['residual_after']])


def unembed(
    params: Any, config: ModelConfig, residual: Float[Array, '*batch width']
) -> Float[Array, '*batch vocabulary']:
    """Logits of the stream at any depth: the model's own final norm and head (with its soft-cap, if it has one)."""
    return Transformer(config).apply({'params': params}, residual, method=lambda m, x: m.unembed(m.final_norm(x)))


def logit_lens(
    params: Any,
    config: ModelConfig,
    activations: dict[str, Array],
    target: Int[Array | np.ndarray, 'batch length'] | int,
    top: int = 5,
) -> LogitLens:
    """Reads every layer and position through the final norm and the head.

    Args:
        params: the model's.
        config: the model's.
        activations: from `run`, with 'residual_before' and 'residual_after'; cut their positions for a window of them.
        target: a token whose rank and probability are wanted everywhere, or one for each position.
        top: how many of the most probable tokens.
    """
    streams = residuals(activations)
    target = jnp.broadcast_to(jnp.asarray(target, jnp.int32), streams.shape[1:3])
    with full_precision() if config.compute_dtype == 'float32' else contextlib.nullcontext():
        return _lens(params, config, streams, target, min(top, config.vocab_size))


@functools.partial(jax.jit, static_argnames=('config', 'top'))
def _lens(params, config, streams, target, top):
    def read(stream):  # one layer at a time: the logits of all would be the largest array by far
        logits = unembed(params, config, stream).astype(jnp.float32)
        log_probs = jax.nn.log_softmax(logits)
        probabilities, tokens = jax.lax.top_k(jnp.exp(log_probs), top)
        wanted = jnp.take_along_axis(logits, target[..., None], axis=-1)
        return LogitLens(
            tokens=tokens,
            probabilities=probabilities,
            entropy=-jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1),
            target_rank=jnp.sum(logits > wanted, axis=-1, dtype=jnp.int32),
            target_probability=jnp.exp(jnp.take_along_axis(log_probs, target[..., None], axis=-1))[..., 0],
            target_logit=wanted[..., 0],
        )

    return jax.lax.map(read, streams)
