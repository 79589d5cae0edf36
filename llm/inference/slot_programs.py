"""The compiled programs of `llm.inference.slots`: pure functions of the state of all slots."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from llm.inference import sampling
from llm.inference.decode import next_logits
from llm.inference.sampling import RowSettings
from llm.model.kv_cache import KVCache
from llm.model.transformer import Transformer


class SlotsState(NamedTuple):
    """Where each slot stands; the programs below take one, reuse its memory and return the next.

    Attributes:
        cache: what has been read.
        token: the slot's last token, not read yet.
        generated: tokens drawn so far.
        seen: which tokens are in the prompt or were drawn.
    """

    cache: KVCache
    token: Int[Array, 'slots']
    generated: Int[Array, 'slots']
    seen: Bool[Array, 'slots vocabulary']


class Written(NamedTuple):
    """What a call of `write` drew in the n slots it was given, from column 0.

    Attributes:
        tokens: drawn.
        logprobs: that the model, unfiltered, at temperature 1, gave each of them.
        top_ids, top_logprobs: of the most probable tokens at each place, if they were asked for.
        count: how many each slot drew.
        failed: slots whose next logits are not finite; they drew no more.
    """

    tokens: Int[Array, 'n steps']
    logprobs: Float[Array, 'n steps']
    top_ids: Int[Array, 'n steps top']
    top_logprobs: Float[Array, 'n steps top']
    count: Int[Array, 'n']
    failed: Bool[Array, 'n']


@functools.partial(jax.jit, static_argnames=('model', 'slots', 'capacity'))
def create(model: Transformer, slots: int, capacity: int) -> SlotsState:
    """Empty slots with room for `capacity` tokens each."""
    zeros = jnp.zeros((slots,), jnp.int32)
    seen = jnp.zeros((slots, model.config.vocab_size), bool)
    return SlotsState(KVCache.create(model.config, slots, capacity), zeros, zeros, seen)


@functools.partial(jax.jit, donate_argnames='state')
def open_slot(state: SlotsState, slot: Int[Array, ''], token: Int[Array, '']) -> SlotsState:
    """Makes a slot ready for a prompt that ends with `token`.

    It is emptied, because a weight of zero times what is not finite is not finite.
    """
    cache = state.cache
    empty = jnp.zeros_like(cache.keys[:, :1])
    keys, values = (jax.lax.dynamic_update_slice(x, empty, (0, slot, 0, 0, 0)) for x in (cache.keys, cache.values))
    seen = jnp.arange(state.seen.shape[1]) == token
    return SlotsState(
        cache=KVCache(keys, values, cache.lengths.at[slot].set(0)),
        token=state.token.at[slot].set(token),
        generated=state.generated.at[slot].set(0),
        seen=state.seen.at[slot].set(seen),
    )


@functools.partial(jax.jit, static_argnames=('model', 'length'), donate_argnames='state')
def read(
    model: Transformer,
    params: Any,
    state: SlotsState,
    slot: Int[Array, ''],
    tokens: Int[Array, 'piece'],
    size: Int[Array, ''],
    length: int,
) -> SlotsState:
    """Reads a piece of a prompt, behind what its slot holds.

    Args:
        model, params: the model.
        state: the slots.
        slot: which one.
        tokens: the piece, filled up to one of a few sizes.
        size: its real tokens, from the first; may be 0.
        length: places of the slot that are enough for what it holds and for all of `tokens`.
    """
    stored, start = state.cache, state.cache.lengths[slot]
    steps = jnp.arange(tokens.shape[0], dtype=jnp.int32)
    past = [_row(x, slot, length) for x in (stored.keys, stored.values)]
    real = (steps < size).astype(jnp.int32)
    # What fills up a piece may be past the last position that the model knows.
    positions = jnp.minimum(start + steps, model.config.context_length - 1)
    found = model.apply(
        {'params': params},
        tokens[None],
        segment_ids=real[None],
        positions=positions[None],
        cache=KVCache(*past, start[None]),
        with_logits=False,
    ).cache
    at = (0, slot, 0, 0, 0)
    keys = jax.lax.dynamic_update_slice(stored.keys, found.keys, at)
    values = jax.lax.dynamic_update_slice(stored.values, found.values, at)
    return state._replace(
        cache=KVCache(keys, values, stored.lengths.at[slot].set(start + size)),
        seen=state.seen.at[slot, tokens].max(real > 0),
    )


@functools.partial(jax.jit, static_argnames=('model', 'length', 'most_steps', 'most_top'), donate_argnames='state')
def write(
    model: Transformer,
    params: Any,
    state: SlotsState,
    slots: Int[Array, 'n'],
    settings: RowSettings,
    stops: Bool[Array, 'vocabulary'],
    budget: Int[Array, 'n'],
    with_top: Bool[Array, ''],
    *,
    length: int,
    most_steps: int,
    most_top: int,
) -> tuple[SlotsState, Written]:
    """Writes some tokens in some slots.

    Args:
        model, params: the model.
        state: the slots.
        slots: which ones, all different; all of them must be in order.
        settings: how each draws.
        stops: tokens that end a row; they are written.
        budget: tokens to write in each slot, at most `most_steps`; 0 leaves it as it is.
        with_top: whether to find the most probable tokens.
        length: places of a slot that are enough for what each of those at work holds and will.
        most_steps: columns of the result.
        most_top: most probable tokens found at each place.
    """
    all_slots = slots.shape[0] == state.token.shape[0]
    rows, n = jnp.arange(slots.shape[0]), slots.shape[0]
    part = _take(state, slots, length, all_slots)
    working = budget > 0
    nothing = Written(
        tokens=jnp.zeros((n, most_steps), jnp.int32),
        logprobs=jnp.zeros((n, most_steps), jnp.float32),
        top_ids=jnp.zeros((n, most_steps, most_top), jnp.int32),
        top_logprobs=jnp.zeros((n, most_steps, most_top), jnp.float32),
        count=jnp.zeros((n,), jnp.int32),
        failed=jnp.zeros((n,), bool),
    )

    def step(carry):
        at, part, active, written = carry
        logits, cache = next_logits(model, params, part.cache, part.token, active)
        drawn = sampling.sample(logits, part.seen, settings, part.generated)
        normalised = jax.nn.log_softmax(logits, axis=-1)
        logprob = normalised[rows, drawn]
        finite = jnp.isfinite(logprob)  # one logit that is infinite or no number makes all log-probabilities so
        taken = active & finite
        none = lambda x: (jnp.zeros((n, most_top), jnp.float32), jnp.zeros((n, most_top), jnp.int32))
        top_logprobs, top_ids = jax.lax.cond(with_top, lambda x: tuple(jax.lax.top_k(x, most_top)), none, normalised)
        part = SlotsState(
            cache=cache,
            token=jnp.where(taken, drawn, part.token),
            generated=part.generated + taken.astype(jnp.int32),
            seen=part.seen.at[rows, drawn].max(taken),
        )
        written = Written(
            tokens=written.tokens.at[:, at].set(drawn),
            logprobs=written.logprobs.at[:, at].set(logprob),
            top_ids=written.top_ids.at[:, at].set(top_ids),
            top_logprobs=written.top_logprobs.at[:, at].set(top_logprobs),
            count=written.count + taken.astype(jnp.int32),
            failed=written.failed | (active & ~finite),
        )
        return at + 1, part, taken & ~stops[drawn] & (written.count < budget), written

    unfinished = lambda carry: (carry[0] < most_steps) & jnp.any(carry[2])
    start = jnp.zeros((), jnp.int32), part, working, nothing
    _, part, _, written = jax.lax.while_loop(unfinished, step, start)
    return _put(state, part, slots, working, all_slots), written


def _row(x: Float[Array, 'layers slots kv_heads capacity head_dim'], slot: Int[Array, ''], length: int) -> Array:
    """The first places of one slot."""
    layers, _, heads, _, dim = x.shape
    return jax.lax.dynamic_slice(x, (0, slot, 0, 0, 0), (layers, 1, heads, length, dim))


def _take(state: SlotsState, slots: Int[Array, 'n'], length: int, all_slots: bool) -> SlotsState:
    """The part of the state that a call works on."""
    cache = state.cache
    if all_slots:
        return state._replace(
            cache=KVCache(cache.keys[:, :, :, :length], cache.values[:, :, :, :length], cache.lengths)
        )
    keys, values = (
        jnp.concatenate([_row(x, slot, length) for slot in slots], axis=1) for x in (cache.keys, cache.values)
    )
    return SlotsState(KVCache(keys, values, cache.lengths[slots]), *(x[slots] for x in state[1:]))


def _put(
    state: SlotsState, part: SlotsState, slots: Int[Array, 'n'], working: Bool[Array, 'n'], all_slots: bool
) -> SlotsState:
    """The whole state with that part in it.

    A step writes in all slots, behind what they hold; in one that holds `length` places or more and waits, that would
    be over its last. So slots that did not work are put back as they were.
    """
    length = part.cache.capacity
    if all_slots and length == state.cache.capacity:  # all places: behind what any of them holds there is room
        return part
    cache = [state.cache.keys, state.cache.values]
    for i, new in enumerate(part.cache[:2]):
        if all_slots:
            kept = jnp.where(working[None, :, None, None, None], new, cache[i][:, :, :, :length])
            cache[i] = jax.lax.dynamic_update_slice(cache[i], kept, (0,) * 5)
            continue
        for row in range(slots.shape[0]):
            kept = jnp.where(working[row], new[:, row : row + 1], _row(cache[i], slots[row], length))
            cache[i] = jax.lax.dynamic_update_slice(cache[i], kept, (0, slots[row], 0, 0, 0))
    rest = [whole.at[slots].set(new) for whole, new in zip(state[1:], part[1:])]
    return SlotsState(KVCache(*cache, state.cache.lengths.at[slots].set(part.cache.lengths)), *rest)
