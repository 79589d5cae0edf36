import itertools
import json
import sys
import types

import numpy as np
import pytest

from llm.config import DPO, GRPO, PPO, RLOO, SFT, NextToken, RewardConfig, RewardModel, RolloutConfig, TokenizerConfig
from llm.data import examples as examples_lib
from llm.data.batches import data_index
from llm.data.examples import ExampleBatches, held_out_batches, prepare_examples
from llm.data.split import is_held_out
from llm.errors import UserError
from llm.tokenizer import train

ROWS = 80
ONLINE = {'rollout': RolloutConfig(max_new_tokens=6), 'reward': RewardConfig(function='a:b')}
OBJECTIVES = [SFT(packing=False), RewardModel(), DPO(), GRPO(**ONLINE), PPO(**ONLINE), RLOO(**ONLINE)]


@pytest.fixture(scope='module')
def tokenizer():
    return train(TokenizerConfig(kind='byte'), 272, [])


def row(i):
    """One that every objective can read."""
    return {'prompt': f'q{i}', 'completion': 'a' * (i % 7 + 1), 'chosen': f'{i % 10}', 'rejected': 'no'}


def text_of(tokenizer, batch, r):
    name = next(name for name in ('inputs', 'tokens', 'prompts') if name in batch)
    return tokenizer.decode(batch[name][r].reshape(-1))


@pytest.fixture
def write(tmp_path):
    def make(rows, name='a.jsonl'):
        (tmp_path / name).write_text(
            ''.join(line if isinstance(line, str) else json.dumps(line) + '\n' for line in rows)
        )
        return f'jsonl:{tmp_path / name}'

    return make


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(examples_lib.logging, 'warning', lambda form, *values: found.append(form % values))
    return found


@pytest.fixture
def make(configure, tokenizer):
    """The config and the examples of some sources."""

    def make(*sources, objective=None, batch_size=4, **data):
        data = {'sequence_length': 16, 'corpora': sources, **data}
        config = configure(data, objective=objective or SFT(packing=False), batch_size=batch_size)
        return config, prepare_examples(config, tokenizer)

    return make


@pytest.mark.parametrize('objective', OBJECTIVES, ids=lambda objective: objective.kind)
def test_rows_go_to_the_side_that_their_place_says(write, make, tokenizer, objective):
    _, examples = make(write([row(i) for i in range(ROWS)]), objective=objective)
    held_out = [is_held_out(f'a.jsonl#{i + 1}') for i in range(ROWS)]
    assert 1 < sum(held_out) < 10
    for table, side in ((examples.train, False), (examples.held_out, True)):
        batch = table.rows(np.arange(len(table)))
        texts = [text_of(tokenizer, batch, r) for r in range(len(table))]
        expected = [f'q{i}' for i in range(ROWS) if held_out[i] == side]
        assert len(texts) == len(expected)
        assert all(text.startswith(start) for text, start in zip(texts, expected))
    statistics = examples.statistics
    assert statistics['train']['examples'] + statistics['held_out']['examples'] == ROWS
    assert json.loads(json.dumps(statistics)) == statistics


def test_a_task_says_where_its_rows_come_from(make, monkeypatch):
    module = types.ModuleType('llm.data.tasks')
    named = [row(i) | {'identity': f'file{i // 4}.py'} for i in range(ROWS)]
    module.TASKS = {'mine': lambda: iter(named)}
    monkeypatch.setitem(sys.modules, 'llm.data.tasks', module)
    _, examples = make('task:mine', objective=GRPO(**ONLINE))
    expected = [fields['prompt'] for fields in named if is_held_out(fields['identity'])]
    columns = examples.held_out.columns(np.arange(len(examples.held_out)))
    assert columns['prompts'] == expected
    assert len(expected) % 4 == 0, 'the rows of one file stay together'
    assert 'identity' not in columns


def test_equal_rows_are_kept_once_before_the_split(write, make, warnings):
    rows = [row(i) for i in range(ROWS)]
    once = make(write(rows))[1]
    twice = make(write(rows), write([{**rows[0], 'prompt': 'other'}, *rows[::-1]], 'b.jsonl'))[1]
    assert twice.statistics['dropped'] == {'duplicates': ROWS}
    assert twice.statistics['held_out'] == once.statistics['held_out']
    assert [source['train'] for source in twice.statistics['sources']] == [len(once.train), 1]
    assert [source['dropped'] for source in twice.statistics['sources']] == [{}, {'duplicates': ROWS}]
    assert warnings == [f'{ROWS} rows dropped: equal to an earlier row']


def test_prompts_on_both_sides_are_counted(write, make):
    rows = [row(i) for i in range(ROWS)]
    first = next(i for i in range(ROWS) if is_held_out(f'a.jsonl#{i + 1}'))
    rows[first] |= {'prompt': f'q{first + 1}', 'completion': 'other'}
    assert make(write(rows))[1].statistics['held_out_prompts_in_train'] == 1


@pytest.mark.parametrize(
    'objective, change',
    [
        (SFT(), {'completion': 'bbb'}),
        (DPO(), {'rejected': 'n'}),
        (RewardModel(), {'margin': 0.5}),
        (GRPO(**ONLINE), {'answer': 4}),
    ],
)
def test_the_digest_changes_with_the_content(write, make, objective, change):
    rows = [row(i) for i in range(ROWS)]
    digests = [make(write(rows), objective=objective)[1].digest for _ in range(2)]
    assert digests[0] == digests[1]
    changed = [*rows]
    changed[-1] = changed[-1] | change
    assert make(write(changed), objective=objective)[1].digest != digests[0]
    assert make(write(rows[::-1]), objective=objective)[1].digest != digests[0]


# -------------------------------------------------------------------------------------------------------------- trouble


def test_a_bad_row_is_named_with_all_that_is_wrong_and_the_others_are_counted(write, make, tmp_path):
    bad = {'messages': [{'role': 'robot', 'content': 1}]}
    rows = [*map(row, range(ROWS)), '\n', bad, '{"prompt": \n', *map(row, range(ROWS)), {'prompt': 1}]
    with pytest.raises(UserError) as raised:
        make(write(rows))
    message = str(raised.value)
    assert message.startswith(f'{tmp_path}/a.jsonl:{ROWS + 2}: the content of message 1 must be a text; the role of')
    assert message.endswith('repair or remove it (and 2 more rows with something wrong)')


@pytest.mark.parametrize('objective', OBJECTIVES, ids=lambda objective: objective.kind)
def test_an_empty_file_is_one_line(write, make, objective):
    with pytest.raises(UserError, match=r'a\.jsonl has no rows'):
        make(write([]), objective=objective)


def test_when_all_is_dropped_the_reasons_are_given(write, make):
    same = [{'prompt': f'{i}', 'chosen': 'x', 'rejected': 'x'} for i in range(30)]
    same += [{'prompt': f'{i}' * 30, 'chosen': 'x', 'rejected': 'y'} for i in range(5)]
    with pytest.raises(UserError) as raised:
        make(write(same), objective=DPO())
    assert (
        'has nothing to train on: 30 dropped because chosen and rejected are equal, 5 dropped because the prompt'
        in (str(raised.value))
    )


def test_equal_responses_are_dropped_with_a_warning(write, make, warnings):
    rows = [row(i) for i in range(ROWS)] + [row(i) | {'chosen': 'no'} for i in range(ROWS)]
    _, examples = make(write(rows), objective=DPO())
    assert examples.statistics['dropped'] == {'responses_equal': ROWS}
    assert warnings == [f'{ROWS} rows dropped: chosen and rejected are equal']


def test_tokens_over_the_seam_are_one_warning_with_a_count(write, configure, warnings):
    bpe = train(TokenizerConfig(kind='bpe'), 281, ['abc abc abc abc ' * 100])
    rows = [{'prompt': 'a' * i + 'ab', 'completion': 'c'} for i in range(ROWS)]
    config = configure({'sequence_length': 128, 'corpora': (write(rows),)}, objective=SFT(), vocab_size=281)
    config_examples = prepare_examples(config, bpe)
    assert warnings == [
        f'{ROWS} rows have a token that reaches over the end of the prompt; it counts as the completion'
    ]
    assert config_examples.statistics['noted'] == {'prompt_not_a_prefix': ROWS}


def test_nothing_held_out_is_refused(write, make):
    count = next(i for i in range(ROWS) if is_held_out(f'c.jsonl#{i + 1}'))
    assert count
    with pytest.raises(UserError, match=f'none of the {count} examples is held out'):
        make(write([row(i) for i in range(count)], 'c.jsonl'))


def test_a_tokenizer_that_is_too_large(write, configure):
    bpe = train(TokenizerConfig(kind='bpe'), 281, ['abc abc abc abc ' * 100])
    with pytest.raises(UserError, match=r'model\.vocab_size 272; set that to at least 281'):
        prepare_examples(configure({'corpora': (write([row(0)]),)}, objective=SFT()), bpe)


def test_plain_text_is_not_made_of_examples(write, make):
    with pytest.raises(ValueError, match='next_token'):
        make(write([row(i) for i in range(ROWS)]), objective=NextToken())
    with pytest.raises(UserError, match='jsonl:GLOB, tfds:NAME or task:NAME'):
        make('python_stdlib')


# -------------------------------------------------------------------------------------------------------------- batches


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize('objective', OBJECTIVES[:4], ids=lambda objective: objective.kind)
def test_batches_are_a_pure_function_of_the_index(write, make, objective):
    source = write([row(i) for i in range(ROWS)])
    (config, examples), (_, again) = (make(source, objective=objective, batch_size=6) for _ in range(2))
    batches, others = ExampleBatches(config, examples.train), ExampleBatches(config, again.train)
    whole = [batches.batch(i) for i in range(30)]
    for i in (17, 3, 0, 29):
        assert_equal(others.batch(i), whole[i])
        for start, stop in ((0, 6), (2, 5), (5, 6)):
            assert_equal(batches.rows(i, start, stop), {name: x[start:stop] for name, x in whole[i].items()})
    skipped = [[3, 5], [8, 9]]
    for rows in (None, (2, 5)):
        for step, batch in enumerate(itertools.islice(batches.iterate(2, skipped, rows), 10), start=2):
            assert_equal(batch, batches.rows(data_index(step, skipped), *(rows or (0, 6))))


def test_every_epoch_has_each_row_once_in_its_own_order(write, make):
    config, examples = make(write([row(i) for i in range(ROWS)]), batch_size=6)
    batches = ExampleBatches(config, examples.train)
    n = batches.rows_per_epoch
    assert n == len(examples.train) and n % 6, 'a batch has to run over the end of an epoch'
    order = np.concatenate([batches.indices(i, 0, 6) for i in range(n)])
    epochs = order.reshape(6, n)
    assert (np.sort(epochs) == np.arange(n)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 6
    other, _ = make(write([row(i) for i in range(ROWS)]), batch_size=6, seed=1)
    assert (ExampleBatches(other, examples.train).indices(0, 0, 6) != order[:6]).any()


def test_weights_set_the_shares_of_sources(write, make):
    sources = write([row(i) for i in range(20)]), write([row(i) for i in range(20, 100)], 'b.jsonl')
    config, examples = make(*sources, weights=(0.75, 0.25), batch_size=100)
    batches = ExampleBatches(config, examples.train)
    indices = np.concatenate([batches.indices(i, 0, 100) for i in range(10)])
    assert np.mean(indices < examples.train.edges[1]) == pytest.approx(0.75, abs=2e-3)


@pytest.mark.parametrize('objective', OBJECTIVES[:4], ids=lambda objective: objective.kind)
@pytest.mark.parametrize('batch_size', [1, 3, 100])
def test_held_out_rows_come_once_and_the_last_batch_is_filled(write, make, objective, batch_size):
    _, examples = make(write([row(i) for i in range(ROWS)]), objective=objective)
    table = examples.held_out
    expected = table.rows(np.arange(len(table)))
    found = []
    for batch, real in held_out_batches(table, batch_size):
        assert {len(x) for x in batch.values()} == {batch_size}
        found.append({name: x[:real] for name, x in batch.items()})
        for name in ('loss_weights', 'lengths', 'scores'):
            assert not batch.get(name, np.zeros(0))[real:].any()
        if 'prompts' in batch:
            assert (batch['prompt_lengths'][real:] == 1).all() and not batch['prompts'][real:].any()
    assert_equal({name: np.concatenate([batch[name] for batch in found]) for name in expected}, expected)


def test_fewer_held_out_rows_are_spread_evenly(write, make):
    _, examples = make(write([row(i) for i in range(400)]), objective=DPO())
    table = examples.held_out
    indices = np.concatenate([batch['indices'][:real] for batch, real in held_out_batches(table, 4, max_rows=5)])
    assert indices.tolist() == [i * len(table) // 5 for i in range(5)]
    assert sum(real for _, real in held_out_batches(table, 4, max_rows=10_000)) == len(table)
