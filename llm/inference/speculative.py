"""Speculative decoding: a small model drafts some tokens, the large one reads them at once and keeps what it may.

A draft d with probability q(d) is kept with probability min(1, p(d) / q(d)); the first that is not is replaced by a
draw from max(p - q, 0), normalised, and if all are kept the large model's distribution behind them gives one more
(Leviathan et al. 2023; Chen et al. 2023). So what is written has the large model's own distribution, whatever the small
one says; a bad draft costs time alone. p and q are the distributions that the sampling settings leave, penalties for
repetition of what was drafted before included. At temperature 0 that is the same text; else a seed gives another one
than without a draft, of the same distribution.

One row at a time. Both models read all tokens but the last, as in `decode`. What was read in vain lies behind a row's
length in the cache, where nobody looks.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm.errors import UserError
from llm.inference import decode, sampling
from llm.inference.sampling import RowSettings, SamplingParams
from llm.model.kv_cache import KVCache
from llm.model.transformer import Transformer


class Draft(NamedTuple):
    """Who drafts.

    Attributes:
        model, params: the small model.
        tokens: drafted before the large model reads.
    """

    model: Transformer
    params: Any
    tokens: int = 4


class SpeculativeState(NamedTuple):
    """Where the row stands.

    Attributes:
        cache, draft_cache: what each model has read.
        token: the last token, not read yet.
        generated: tokens drawn so far.
        seen: which tokens are in the prompt or were drawn.
        done: whether a stop token came.
    """

    cache: KVCache
    draft_cache: KVCache
    token: Int[Array, '1']
    generated: Int[Array, '']
    seen: Bool[Array, '1 vocabulary']
    done: Bool[Array, '']


class Counts(NamedTuple):
    """How often the large model read, and how many drafts it kept."""

    rounds: Int[Array, '']
    kept: Int[Array, '']


def kept_probability(
    p: Float[Array, '*n vocabulary'], q: Float[Array, '*n vocabulary']
) -> Float[Array, '*n vocabulary']:
    """With what probability each draft is kept; p is the large model's distribution, q the small one's."""
    return jnp.where(q > 0, jnp.minimum(1.0, p / jnp.where(q > 0, q, 1.0)), 1.0)


def replacement(p: Float[Array, '*n vocabulary'], q: Float[Array, '*n vocabulary']) -> Float[Array, '*n vocabulary']:
    """The distribution of what takes the place of a draft that was not kept."""
    left = jnp.maximum(p - q, 0.0)
    total = jnp.sum(left, axis=-1, keepdims=True)
    return jnp.where(total > 0, left / jnp.where(total > 0, total, 1.0), p)  # equal but for rounding: nothing is left


@functools.partial(jax.jit, static_argnames=('model', 'draft_model', 'drafts'), donate_argnames='state')
def speculate(
    model: Transformer,
    params: Any,
    draft_model: Transformer,
    draft_params: Any,
    state: SpeculativeState,
    settings: RowSettings,
    stops: Bool[Array, 'vocabulary'],
    steps: Int[Array, ''],
    most: Int[Array, ''],
    drafts: int,
) -> tuple[SpeculativeState, Int[Array, 'capacity'], Float[Array, 'capacity'], Counts]:
    """Writes at least `steps` tokens, or until a stop token.

    Rounds are not cut short, so that what is written does not depend on how it is asked for in pieces.

    Args:
        model, params: the large model.
        draft_model, draft_params: the small one, of the same vocabulary.
        state: where the row stands; its memory is reused. The caches need room for `drafts` tokens more than are
            written.
        settings: how the row draws.
        stops: tokens that end it; they are written.
        steps: tokens after which no further round begins.
        most: tokens that are written at most.
        drafts: tokens drafted at a time.

    Returns:
        The next state; the tokens drawn; the log-probability that the large model, unfiltered, at temperature 1, gave
        each; and counts.
    """
    capacity = state.cache.capacity
    each = jax.tree.map(lambda x: jnp.repeat(x, drafts + 1), settings)
    active = jnp.ones((1,), bool)

    def drafted(state, key):
        """Tokens (drafts + 1,), the distributions they were drawn from, and what the small model has read then."""

        def step(carry, key):
            cache, token, seen = carry
            logits, cache = decode.next_logits(draft_model, draft_params, cache, token, active)
            filtered = sampling.filtered_logits(logits, seen, settings)
            drawn = jax.random.categorical(key, filtered, axis=-1).astype(jnp.int32)
            return (cache, drawn, seen.at[0, drawn[0]].set(True)), (drawn[0], jax.nn.softmax(filtered, axis=-1)[0])

        start = state.draft_cache, state.token, state.seen
        (cache, _, _), (tokens, q) = jax.lax.scan(step, start, jax.random.split(key, drafts + 1))
        return tokens, q, cache  # the last one is read by nobody and kept by nobody: it only let the one before be read

    def turn(carry):
        at, state, tokens, logprobs, counts = carry
        key = jax.random.fold_in(jax.random.key(settings.seed[0]), state.generated)
        draft_key, keep_key, draw_key = jax.random.split(key, 3)
        proposed, q, draft_cache = drafted(state, draft_key)
        proposed, q = proposed[:drafts], q[:drafts]

        read = jnp.concatenate([state.token, proposed])[None, :]
        output = model.apply({'params': params}, read, cache=state.cache)
        logits = output.logits[0].astype(jnp.float32)
        ids = jnp.arange(logits.shape[-1])[None, :]
        before = jnp.cumsum(proposed[:, None] == ids, axis=0) > 0  # what a draft's followers have seen
        seen = state.seen | jnp.concatenate([jnp.zeros_like(state.seen), before])
        p = jax.nn.softmax(sampling.filtered_logits(logits, seen, each), axis=-1)

        place = jnp.arange(drafts)
        keeps = jax.random.uniform(keep_key, (drafts,)) < kept_probability(p[:drafts], q)[place, proposed]
        kept = jnp.sum(jnp.cumprod(keeps.astype(jnp.int32)))
        last = jnp.where(kept < drafts, replacement(p[kept], q[jnp.minimum(kept, drafts - 1)]), p[drafts])
        drawn = jax.random.categorical(draw_key, jnp.log(last)).astype(jnp.int32)
        written = jnp.where(jnp.arange(drafts + 1) < kept, jnp.append(proposed, 0), drawn)

        stopped = stops[written] & (jnp.arange(drafts + 1) <= kept)
        until_stop = jnp.where(jnp.any(stopped), jnp.argmax(stopped), kept) + 1
        count = jnp.minimum(until_stop, most - at)
        new = jnp.arange(drafts + 1) < count
        scores = jax.nn.log_softmax(logits, axis=-1)[jnp.arange(drafts + 1), written]
        into = jnp.where(new, at + jnp.arange(drafts + 1), capacity)
        state = SpeculativeState(
            cache=output.cache._replace(lengths=state.cache.lengths + count),
            draft_cache=draft_cache._replace(lengths=state.draft_cache.lengths + count),
            token=written[count - 1][None],
            generated=state.generated + count,
            seen=state.seen.at[0, jnp.where(new, written, stops.shape[0])].set(True, mode='drop'),
            done=state.done | jnp.any(stopped & new),
        )
        counts = Counts(counts.rounds + 1, counts.kept + jnp.minimum(kept, count))
        tokens = tokens.at[into].set(written, mode='drop')
        return at + count, state, tokens, logprobs.at[into].set(scores, mode='drop'), counts

    zero = jnp.zeros((), jnp.int32)
    start = zero, state, jnp.zeros(capacity, jnp.int32), jnp.zeros(capacity, jnp.float32), Counts(zero, zero)
    return jax.lax.while_loop(lambda carry: (carry[0] < steps) & ~carry[1].done, turn, start)[1:]


class SpeculativeDecoder:
    """One prompt being continued with a draft model: the interface of `decode.Decoder`, whose rows are then one.

    Attributes:
        rounds: times that the large model has read.
        kept: drafts that it has kept.
    """

    rows = 1

    def __init__(
        self,
        model: Transformer,
        params: Any,
        draft: Draft,
        prompt: Sequence[int],
        settings: SamplingParams,
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int] = (),
    ):
        """Both models read the prompt.

        Raises:
            UserError: if the prompt and its continuation do not fit one of the models, or they have not the same
                vocabulary.
        """
        check_draft(model, draft)
        decode.check_prompt(model, prompt, max_new_tokens, 'error')
        context = draft.model.config.context_length
        if len(prompt) + max_new_tokens - 1 > context:
            raise UserError(
                f'a prompt of {len(prompt)} tokens and {max_new_tokens} new ones go past the context of {context} of '
                'the draft model; ask for fewer tokens, or draft with a model of a longer context'
            )
        self.model, self.params, self.draft = model, params, draft
        self.remaining, self.rounds, self.kept = max_new_tokens, 0, 0
        self._settings = sampling.stack([settings])
        self._stops = np.zeros(model.config.vocab_size, bool)
        self._stops[list(stop_ids)] = True
        seen = np.zeros((1, model.config.vocab_size), bool)
        seen[0, list(prompt)] = True
        capacity = decode.bucket(len(prompt) + max_new_tokens + draft.tokens, 2**30)
        self._finished = False
        self._state = SpeculativeState(
            cache=decode.read_rows(model, params, [prompt[:-1]], capacity),
            draft_cache=decode.read_rows(draft.model, draft.params, [prompt[:-1]], capacity),
            token=jnp.array(prompt[-1:], jnp.int32),
            generated=jnp.zeros((), jnp.int32),
            seen=jnp.array(seen),
            done=jnp.zeros((), bool),
        )

    @property
    def running(self) -> bool:
        """Whether the row can write more."""
        return self.remaining > 0 and not self._finished

    def finish(self, row: int) -> None:
        """Lets the row write no more."""
        self._finished = True

    def advance(self, steps: int) -> list[list[tuple[int, float]]]:
        """Writes `steps` tokens and the rest of a round; returns them as (id, log-probability), in a list of one."""
        steps = min(steps, self.remaining)
        if not self.running or not steps:
            return [[]]
        before = int(self._state.generated)
        self._state, tokens, logprobs, counts = speculate(
            self.model,
            self.params,
            self.draft.model,
            self.draft.params,
            self._state,
            self._settings,
            self._stops,
            np.int32(steps),
            np.int32(self.remaining),
            self.draft.tokens,
        )
        self._finished = bool(self._state.done)
        self.rounds += int(counts.rounds)
        self.kept += int(counts.kept)
        count = int(self._state.generated) - before
        self.remaining -= count
        return [list(zip(np.asarray(tokens)[:count].tolist(), np.asarray(logprobs)[:count].tolist()))]


def check_draft(model: Transformer, draft: Draft) -> None:
    """Raises UserError if a model cannot draft for another."""
    ours, theirs = model.config.vocab_size, draft.model.config.vocab_size
    if ours != theirs:
        raise UserError(f'the draft model knows {theirs} tokens and the model {ours}; they need the same tokenizer')
    if draft.tokens < 1:
        raise UserError(f'{draft.tokens} tokens to draft; draft at least 1')
