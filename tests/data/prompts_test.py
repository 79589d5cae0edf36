import numpy as np
import pytest

from llm import chat
from llm.config import GRPO, RewardConfig, RolloutConfig, TokenizerConfig
from llm.data.prompts import PromptReader, parse
from llm.data.rows import BadRow
from llm.tokenizer import BOS, train

USER = {'role': 'user', 'content': 'Hi'}


@pytest.fixture(scope='module')
def tokenizer():
    return train(TokenizerConfig(kind='byte'), 272, [])


@pytest.fixture
def reader(configure, tokenizer):
    objective = GRPO(rollout=RolloutConfig(max_new_tokens=6), reward=RewardConfig(function='a:b'))
    return PromptReader(configure({'sequence_length': 16}, objective=objective), tokenizer)


def test_prompts_of_both_kinds_and_their_columns(reader, tokenizer):
    rows = [{'prompt': '2 + 2 =', 'answer': 4}, {'prompt': [USER], 'answer': None, 'level': 'a'}, {'prompt': ''}]
    sources = [[prompt for row in part for prompt in reader.read(row)] for part in (rows[:1], rows[1:])]
    table = reader.table(sources)
    assert len(table) == 3 and table.edges == [0, 1, 3]
    batch = table.rows(np.array([1, 0, 2]))
    expected = [chat.encode_prompt(tokenizer, [USER]), [BOS, *tokenizer.encode('2 + 2 =')], [BOS]]
    assert batch['prompts'].tolist() == [[*ids, *[0] * (10 - len(ids))] for ids in expected]
    assert batch['prompt_lengths'].tolist() == [len(ids) for ids in expected]
    assert batch['indices'].tolist() == [1, 0, 2]
    assert {x.dtype.name for x in batch.values()} == {'int32'}
    assert table.columns(np.array([1, 0, 2])) == {
        'prompts': [[USER], '2 + 2 =', ''],
        'answer': [None, 4, None],
        'level': ['a', None, None],
    }
    assert table.statistics == {'examples': 3, 'tokens': sum(map(len, expected))}


def test_a_prompt_leaves_room_for_the_response(reader):
    assert reader.read({'prompt': 'x' * 9})  # and <bos>: 10 of 16, with 6 for the response
    assert not reader.read({'prompt': 'x' * 10})
    assert reader.dropped == {'prompt_too_long': 1}


@pytest.mark.parametrize(
    'row, problem',
    [
        ({}, 'no prompt'),
        ({'prompt': 3}, 'list of at least one'),
        ({'prompt': [USER, {'role': 'assistant', 'content': ''}]}, 'end with a message of the user'),
        ({'prompt': 'a', 'completions': 1}, "'completions' has the name of something else"),
        ({'prompts': 'a'}, "no prompt; the field 'prompts' has the name"),
    ],
)
def test_rows_that_are_wrong(row, problem):
    with pytest.raises(BadRow, match=problem):
        parse(row)
