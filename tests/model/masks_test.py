"""Masks against matrices written out by hand: rows are queries, columns keys, 1 is seen."""

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.model.masks import inside_window, make_mask


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


def row(*values):
    return jnp.array([values], jnp.int32)


def check(mask, *expected):
    """`expected` has a matrix per row of the batch."""
    assert mask.dtype == bool
    npt.assert_array_equal(np.asarray(mask).astype(int), np.array(expected))


FOUR = row(0, 1, 2, 3)


def test_causal_sees_itself_and_the_past():
    check(make_mask('causal', FOUR, FOUR), [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_bidirectional_sees_everything():
    check(make_mask('bidirectional', FOUR, FOUR), [[1, 1, 1, 1]] * 4)


def test_the_tokens_of_a_prefix_see_each_other():
    mask = make_mask('prefix', FOUR, FOUR, prefix_length=jnp.array([3, 0, 1]))
    causal = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    check(mask, [[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]], causal, causal)


def test_a_window_ends_with_the_query():
    check(inside_window(FOUR, FOUR, jnp.int32(1)) & make_mask('causal', FOUR, FOUR), np.eye(4))
    two = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    check(inside_window(FOUR, FOUR, jnp.int32(2)) & make_mask('causal', FOUR, FOUR), two)
    three = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1]]
    check(inside_window(FOUR, FOUR, jnp.int32(3)) & make_mask('causal', FOUR, FOUR), three)


def test_packed_documents_do_not_see_each_other_and_padding_is_not_seen():
    five = row(0, 1, 2, 3, 4)
    segments = jnp.array([[1, 1, 2, 2, 0], [1, 2, 2, 2, 3]])
    check(
        make_mask('causal', five, five, query_segments=segments, key_segments=segments),
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]],
        [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 1]],
    )
    check(
        make_mask('bidirectional', five, five, query_segments=segments[:1], key_segments=segments[:1]),
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]],
    )


def test_a_prefix_stays_within_its_document():
    segments = row(1, 1, 2, 2)
    mask = make_mask('prefix', FOUR, FOUR, query_segments=segments, key_segments=segments, prefix_length=jnp.array([4]))
    check(mask, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])


def test_the_tokens_of_a_group_see_each_other():
    """One token of text, a group of two, another group of two next to it, text; then the same in two documents."""
    six, groups = row(0, 1, 2, 3, 4, 5), row(0, 1, 1, 2, 2, 0)
    seen = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ]
    check(make_mask('causal', six, six, query_groups=groups, key_groups=groups), seen)
    segments = row(1, 1, 1, 2, 2, 2)
    mask = make_mask(
        'causal', six, six, query_segments=segments, key_segments=segments, query_groups=groups, key_groups=groups
    )
    check(mask, np.array(seen) * np.kron(np.eye(2), np.ones((3, 3))))


def test_a_group_in_a_cache_ends_where_nothing_is_stored():
    """Two tokens are stored; of three new ones, two are a group."""
    mask = make_mask(
        'causal',
        row(2, 3, 4),
        row(0, 1, 2, 3, 4, 5),
        key_length=jnp.array([5]),
        query_groups=row(1, 1, 0),
        key_groups=row(0, 0, 1, 1, 0, 0),
    )
    check(mask, [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]])


def test_new_tokens_of_a_cached_row_see_what_is_stored_and_themselves():
    """Rows of 3 and 1 stored tokens get two new ones each; the cache has room for 6."""
    query = jnp.array([[3, 4], [1, 2]])
    mask = make_mask('causal', query, row(0, 1, 2, 3, 4, 5), key_length=jnp.array([5, 3]))
    check(
        mask,
        [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]],
        [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]],
    )


def test_slots_past_the_length_are_hidden_even_from_padding():
    """One real token and one of padding, whose slot does not exist."""
    mask = make_mask('causal', row(2, 3), row(0, 1, 2, 3), key_length=jnp.array([3]))
    check(mask, [[1, 1, 1, 0], [1, 1, 1, 0]])
    check(make_mask('bidirectional', FOUR, FOUR, key_length=jnp.array([2])), [[1, 1, 0, 0]] * 4)


def test_a_window_over_a_cache_counts_places_in_the_row():
    query, key = jnp.array([[3, 4], [1, 2]]), row(0, 1, 2, 3, 4)
    mask = make_mask('causal', query, key, key_length=jnp.array([5, 3])) & inside_window(query, key, jnp.int32(2))
    check(mask, [[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]], [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0]])


def test_cross_attention_reads_the_encoders_segments():
    """Three decoder tokens, five encoder tokens: any shape, no order, only documents."""
    mask = make_mask(
        'bidirectional',
        row(0, 1, 2),
        row(0, 1, 2, 3, 4),
        query_segments=row(1, 1, 2),
        key_segments=row(1, 1, 1, 2, 0),
    )
    check(mask, [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 1, 0]])
    assert make_mask('bidirectional', row(0, 1, 2), row(0, 1, 2, 3, 4)).shape == (1, 3, 5)
