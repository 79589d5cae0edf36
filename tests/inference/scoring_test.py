"""Log-likelihoods of continuations, against the logits of each text alone."""

import random

import jax
import numpy as np
import pytest

from llm.errors import MachineError, UserError
from llm.inference import scoring
from llm.inference.scoring import Pair, Scorer, rolling_pairs


def random_pairs(model, count, longest=48):
    draw = random.Random(0)
    ids = lambda n: [draw.randrange(model.config.vocab_size) for _ in range(n)]
    pairs = [Pair(ids(draw.randint(1, longest)), ids(draw.randint(1, 12))) for _ in range(count)]
    shared = ids(9)
    return (
        pairs
        + [Pair(shared, [i]) for i in range(model.config.vocab_size)]
        + [Pair(shared, [3, 4]), Pair(shared, [3, 5])]
    )


@pytest.fixture(scope='module')
def scored(tiny):
    model, params = tiny()
    pairs = random_pairs(model, 30)
    return pairs, Scorer(model, params, tokens_at_once=128).score(pairs)


def test_scores_are_those_of_each_text_alone(tiny, full_logprobs, scored):
    model, params = tiny()
    context = model.config.context_length
    for pair, score in zip(*scored):
        ids = [*pair.context, *pair.continuation][-(context + 1) :]
        logprobs = full_logprobs(model, params, ids[:-1])[-len(pair.continuation) :]
        chosen = logprobs[np.arange(len(pair.continuation)), list(pair.continuation)]
        assert score.logprob == pytest.approx(chosen.sum(), abs=1e-4)
        assert score.greedy == all(logprobs.argmax(1) == pair.continuation)
        assert score.tokens == len(pair.continuation)
        assert score.truncated == max(0, len(pair.context) + len(pair.continuation) - context - 1)
    assert any(score.greedy for score in scored[1]) and any(score.truncated for score in scored[1])


def test_neither_order_nor_batch_size_shows(tiny, scored):
    model, params = tiny()
    pairs, scores = scored
    turned = Scorer(model, params, tokens_at_once=10**6).score(pairs[::-1])[::-1]
    assert [s.logprob for s in turned] == pytest.approx([s.logprob for s in scores], abs=1e-4)
    assert [s.greedy for s in turned] == [s.greedy for s in scores]


def test_all_that_is_asked_of_one_text_is_read_once(tiny, monkeypatch):
    model, params = tiny()
    scorer, read = Scorer(model, params), []
    original = scorer._score_rows
    monkeypatch.setattr(scorer, '_score_rows', lambda batch, *shape: read.append(len(batch)) or original(batch, *shape))
    done = []
    scorer.score([Pair([1, 2, 3], [i]) for i in range(20)] + [Pair([1, 2], [3, 7])], done.append)
    assert sum(read) == 1 and sum(done) == 21


def test_shapes_are_few(tiny):
    model, _ = tiny()
    context, draw = model.config.context_length, random.Random(1)
    rows = [scoring._Row(tuple(range(draw.randint(1, context))), [()] * draw.randint(1, 40)) for _ in range(2000)]
    shapes = {row.shape(context) for row in rows}
    assert len(shapes) <= 6 and all(length <= context for length, _ in shapes)


def test_large_vocabularies_are_projected_in_pieces(tiny, monkeypatch):
    model, params = tiny()
    hidden = jax.random.normal(jax.random.key(0), (3, 7, model.config.width))
    targets = jax.random.randint(jax.random.key(1), (3, 7), 0, model.config.vocab_size)
    whole = scoring.target_scores(model, params, hidden, targets)
    monkeypatch.setattr(scoring, 'LOGITS_AT_ONCE', 4 * model.config.vocab_size)
    parts = scoring.target_scores(model, params, hidden, targets)
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=1e-5)


@pytest.mark.parametrize('length', [0, 1, 7, 8, 9, 16, 17, 30])
def test_rolling_windows_predict_every_token_once_with_all_the_context_there_is(length):
    ids, context = list(range(100, 100 + length)), 8
    pairs = rolling_pairs(ids, 5, context)
    assert [i for pair in pairs for i in pair.continuation] == ids
    for number, (before, after) in enumerate(pairs):
        assert len(before) >= 1 and len(before) + len(after) - 1 <= context
        if number:
            assert len(before) + len(after) - 1 == context  # as much as the model reads
            start = ids.index(after[0])
            assert list(before) == ids[start - len(before) : start]
    assert not pairs or list(pairs[0].context) == [5]


def test_what_does_not_fit_is_refused(tiny):
    model, params = tiny()
    scorer = Scorer(model, params)
    with pytest.raises(UserError, match="33 tokens and the model's context is 32"):
        scorer.score([Pair([1], [2] * 33)])
    with pytest.raises(UserError, match='token id 24; the model knows 0 to 23'):
        scorer.score([Pair([1], [24])])
    with pytest.raises(UserError, match='no tokens'):
        scorer.score([Pair([], [1])])


def test_weights_that_are_no_numbers_are_named(tiny):
    model, params = tiny()
    broken = jax.tree.map(lambda x: x * float('nan'), params)
    with pytest.raises(MachineError, match='not finite'):
        Scorer(model, broken).score([Pair([1], [2])])
