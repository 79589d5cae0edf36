"""Who may attend to whom: one function makes every mask."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

MaskKind = Literal['causal', 'bidirectional', 'prefix']

UNBOUNDED = 2**30  # the window, among those of layers that differ, of one that sees everything


def make_mask(
    kind: MaskKind,
    query_index: Int[Array, '#batch query'],
    key_index: Int[Array, '#batch key'],
    *,
    query_segments: Int[Array, '#batch query'] | None = None,
    key_segments: Int[Array, '#batch key'] | None = None,
    prefix_length: Int[Array, '#batch'] | None = None,
    key_length: Int[Array, '#batch'] | None = None,
    query_groups: Int[Array, '#batch query'] | None = None,
    key_groups: Int[Array, '#batch key'] | None = None,
) -> Bool[Array, '#batch query key']:
    """True where the query may read the key.

    Args:
        kind: 'causal' sees itself and what came before; 'bidirectional' everything; 'prefix' is causal, but the first
            `prefix_length` tokens of a row see each other (Raffel et al. 2020). Cross-attention is 'bidirectional'
            with the encoder's segments as `key_segments`.
        query_index: place of each query in its row (not its position in its document). A batch of 1 broadcasts.
        key_index: place of each key.
        query_segments: document number of each query, 0 for padding; no token sees another segment. Goes with
            `key_segments`.
        prefix_length: for 'prefix'.
        key_length: keys at or past this place do not exist yet (the unused end of a cache).
        query_groups: number of the group of each query, from 1, whose tokens all see each other, such as those of an
            image; 0 is in none. Goes with `key_groups`.
    """
    query, key = query_index[:, :, None], key_index[:, None, :]
    mask = jnp.ones((), bool)[None, None, None]
    if kind == 'causal':
        mask = key <= query
    elif kind == 'prefix':
        mask = (key <= query) | (key < prefix_length[:, None, None])
    if query_groups is not None:
        together = query_groups[:, :, None] == key_groups[:, None, :]
        mask = mask | (together & (key_groups[:, None, :] > 0))
    if query_segments is not None:
        same = query_segments[:, :, None] == key_segments[:, None, :]
        mask = mask & same & (key_segments[:, None, :] > 0)
    if key_length is not None:
        mask = mask & (key < key_length[:, None, None])
    return jnp.broadcast_to(mask, (mask.shape[0], query_index.shape[1], key_index.shape[1]))


def inside_window(
    query_index: Int[Array, '#batch query'], key_index: Int[Array, '#batch key'], window: Int[Array, '']
) -> Bool[Array, '#batch query key']:
    """True where the key is one of the `window` tokens that end with the query, or of those that begin with it.

    The second half only matters where a query may read what comes after it.
    """
    return jnp.abs(query_index[:, :, None] - key_index[:, None, :]) < window
