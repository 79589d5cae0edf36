"""Beam search: the most probable continuations, by a search that keeps the best few at every length.

A hypothesis is a sequence that ends with a stop token, or that has reached the largest length without one. Its score is
log-probability / length**alpha, the stop token counted (Wu et al. 2016 have a smoother penalty of the same kind): 0
favours short ones, larger values long ones. Stopped hypotheses wait in a pool while the others grow; the search ends
when nothing alive can still enter the pool, which changes no result: log-probabilities only fall, so a live beam's
score can at best become log-probability / largest length**alpha.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm.errors import UserError
from llm.inference import decode
from llm.inference.reading import ReadPrompt
from llm.model.kv_cache import KVCache, SourceCache
from llm.model.transformer import Transformer


class Hypothesis(NamedTuple):
    """A continuation that beam search found.

    Attributes:
        ids: its tokens, with the stop token if it has one.
        logprobs: the model's log-probability of each.
        score: their sum / length**alpha.
    """

    ids: list[int]
    logprobs: list[float]
    score: float


class Beams(NamedTuple):
    """Sequences of up to `capacity` tokens; a score of -inf marks an empty place."""

    tokens: Int[Array, 'beam capacity']
    logprobs: Float[Array, 'beam capacity']
    lengths: Int[Array, 'beam']
    score: Float[Array, 'beam']


def beam_search(
    model: Transformer,
    params: Any,
    prompt: Sequence[int] | ReadPrompt,
    *,
    beam_size: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    stop_ids: Sequence[int] = (),
) -> list[Hypothesis]:
    """Searches the continuations of a prompt.

    Args:
        model, params: the model.
        prompt: ids, at least one, or how they are read where not from left to right.
        beam_size: sequences alive at a time, and hypotheses returned at most.
        max_new_tokens: largest length of a hypothesis, in tokens.
        length_penalty: alpha, at least 0.
        stop_ids: tokens that end a hypothesis.

    Returns:
        The best hypotheses found, best first. They are the best of all where the beam is wide enough to hold every live
        sequence.

    Raises:
        UserError: if the prompt and its continuation do not fit the model, or a setting is out of range.
    """
    ids = prompt.ids if isinstance(prompt, ReadPrompt) else prompt
    decode.check_prompt(model, ids, max_new_tokens, 'error')
    if isinstance(prompt, ReadPrompt) and prompt.source:
        decode.check_prompt(model, prompt.source, 1, 'error')
    if beam_size < 1:
        raise UserError(f'beam_size is {beam_size}; it must be at least 1')
    if not 0 <= length_penalty < np.inf:
        raise UserError(f'length_penalty is {length_penalty}; it must be at least 0')
    capacity = decode.bucket(len(ids) + max_new_tokens - 1, model.config.context_length)
    if isinstance(prompt, ReadPrompt):
        cache = decode.read_prompts(model, params, [prompt], [ids], capacity)
    else:
        cache = decode.read_rows(model, params, [ids[:-1]], capacity)
    stops = np.zeros(model.config.vocab_size, bool)
    stops[list(stop_ids)] = True
    found = _search(
        model,
        params,
        cache,
        np.int32(ids[-1]),
        stops,
        np.int32(max_new_tokens),
        np.float32(length_penalty),
        beam_size=beam_size,
    )
    return [
        Hypothesis(tokens[:length].tolist(), logprobs[:length].tolist(), float(score))
        for tokens, logprobs, length, score in zip(*map(np.asarray, found))
        if np.isfinite(score)
    ]


@functools.partial(jax.jit, static_argnames=('model', 'beam_size'))
def _search(
    model: Transformer,
    params: Any,
    cache: KVCache,
    last: Int[Array, ''],
    stops: Bool[Array, 'vocabulary'],
    max_length: Int[Array, ''],
    alpha: Float[Array, ''],
    beam_size: int,
) -> Beams:
    """The whole search as one loop; `cache` holds one row, the prompt without its last token."""
    shape = (beam_size, cache.capacity)
    vocabulary = stops.shape[0]
    empty = Beams(
        tokens=jnp.zeros(shape, jnp.int32),
        logprobs=jnp.zeros(shape, jnp.float32),
        lengths=jnp.zeros(shape[0], jnp.int32),
        score=jnp.full(shape[0], -jnp.inf, jnp.float32),
    )
    alive = empty._replace(score=empty.score.at[0].set(0.0))  # one beam: the others would only repeat it

    def normalised(score, length):
        return score / jnp.float32(length) ** alpha

    def extend(beams: Beams, logprobs, score):
        """The best `beam_size` of all beams with all tokens added, by `score` (beam, vocabulary); and their parents."""
        best, place = jax.lax.top_k(score.reshape(-1), beam_size)
        parent, token = place // vocabulary, (place % vocabulary).astype(jnp.int32)
        at = beams.lengths[0]
        return parent, Beams(
            tokens=beams.tokens[parent].at[:, at].set(token),
            logprobs=beams.logprobs[parent].at[:, at].set(logprobs[parent, token]),
            lengths=beams.lengths[parent] + 1,
            score=best,
        )

    def step(carry):
        length, cache, last, alive, finished = carry
        length = length + 1
        logits, cache = decode.next_logits(model, params, cache, last, jnp.ones(beam_size, bool))
        logprobs = jax.nn.log_softmax(logits, axis=-1)
        total = alive.score[:, None] + logprobs
        _, stopped = extend(alive, logprobs, jnp.where(stops[None, :], normalised(total, length), -jnp.inf))
        parent, alive = extend(alive, logprobs, jnp.where(stops[None, :], -jnp.inf, total))
        return length, _take(cache, parent), alive.tokens[:, length - 1], alive, _best(finished, stopped)

    def undecided(carry):
        length, _, _, alive, finished = carry
        return (length < max_length) & (normalised(jnp.max(alive.score), max_length) > jnp.min(finished.score))

    cache = _take(cache, jnp.zeros(beam_size, jnp.int32))
    start = jnp.zeros((), jnp.int32), cache, jnp.full(beam_size, last), alive, empty
    length, _, _, alive, finished = jax.lax.while_loop(undecided, step, start)
    return _best(finished, alive._replace(score=normalised(alive.score, length)))


def _take(cache: KVCache, rows: Int[Array, 'beam']) -> KVCache:
    """The cache in which row b holds what `rows[b]` did."""
    source = (
        None if cache.source is None else SourceCache(*(x[:, rows] for x in cache.source[:2]), cache.source[2][rows])
    )
    return KVCache(cache.keys[:, rows], cache.values[:, rows], cache.lengths[rows], source)


def _best(a: Beams, b: Beams) -> Beams:
    """The best half of two sets, best first."""
    both = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)
    score, rows = jax.lax.top_k(both.score, a.score.shape[0])
    return jax.tree.map(lambda x: x[rows], both)._replace(score=score)
