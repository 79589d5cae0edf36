import collections
import itertools
import time

import numpy as np
import pytest

from llm.data.packing import pack


@pytest.mark.parametrize('seed', range(10))
def test_everything_is_packed_once_and_fits(seed):
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 65, 200)
    rows = pack(lengths, 64)
    assert collections.Counter(itertools.chain(*rows)) == collections.Counter(range(200))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)
    assert pack(lengths.tolist(), 64) == rows


@pytest.mark.parametrize('seed', range(10))
def test_it_is_best_fit_decreasing(seed):
    """Against the definition: the row with the least room that is enough, the oldest of equals."""
    lengths = np.random.default_rng(seed).integers(1, 30, 80)
    rows, room = [], []
    for i in sorted(range(80), key=lambda i: -lengths[i]):
        fits = [r for r in range(len(rows)) if room[r] >= lengths[i]]
        best = min(fits, key=lambda r: room[r], default=None)
        if best is None:
            rows.append([i])
            room.append(40 - lengths[i])
        else:
            rows[best].append(i)
            room[best] -= lengths[i]
    packed = pack(lengths, 40)
    assert sorted(sum(lengths[i] for i in row) for row in packed) == sorted(40 - r for r in room)
    assert len(packed) == len(rows) <= 11 / 9 * -(-lengths.sum() // 40) + 1


def test_short_examples_fill_the_rows_up():
    assert pack([5, 3, 8, 2, 6], 8) == [[2], [4, 3], [0, 1]]


def test_no_examples_and_one_that_is_too_long():
    assert pack([], 8) == []
    with pytest.raises(ValueError, match='example 1 has length 9'):
        pack([1, 9], 8)


def test_a_hundred_thousand_examples_take_a_second_or_so():
    start = time.perf_counter()
    pack(np.random.default_rng(0).integers(1, 4097, 100_000), 4096)
    assert time.perf_counter() - start < 10
