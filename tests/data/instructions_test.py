import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm import chat
from llm.config import SFT, ModelConfig, TokenizerConfig
from llm.data.examples import held_out_batches
from llm.data.instructions import InstructionReader, parse
from llm.data.rows import BadRow
from llm.errors import UserError
from llm.model import Transformer
from llm.objectives import next_token
from llm.tokenizer import BOS, EOS, train

LENGTH = 24


@pytest.fixture(scope='module')
def tokenizer():
    return train(TokenizerConfig(kind='byte'), 272, [])


@pytest.fixture
def reader(configure, tokenizer):
    def make(objective=None, **data):
        return InstructionReader(
            configure({'sequence_length': LENGTH, **data}, objective=objective or SFT()), tokenizer
        )

    return make


def user(text):
    return {'role': 'user', 'content': text}


def assistant(text):
    return {'role': 'assistant', 'content': text}


def random_rows(seed, count=30):
    """Rows of all three forms, some longer than the window."""
    draw = np.random.default_rng(seed)
    text = lambda: ''.join(draw.choice(list('abc '), draw.integers(1, 7)))
    for _ in range(count):
        turns = [turn(text()) for _ in range(draw.integers(1, 3)) for turn in (user, assistant)]
        yield [
            {'messages': turns},
            {'prompt': text(), 'completion': text() * draw.integers(1, 5)},
            {'prompt': turns[:-1], 'completion': turns[-1:]},
        ][draw.integers(3)]


def stretches(tokenizer, example):
    """The texts that are trained on; $ is their <eos>."""
    found, text = [], None
    for i, trained in zip(example.ids.tolist(), example.mask.tolist()):
        if trained:
            text = (text or '') + ('$' if i == EOS else tokenizer.decode([i]))
        elif text is not None:
            found.append(text)
            text = None
    return found if text is None else [*found, text]


def test_every_answer_of_a_conversation_is_trained_on_and_nothing_else(reader, tokenizer):
    rows = [{'role': 'system', 'content': 's'}, user('a'), assistant('b c'), user('d'), assistant('')]
    (example,) = reader().read({'messages': rows})
    assert stretches(tokenizer, example) == ['b c$', '$']


def test_of_a_prompt_and_a_completion_the_completion(reader, tokenizer):
    (plain,) = reader().read({'prompt': 'a b', 'completion': ' c'})
    assert plain.ids.tolist() == [BOS, *tokenizer.encode('a b c'), EOS]
    assert stretches(tokenizer, plain) == [' c$']
    turns = [user('a'), assistant('b'), user('c'), assistant('d'), user('e'), assistant('f')]
    (dialog,) = reader().read({'prompt': turns[:3], 'completion': turns[3:]})
    assert dialog.ids.tolist() == chat.encode(tokenizer, turns).ids
    assert stretches(tokenizer, dialog) == ['d$', 'f$']


def test_what_the_window_cuts_off(reader, tokenizer):
    """A window of 24 predicts 24 tokens, so it holds 25."""
    for size, left, end in [(21, 25, '$'), (22, 25, 'x'), (60, 25, 'x')]:
        read = reader()
        (example,) = read.read({'prompt': 'ab', 'completion': 'x' * size})
        assert len(example.ids) == left
        assert stretches(tokenizer, example)[0][-1] == end, 'a completion that is cut has no <eos>'
        assert read.noted['truncated'] == (end == 'x') and not read.dropped
    for size, kept in [(23, True), (24, False), (60, False)]:
        read = reader()
        examples = read.read({'prompt': 'a' * size, 'completion': 'x'})
        assert bool(examples) == kept
        assert read.dropped == ({} if kept else {'completion_cut_away': 1})


@pytest.mark.parametrize(
    'row, problem',
    [
        ({}, 'no prompt and no completion'),
        ({'prompt': 'a'}, 'no completion'),
        ({'text': 'a'}, 'give messages, or prompt and completion'),
        ({'messages': 'a'}, 'list of at least one'),
        ({'messages': [user('a')]}, 'nothing to train on: there is no message of the assistant'),
        ({'messages': [user('a'), assistant('')]}, 'nothing to train on: every message of the assistant is empty'),
        ({'prompt': 'a', 'completion': ''}, 'nothing to train on: the completion is empty'),
        ({'prompt': 'a', 'completion': [assistant('b')]}, 'two texts or two lists'),
        ({'prompt': 'a', 'completion': None}, 'two texts or two lists'),
        ({'prompt': [user('a'), assistant('b')], 'completion': [user('c')]}, 'must end with a message of the user'),
        ({'prompt': [user('a')], 'completion': [user('c')]}, "message 2 is of 'user'"),
        ({'prompt': [user('a')], 'completion': []}, 'nothing to train on'),
    ],
)
def test_rows_that_are_wrong(row, problem):
    with pytest.raises(BadRow, match=problem):
        parse(row)


def test_what_messages_say_beyond_their_text_is_noted(reader):
    read = reader()
    read.read({'messages': [user('a') | {'name': 'Ann'}, assistant('b') | {'tool_calls': None}]})
    read.read({'messages': [user('a'), assistant('b') | {'tool_calls': None}]})
    assert read.noted['more_in_messages'] == 1


def test_packing_without_document_masking_would_mix_examples(reader):
    with pytest.raises(UserError, match=r'data\.document_masking'):
        reader(document_masking=False)
    assert reader(SFT(packing=False), document_masking=False)


# ------------------------------------------------------------------------------------------------------------- batches


def tables(reader, train_on='completions', seed=0):
    """The same examples packed and one to a row."""
    for packing in (True, False):
        read = reader(SFT(packing=packing, train_on=train_on))
        halves = list(random_rows(seed)), list(random_rows(seed + 100))
        yield read.table([[example for row in rows for example in read.read(row)] for rows in halves])


def segments(batch):
    """Each example of a batch, wherever it lies."""
    found = collections.Counter()
    for r, ids in enumerate(batch['segment_ids']):
        for segment in range(1, ids.max() + 1):
            place = np.flatnonzero(ids == segment)
            assert (np.diff(place) == 1).all()
            names = ('inputs', 'targets', 'loss_weights', 'positions')
            found[tuple(tuple(batch[name][r, place].tolist()) for name in names)] += 1
    return found


@pytest.mark.parametrize('train_on', ['completions', 'all'])
@pytest.mark.parametrize('seed', range(3))
def test_packed_and_unpacked_rows_hold_the_same_examples(reader, train_on, seed):
    packed, unpacked = (table.rows(np.arange(len(table))) for table in tables(reader, train_on, seed))
    assert len(packed['inputs']) < len(unpacked['inputs'])
    assert segments(packed) == segments(unpacked)
    for batch in (packed, unpacked):
        padding = batch['segment_ids'] == 0
        assert (padding[:, :-1] <= padding[:, 1:]).all(), 'padding is on the right'
        assert all((batch[name][padding] == 0).all() for name in batch)
        assert {name: x.dtype.name for name, x in batch.items()} == {
            'loss_weights': 'float32',
            **dict.fromkeys(('inputs', 'targets', 'segment_ids', 'positions'), 'int32'),
        }


def test_targets_follow_inputs_and_weights_are_the_mask(reader):
    read = reader(SFT(packing=False))
    examples = [example for row in random_rows(1) for example in read.read(row)]
    for train_on in ('completions', 'all'):
        batch = reader(SFT(packing=False, train_on=train_on)).table([examples]).rows(np.arange(len(examples)))
        for r, (ids, mask, *_) in enumerate(examples):
            n = len(ids) - 1
            np.testing.assert_array_equal(batch['inputs'][r, :n], ids[:-1])
            np.testing.assert_array_equal(batch['targets'][r, :n], ids[1:])
            expected = mask[1:] if train_on == 'completions' else np.ones(n)
            np.testing.assert_array_equal(batch['loss_weights'][r], np.pad(expected, (0, LENGTH - n)))


def test_sources_keep_apart(reader):
    for table in tables(reader):
        first, second = (segments(table.rows(np.arange(*pair))) for pair in itertools.pairwise(table.edges))
        assert table.edges[-1] == len(table)
        assert first and second
        assert sum((first + second).values()) == table.statistics['examples']


def test_statistics_count_what_the_rows_hold(reader):
    for train_on in ('completions', 'all'):
        for table in tables(reader, train_on):
            batch, statistics = table.rows(np.arange(len(table))), table.statistics
            assert statistics['tokens'] == (batch['segment_ids'] > 0).sum()
            assert statistics['trained_tokens'] == batch['loss_weights'].sum()
            assert statistics['rows'] == len(table)
            assert statistics['fill'] == pytest.approx((batch['segment_ids'] > 0).mean())


def test_packed_and_unpacked_rows_have_the_same_loss_and_gradient(reader):
    """Which is what the segment ids and positions are for."""
    model = Transformer(ModelConfig(num_layers=1, width=16, num_heads=2, context_length=LENGTH, vocab_size=272))
    params = model.init(jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))['params']
    loss = next_token.make_loss(SFT(), model, next_token.hyperparameters(SFT()))
    value = jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch, None)[0]))
    (packed, packed_gradient), (unpacked, unpacked_gradient) = (
        value(params, next(held_out_batches(table, 64))[0])  # the same rows, so one program
        for table in tables(reader)
    )
    assert packed > 100
    np.testing.assert_allclose(packed, unpacked, rtol=1e-5)
    scale = max(float(abs(x).max()) for x in jax.tree.leaves(unpacked_gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), packed_gradient, unpacked_gradient)
