import numpy as np
import pytest

from llm.data import split
from llm.data.corpora import Document
from llm.tokenizer import BOS


def test_the_rule_is_pinned():
    held_out = [name for name in (f'{i}.txt' for i in range(100)) if split.is_held_out(name)]
    assert held_out == ['7.txt', '17.txt', '23.txt', '46.txt', '95.txt'], (
        'the rule is part of every published number: it must never change'
    )


def test_about_one_in_twenty_is_held_out():
    count = sum(split.is_held_out(f'folder/{i}.py') for i in range(20_000))
    assert abs(count - 1000) < 4 * np.sqrt(20_000 * 0.05 * 0.95)


def test_exact_duplicates_are_dropped_and_counted_across_corpora():
    duplicates = split.Deduplicator()
    a = [Document('1', b'x'), Document('2', b'x'), Document('3', b'y')]
    b = [Document('1', b'z'), Document('2', b'y')]
    assert [d.identity for d in duplicates.unique('a', a)] == ['1', '3']
    assert [d.identity for d in duplicates.unique('b', b)] == ['1']
    assert duplicates.dropped == {'a': 1, 'b': 1}


def stream(draw, documents, length, alphabet):
    parts = [np.array([BOS, *draw.integers(20, 20 + alphabet, draw.integers(0, length)), 2]) for _ in range(documents)]
    return np.concatenate(parts).astype(np.uint16)


def copied_by_definition(held_out, train, n):
    def windows(tokens):
        return {i: tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1) if BOS not in tokens[i : i + n]}

    known = {window for tokens in train for window in windows(tokens).values()}
    marks = np.zeros(len(held_out), bool)
    for i, window in windows(held_out).items():
        marks[i : i + n] |= window in known
    return marks


@pytest.mark.parametrize('chunk', [5, 64, 1 << 22])
@pytest.mark.parametrize('run_length', [1, 4, 8])
def test_copied_tokens_follow_the_definition(chunk, run_length, monkeypatch):
    monkeypatch.setattr(split, '_CHUNK', chunk)
    draw, total = np.random.default_rng(0), 0
    for _ in range(20):
        held_out = stream(draw, 5, 30, 3)
        train = [stream(draw, 6, 40, 3), stream(draw, 1, 10, 3)]
        marks = split.copied_tokens(held_out, train, run_length)
        np.testing.assert_array_equal(marks, copied_by_definition(held_out, train, run_length))
        total += marks.sum()
    assert total > 0


def test_a_long_copy_is_found_and_a_short_one_is_not():
    draw = np.random.default_rng(0)
    train = stream(draw, 3, 3000, 4000)
    held_out = np.concatenate([[BOS], draw.integers(5000, 6000, 500)]).astype(np.uint16)
    held_out[100:163] = train[50:113]  # 63 tokens
    assert not split.copied_tokens(held_out, [train]).any()
    held_out[200:264] = train[50:114]
    assert np.flatnonzero(split.copied_tokens(held_out, [train])).tolist() == list(range(200, 264))


def test_streams_shorter_than_a_run_share_nothing():
    short = np.array([BOS, 20, 21, 2], np.uint16)
    assert not split.copied_tokens(short, [short]).any()
    assert not split.copied_tokens(np.zeros(0, np.uint16), [short]).any()
    assert split.copied_tokens(short, [np.zeros(0, np.uint16), short], run_length=2).tolist() == [
        False,
        True,
        True,
        True,
    ]
