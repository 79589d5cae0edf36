"""Causal attention for CPUs: only the causal half of the scores, in blocks of queries, with its own backward pass.

A block of queries meets only the keys up to its end (and, with a window, from its window's start), so that above the
diagonal nothing is computed. Saved for the backward pass are queries, keys, values, the result and the logarithm of
each row's sum; the weights are computed again block by block (Dao et al. 2022, FlashAttention). Products have operands
in `dtype`, results in float32, and matrices written row by row: the layout that a CPU's matrix units take.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.model.dtypes import wide
from llm.model.linear import row_major
from llm.parallel.axes import on_each_device

NEGATIVE = -1e30  # finite, so that a row with nothing to attend to (padding) stays finite
BLOCK = 128  # queries at a time


class Plan(NamedTuple):
    """What is known when the program is compiled."""

    window: int | None
    scale: float
    softcap: float | None
    dtype: str
    block: int


def attend(
    query: Float[Array, 'batch heads length head_dim'],
    key: Float[Array, 'batch kv_heads length head_dim'],
    value: Float[Array, 'batch kv_heads length head_dim'],
    *,
    segment_ids: Int[Array, 'batch length'] | None,
    window: int | None,
    scale: float,
    softcap: float | None,
    dtype: jnp.dtype,
    block: int | None = None,
) -> Float[Array, 'batch heads length head_dim']:
    """softmax(cap(scale q k^T)) v over the keys up to each query, of its segment and inside its window.

    Args:
        segment_ids: document of each token, 0 for padding; None is one document.
        window: how many tokens, ending with itself, a query sees; None is all.
        scale: factor on the scores.
        softcap: scores become cap x tanh(scores / cap).
        dtype: of the products' operands.
        block: queries at a time.

    Returns:
        The mixed values in the query's type. Rows of padding hold no meaning.
    """
    plan = Plan(window, scale, softcap, jnp.dtype(dtype).name, block or BLOCK)
    arrays = (query, key, value) if segment_ids is None else (query, key, value, segment_ids)
    axes = [('batch', 'heads')] * 3 + [('batch',)] * (len(arrays) - 3)
    return on_each_device(functools.partial(_attend, plan), axes, axes[0])(*arrays)


def _attend(plan, query, key, value, segment_ids=None):
    batch, heads, length, head_dim = query.shape
    kv_heads = key.shape[1]
    grouped = query.reshape(batch * kv_heads, heads // kv_heads, length, head_dim)
    flat = lambda x: x.reshape(batch * kv_heads, length, head_dim)
    if segment_ids is not None:
        segment_ids = jnp.repeat(segment_ids, kv_heads, axis=0)
    mixed = _attention(plan, grouped, flat(key), flat(value), segment_ids)
    return mixed.reshape(query.shape).astype(query.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(plan, query, key, value, segment_ids):
    return _forward(plan, query, key, value, segment_ids)[0]


def _forward(plan, query, key, value, segment_ids):
    dtype, high = jnp.dtype(plan.dtype), wide(plan.dtype)
    batch, group, length, head_dim = query.shape
    scaled = (query * plan.scale).astype(dtype)
    key, value = key.astype(dtype), value.astype(dtype)
    key_columns = row_major(key.swapaxes(1, 2))
    # A column of ones beside the values: the product then holds each row's sum of weights, too.
    value_and_one = row_major(jnp.concatenate([value, jnp.ones((batch, length, 1), dtype)], axis=2))
    mixed, log_sums = [], []
    for start, end in _blocks(plan, length):
        first = 0 if plan.window is None else max(0, start - plan.window + 1)
        keys = slice(first, end)
        scores = _product(_rows(scaled[:, :, start:end]), key_columns[:, :, keys])
        allowed = _allowed(plan, np.arange(start, end), np.arange(first, end), segment_ids, group)
        scores = jnp.where(allowed, _capped(plan, scores), jnp.asarray(NEGATIVE, high))
        largest = jnp.max(scores, axis=-1)
        weights = jnp.exp(scores - largest[:, :, None]).astype(dtype)
        product = _product(weights, value_and_one[:, keys])
        total = product[:, :, head_dim]
        block = product[:, :, :head_dim] / total[:, :, None]
        mixed.append(block.reshape(batch, group, end - start, head_dim))
        log_sums.append((largest + jnp.log(total)).reshape(batch, group, end - start))
    mixed, log_sum = jnp.concatenate(mixed, axis=2), jnp.concatenate(log_sums, axis=2)
    return mixed, (scaled, key, value, segment_ids, mixed.astype(dtype), log_sum)


def _backward(plan, saved, gradient):
    """In blocks of keys, and with keys as rows: only one of the three products needs its weights transposed."""
    scaled, key, value, segment_ids, mixed, log_sum = saved
    dtype, high = jnp.dtype(plan.dtype), wide(plan.dtype)
    batch, group, length, head_dim = scaled.shape
    flat = (batch, group * length, head_dim)  # sums over the last of four axes are several times slower
    delta = jnp.sum(gradient.reshape(flat) * mixed.reshape(flat).astype(high), axis=-1).reshape(batch, group, length)
    gradient = gradient.astype(dtype)
    query_columns, gradient_columns = (row_major(_rows(x).swapaxes(1, 2)) for x in (scaled, gradient))
    query_columns, gradient_columns = (
        x.reshape(batch, head_dim, group, length) for x in (query_columns, gradient_columns)
    )
    query_gradient = jnp.zeros((batch, group, length, head_dim), high)
    key_gradients, value_gradients = [], []
    for start, end in _blocks(plan, length):
        last = length if plan.window is None else min(length, end + plan.window - 1)
        queries = slice(start, last)
        these_queries, these_gradients = (
            x[:, :, :, queries].reshape(batch, head_dim, -1) for x in (query_columns, gradient_columns)
        )
        this_log_sum, this_delta = (x[:, :, queries].reshape(batch, 1, -1) for x in (log_sum, delta))
        scores = _product(key[:, start:end], these_queries)
        capped = _capped(plan, scores)
        weights = jnp.exp(capped - this_log_sum)
        allowed = _allowed(plan, np.arange(start, last), np.arange(start, end), segment_ids, group, transposed=True)
        weights = jnp.where(allowed, weights, jnp.zeros((), high))
        by_weights = _product(value[:, start:end], these_gradients)
        by_scores = weights * (by_weights - this_delta)
        if plan.softcap is not None:
            by_scores = by_scores * (1 - jnp.square(capped / plan.softcap))
        by_scores = by_scores.astype(dtype)
        value_gradients.append(_product(weights.astype(dtype), _rows(gradient[:, :, queries])))
        key_gradients.append(_product(by_scores, _rows(scaled[:, :, queries])))
        block = _product(row_major(by_scores.swapaxes(1, 2)), key[:, start:end])
        query_gradient = query_gradient.at[:, :, queries].add(block.reshape(batch, group, -1, head_dim))
    query_gradient = query_gradient * plan.scale
    return query_gradient, jnp.concatenate(key_gradients, axis=1), jnp.concatenate(value_gradients, axis=1), None


_attention.defvjp(_forward, _backward)


def _blocks(plan, length):
    """First and last + 1 of each block."""
    return [(start, min(start + plan.block, length)) for start in range(0, length, plan.block)]


def _capped(plan, scores):
    return scores if plan.softcap is None else plan.softcap * jnp.tanh(scores / plan.softcap)


def _allowed(plan, queries, keys, segment_ids, group, transposed=False):
    """Which scores of a block count: (batch or 1, group x queries, keys), or with the last two exchanged."""
    mask = keys[None, :] <= queries[:, None]
    if plan.window is not None:
        mask = mask & (queries[:, None] - keys[None, :] < plan.window)
    mask = jnp.asarray(np.tile(mask, (group, 1)).T if transposed else np.tile(mask, (group, 1)))[None]
    if segment_ids is None:
        return mask
    of_query = jnp.tile(segment_ids[:, queries[0] : queries[-1] + 1], (1, group))
    of_key = segment_ids[:, keys[0] : keys[-1] + 1]
    same = of_key[:, :, None] == of_query[:, None, :] if transposed else of_query[:, :, None] == of_key[:, None, :]
    return mask & same


def _rows(x):
    """(batch, group, rows, columns) with the group's rows under each other."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _product(x, y):
    x, y = row_major(x), row_major(y)
    return row_major(jax.lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,))), preferred_element_type=wide(x.dtype)))
