"""Beam search against a search of everything."""

import itertools

import numpy as np
import pytest

from llm.errors import UserError
from llm.inference import beam_search as beam_search_lib
from llm.inference.beam_search import beam_search

PROMPT = [1, 3, 2]


def every_hypothesis(logprobs, vocabulary, longest, stop_ids, alpha):
    """(score, ids) of all sequences that end with a stop token, or have the largest length and none; best first."""
    found = []
    for length in range(1, longest + 1):
        for ids in itertools.product(range(vocabulary), repeat=length):
            stopped = ids[-1] in stop_ids
            if any(token in stop_ids for token in ids[:-1]) or (length < longest and not stopped):
                continue
            table = logprobs(PROMPT + list(ids))
            score = sum(table[len(PROMPT) - 1 + at, token] for at, token in enumerate(ids))
            found.append((score / length**alpha, list(ids)))
    return sorted(found, key=lambda pair: -pair[0])


@pytest.mark.parametrize('alpha', [0.0, 0.7, 1.0, 3.0])
@pytest.mark.parametrize('stop_ids', [(), (2,), (0, 2)], ids=str)
def test_a_wide_beam_equals_exhaustive_search(tiny, full_logprobs, alpha, stop_ids):
    vocabulary, longest, width = 4, 4, 64  # 4**3 beams hold every sequence that is alive before the last step
    model, params = tiny(vocab_size=vocabulary, context_length=8)
    expected = every_hypothesis(lambda ids: full_logprobs(model, params, ids), vocabulary, longest, stop_ids, alpha)[
        :width
    ]
    found = beam_search(
        model, params, PROMPT, beam_size=width, max_new_tokens=longest, length_penalty=alpha, stop_ids=stop_ids
    )
    assert len(found) == len(expected)
    np.testing.assert_allclose([h.score for h in found], [score for score, _ in expected], atol=1e-5)
    by_ids = {tuple(ids): score for score, ids in expected}
    for hypothesis in found:
        assert abs(by_ids[tuple(hypothesis.ids)] - hypothesis.score) < 1e-5
        score = sum(hypothesis.logprobs) / len(hypothesis.ids) ** alpha
        assert abs(score - hypothesis.score) < 1e-5
    assert found[0].ids == expected[0][1]


def slow_beam_search(logprobs, width, longest, stop_ids, alpha):
    """The definition with Python lists, no cache, and no early end."""
    alive, pool = [(0.0, [])], []
    for length in range(1, longest + 1):
        grown = []
        for score, ids in alive:
            table = logprobs(PROMPT + ids)[-1]
            grown += [(score + table[token], [*ids, token]) for token in range(len(table))]
        pool += [(score / length**alpha, ids) for score, ids in grown if ids[-1] in stop_ids]
        alive = sorted((pair for pair in grown if pair[1][-1] not in stop_ids), key=lambda pair: -pair[0])[:width]
    pool += [(score / longest**alpha, ids) for score, ids in alive]
    return sorted(pool, key=lambda pair: -pair[0])[:width]


@pytest.mark.parametrize('width, alpha', [(1, 1.0), (3, 0.0), (3, 0.6), (5, 2.0)])
def test_a_narrow_beam_equals_its_definition(tiny, full_logprobs, width, alpha):
    model, params = tiny(windows=(4, None), num_kv_heads=2)
    expected = slow_beam_search(lambda ids: full_logprobs(model, params, ids), width, 10, (2, 7), alpha)
    found = beam_search(
        model, params, PROMPT, beam_size=width, max_new_tokens=10, length_penalty=alpha, stop_ids=(2, 7)
    )
    assert [h.ids for h in found] == [ids for _, ids in expected]
    np.testing.assert_allclose([h.score for h in found], [score for score, _ in expected], atol=1e-5)


def test_lengths_penalties_and_stops_share_a_program(tiny):
    model, params = tiny()
    search = lambda **options: beam_search(model, params, PROMPT, beam_size=3, **options)
    search(max_new_tokens=10)
    programs = beam_search_lib._search._cache_size()
    search(max_new_tokens=12, length_penalty=0.5, stop_ids=(2, 7))
    assert beam_search_lib._search._cache_size() == programs


def test_settings_out_of_range_are_refused(tiny):
    model, params = tiny(context_length=8)
    with pytest.raises(UserError, match='beam_size is 0'):
        beam_search(model, params, PROMPT, beam_size=0, max_new_tokens=2)
    with pytest.raises(UserError, match=r'length_penalty is -1\.0'):
        beam_search(model, params, PROMPT, beam_size=2, max_new_tokens=2, length_penalty=-1.0)
    with pytest.raises(UserError, match='ask for at most 6'):
        beam_search(model, params, PROMPT, beam_size=2, max_new_tokens=7)
