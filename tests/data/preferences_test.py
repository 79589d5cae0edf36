import itertools

import numpy as np
import pytest

from llm import chat
from llm.config import DPO, RewardModel, TokenizerConfig
from llm.data.preferences import PreferenceReader, parse
from llm.data.rows import BadRow
from llm.tokenizer import BOS, EOS, train

LENGTH = 16


@pytest.fixture(scope='module')
def tokenizer():
    return train(TokenizerConfig(kind='byte'), 272, [])


@pytest.fixture
def reader(configure, tokenizer):
    return lambda objective: PreferenceReader(configure({'sequence_length': LENGTH}, objective=objective), tokenizer)


def user(text):
    return {'role': 'user', 'content': text}


def assistant(text):
    return {'role': 'assistant', 'content': text}


def pair(prompt='q', chosen='yes', rejected='no', **more):
    return {'prompt': prompt, 'chosen': chosen, 'rejected': rejected, **more}


def ranking(*responses, prompt='q', **more):
    return {'prompt': prompt, 'responses': list(responses), **more}


# -------------------------------------------------------------------------------------------------------- what rows say


def test_a_pair_has_scores_that_differ_by_its_margin():
    assert parse(pair())[:3] == ('q', ['yes', 'no'], [1, 0])
    assert parse(pair(margin=2.5)).scores == [2.5, 0]
    assert parse(pair(margin=None)).scores == [1, 0]


def test_a_margin_of_nothing_is_a_preference_all_the_same():
    """Llama 2's least margin is 0; only equal scores mean that two responses are not compared."""
    high, low = np.array(parse(pair(margin=0)).scores, np.float32)
    assert high > low
    assert np.float32(1) + (high - low) == 1


def test_a_ranking_has_scores_from_the_best_down():
    assert parse(ranking('a', 'b', 'c'))[:3] == ('q', ['a', 'b', 'c'], [2, 1, 0])
    assert parse(ranking('a', 'b', 'c', scores=[3.5, 3.5, -1])).scores == [3.5, 3.5, -1]


def test_conversations_become_prompt_and_texts():
    prompt = [user('a'), assistant('b'), user('c')]
    expected = (prompt, ['yes', 'no'], [1, 0])
    assert parse(pair(prompt, [assistant('yes')], [assistant('no')]))[:3] == expected
    assert parse({'chosen': [*prompt, assistant('yes')], 'rejected': [*prompt, assistant('no')]})[:3] == expected
    assert parse(ranking([assistant('yes')], [assistant('no')], prompt=prompt))[:3] == expected


def test_a_prompt_that_quotes_the_conversation():
    """As in UltraFeedback: the prompt as a text, chosen and rejected as whole conversations."""
    whole = lambda answer: [user('a'), assistant(answer)]
    assert parse(pair('a', whole('yes'), whole('no')))[:3] == ([user('a')], ['yes', 'no'], [1, 0])
    with pytest.raises(BadRow, match='not one of the messages'):
        parse(pair('b', whole('yes'), whole('no')))


def test_without_a_prompt_it_is_how_both_begin():
    assert parse({'chosen': 'The sky is blue', 'rejected': 'The sky is green'}).prompt == 'The sky is'
    assert parse({'chosen': 'abc', 'rejected': 'abd'})[:3] == ('ab', ['c', 'd'], [1, 0])
    assert parse({'chosen': 'abc', 'rejected': 'abcd'})[:3] == ('abc', ['', 'd'], [1, 0])
    same = [user('a'), assistant('b')]
    assert parse({'chosen': same, 'rejected': same})[:3] == (same[:1], ['b', 'b'], [1, 0])


@pytest.mark.parametrize(
    'row, problem',
    [
        ({}, 'no chosen and no rejected'),
        ({'prompt': 'a', 'chosen': 'b'}, 'no rejected'),
        (pair(chosen=1), 'prompt is a text, so every response'),
        (pair(chosen=[assistant('a')]), 'prompt is a text, so every response'),
        (pair(prompt=[user('a')]), 'response 1 must be a list of one message.*; response 2 must'),
        (pair([user('a')], [assistant('a')], [user('a')]), 'response 2 must be'),
        (pair([user('a')], [assistant('a')], [assistant('a'), user('a')]), 'response 2 must be'),
        (pair([assistant('a')], [assistant('a')], [assistant('a')]), 'prompt: message 1'),
        (pair([user('a'), assistant('b')], [assistant('a')], [assistant('a')]), 'prompt: the prompt must end'),
        (pair(7), 'prompt: the conversation must be a list'),
        (pair(margin='big'), "its margin is 'big'"),
        (pair(margin=-1), 'its margin is -1'),
        (pair(margin=float('nan')), 'its margin is nan'),
        (pair(margin=True), 'its margin is True'),
        ({'chosen': 'a', 'rejected': [assistant('a')]}, 'two texts or two lists'),
        ({'chosen': [], 'rejected': []}, 'prompt: the conversation'),
        (ranking('a'), 'at least two'),
        ({'prompt': 'a', 'responses': 'ab'}, 'at least two'),
        (ranking('a', 'b', scores=[1]), '2 finite numbers'),
        (ranking('a', 'b', scores=[1, float('inf')]), '2 finite numbers'),
        (ranking('a', 'b', scores=[1, 2]), 'must not rise'),
        ({'responses': ['a', 'b'], 'scores': [1]}, 'finite numbers.*; it has no prompt'),
    ],
)
def test_rows_that_are_wrong(row, problem):
    with pytest.raises(BadRow, match=problem):
        parse(row)


# --------------------------------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize('objective', [DPO(), RewardModel()])
def test_a_pair_in_tokens(reader, tokenizer, objective):
    (plain,) = reader(objective).read(pair('q ', 'yes', ''))
    assert plain.tokens == [[BOS, *tokenizer.encode('q yes'), EOS], [BOS, *tokenizer.encode('q '), EOS]]
    assert plain.prompt_lengths == [3, 3]
    prompt = [user('a')]
    (dialog,) = reader(objective).read(pair(prompt, [assistant('yes')], [assistant('no')]))
    assert dialog.tokens == [chat.encode(tokenizer, [*prompt, assistant(text)]).ids for text in ('yes', 'no')]
    assert dialog.prompt_lengths == [len(chat.encode_prompt(tokenizer, prompt))] * 2


def test_a_ranking_is_one_example_or_all_its_pairs(reader):
    row = ranking('a', 'b', 'c', 'd', scores=[3, 2, 2, 0])
    (whole,) = reader(RewardModel()).read(row)
    assert whole.scores == [3, 2, 2, 0]
    pairs = reader(DPO()).read(row)
    ids = dict(zip('abcd', whole.tokens))
    compared = [('a', 'b'), ('a', 'c'), ('a', 'd'), ('b', 'd'), ('c', 'd')]  # b and c are equally good
    assert [tuple(pair.tokens) for pair in pairs] == [(ids[x], ids[y]) for x, y in compared]
    assert all(chosen > rejected for chosen, rejected in (pair.scores for pair in pairs))


@pytest.mark.parametrize('objective', [DPO(), RewardModel()])
@pytest.mark.parametrize(
    'row, reason',
    [
        (pair(chosen='x', rejected='x'), 'responses_equal'),
        (ranking('x', 'x', 'x'), 'responses_equal'),
        (ranking('x', 'y', scores=[1, 1]), 'no_preference'),
        (pair('q' * 15), 'prompt_fills_window'),  # and <bos>
        (pair('q' * 40), 'prompt_fills_window'),
        (pair(chosen='x' * 20, rejected='x' * 30), 'difference_cut_away'),
    ],
)
def test_what_teaches_nothing_is_dropped_and_counted(reader, objective, row, reason):
    read = reader(objective)
    assert read.read(row) == []
    assert read.dropped == {reason: 1}


def test_a_response_twice_in_a_ranking_counts_at_its_better_place(reader):
    read = reader(RewardModel())
    (example,) = read.read(ranking('a', 'b', 'a', 'c'))
    assert [ids[-2] for ids in example.tokens] == [16 + ord(c) for c in 'abc']
    assert example.scores == [3, 2, 0]
    assert read.noted['responses_equal'] == 1 and not read.dropped


def test_a_response_that_is_cut_has_no_eos(reader):
    read = reader(DPO())
    (example,) = read.read(pair('q', 'x' * 13, 'x' * 14))  # with <bos>, q and <eos> 16 and 17
    assert [len(ids) for ids in example.tokens] == [LENGTH, LENGTH]
    assert [ids[-1] == EOS for ids in example.tokens] == [True, False]
    assert read.noted['truncated'] == 1


def test_one_response_token_is_enough(reader):
    (example,) = reader(DPO()).read(pair('q' * 14, 'a', 'b'))
    assert example.prompt_lengths == [15, 15] and [len(ids) for ids in example.tokens] == [16, 16]


# --------------------------------------------------------------------------------------------------------------- tables


@pytest.fixture(params=['dpo', 'reward_model'])
def made(request, reader):
    read = reader(DPO() if request.param == 'dpo' else RewardModel())
    rows = [pair('q' * i, 'yes' * (i % 4), 'no') for i in range(8)] + [ranking('a', 'bb', 'ccc', prompt='p' * 3)]
    sources = [[example for row in part for example in read.read(row)] for part in (rows[:3], rows[3:])]
    return sources, read.table(sources)


def test_rows_are_right_padded_with_lengths(made):
    sources, table = made
    examples = [*itertools.chain(*sources)]
    assert len(table) == len(examples)
    order = np.random.default_rng(0).permutation(len(examples))
    batch = table.rows(order)
    responses = max(len(example.tokens) for example in examples)
    assert batch['tokens'].shape == (len(examples), responses, LENGTH)
    for r, i in enumerate(order):
        assert batch['indices'][r] == i
        for k in range(responses):
            ids = examples[i].tokens[k] if k < len(examples[i].tokens) else []
            assert batch['lengths'][r, k] == len(ids)
            assert batch['tokens'][r, k].tolist() == [*ids, *[0] * (LENGTH - len(ids))]
            assert batch['prompt_lengths'][r, k] == (examples[i].prompt_lengths[k] if ids else 0)
            assert batch['scores'][r, k] == (examples[i].scores[k] if ids else 0)
    assert {x.dtype.name for name, x in batch.items() if name != 'scores'} == {'int32'}
    assert batch['scores'].dtype == np.float32
    np.testing.assert_array_equal(table.tokens[order], batch['tokens'])


def test_statistics_count_what_the_table_holds(made):
    _, table = made
    batch = table.rows(np.arange(len(table)))
    assert table.statistics['tokens'] == batch['lengths'].sum()
    assert table.statistics['trained_tokens'] == (batch['lengths'] - batch['prompt_lengths']).sum()
    pairs = sum(
        scores[i] > scores[j] and lengths[j] > 0
        for scores, lengths in zip(batch['scores'], batch['lengths'])
        for i in range(len(scores))
        for j in range(len(scores))
    )
    assert table.statistics['pairs'] == pairs
    assert pairs == 8 + 3 if table.tokens.shape[1] == 3 else len(table)


def test_both_sides_are_as_wide_as_the_largest_ranking(reader):
    read = reader(RewardModel())
    pairs, three = read.read(pair()), read.read(ranking('a', 'b', 'c'))
    assert read.table([pairs]).tokens.shape == read.table([three]).tokens.shape == (1, 3, LENGTH)


def test_a_response_that_was_cut_has_no_eos(reader):
    row = ranking('good', 'long', 'bad', ended=[True, False, True])
    ((tokens, *_),) = reader(RewardModel()).read(row)
    assert [ids[-1] == EOS for ids in tokens] == [True, False, True]
    with pytest.raises(BadRow, match='ended must be 3 times'):
        parse(row | {'ended': [True]})
