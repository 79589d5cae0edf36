"""What is hidden of a window, held against what was there."""

import collections
import dataclasses
import itertools

import jax
import numpy as np
import numpy.testing as npt
import pytest

from llm import tokenizer as tokenizer_lib
from llm.config import (
    Config,
    DataConfig,
    Masked,
    ModelConfig,
    PrefixLM,
    SpanCorruption,
    TokenizerConfig,
    TrainingConfig,
)
from llm.data.batches import TrainBatches, held_out_windows
from llm.data.corpora import Document
from llm.data.corruption import CorruptedBatches, Corruption, blank_ids, random_spans
from llm.data.token_store import StoreWriter, TokenStore
from llm.errors import UserError
from llm.parallel import mesh as mesh_lib
from llm.training.evaluate_corrupted import CorruptedEvaluator
from llm.training.evaluate_text import TextEvaluator
from llm.training.train_state import initial_model

LENGTH, BOS, EOS, MARKS = 40, 1, 2, range(8, 16)
TOKENIZER = tokenizer_lib.train(TokenizerConfig(kind='byte'), 272, [])


@pytest.fixture
def store(tmp_path):
    """Documents shorter than a window and longer, so that windows hold several or a part."""
    draw = np.random.default_rng(0)
    writer = StoreWriter(tmp_path / 'store', 'store', TOKENIZER)
    for i in range(60):
        text = bytes(draw.integers(32, 127, draw.integers(0, 90), dtype=np.uint8))
        writer.add(Document(f'{i}', text), TOKENIZER.encode(text))
    writer.finish()
    return TokenStore.open(tmp_path / 'store')


def configure(objective, encoder=0, rows=16, seed=0, document_masking=True):
    return Config(
        model=ModelConfig(vocab_size=272, context_length=2 * LENGTH, encoder_layers=encoder),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(sequence_length=LENGTH, seed=seed, document_masking=document_masking),
        objective=objective,
        training=TrainingConfig(batch_size=rows),
    )


def pairs(store, batches=6, **given):
    """Rows before and after, as dictionaries."""
    config = configure(**given)
    plain, hidden = TrainBatches(config, [store]), CorruptedBatches(config, [store], TOKENIZER)
    for index in range(batches):
        before, after = plain.batch(index), hidden.batch(index)
        for row in range(len(before['inputs'])):
            yield (*({name: x[row] for name, x in batch.items()} for batch in (before, after)),)


def test_fifteen_in_a_hundred_are_chosen_and_replaced_as_bert_does(store):
    fates, ordinary = collections.Counter(), 0
    for before, after in pairs(store, batches=40, objective=Masked()):
        tokens, weights = before['inputs'], after['loss_weights'] > 0
        hideable = (tokens >= 16) & (before['segment_ids'] > 0)
        assert weights.sum() == (max(round(0.15 * hideable.sum()), 1) if hideable.any() else 0)
        assert not (weights & ~hideable).any()  # special tokens and padding stay
        npt.assert_array_equal(after['targets'], tokens)
        npt.assert_array_equal(after['inputs'][~weights], tokens[~weights])
        npt.assert_array_equal(after['segment_ids'], before['segment_ids'])
        assert after['text_tokens'] == before['loss_weights'].sum()
        for was, now in zip(tokens[weights].tolist(), after['inputs'][weights].tolist()):
            fates['mask' if now == MARKS[0] else 'kept' if was == now else 'random'] += 1
            ordinary += now >= 16
    total = sum(fates.values())
    assert total > 3000
    for fate, share in (('mask', 0.8), ('random', 0.1), ('kept', 0.1)):
        assert abs(fates[fate] / total - share) < 4 * (share * (1 - share) / total) ** 0.5 + 1 / 256
    assert ordinary == fates['random'] + fates['kept']  # what replaces a token is never special


@pytest.mark.parametrize(('objective', 'encoder'), [(Masked(), 0), (PrefixLM(), 1), (SpanCorruption(), 1)])
def test_a_row_is_a_function_of_seed_batch_and_place_alone(store, objective, encoder):
    make = lambda **given: CorruptedBatches(configure(objective, encoder, **given), [store], TOKENIZER)
    batches = make()
    whole, parts = batches.batch(3), [batches.rows(3, 0, 5), batches.rows(3, 5, 16)]
    for name, x in whole.items():
        npt.assert_array_equal(np.concatenate([part[name] for part in parts]), x)
        npt.assert_array_equal(make().batch(3)[name], x)
        assert x.dtype == (np.float32 if name == 'loss_weights' else np.int32), name
    epoch = batches.windows_per_epoch  # the same windows come again, with something else hidden
    once, again = (make(rows=epoch).batch(index) for index in (0, 1))
    assert sorted(once['text_tokens']) == sorted(again['text_tokens'])
    of = 'source' if encoder else 'inputs'
    assert sorted(map(bytes, once[of])) != sorted(map(bytes, again[of]))


def test_held_out_rows_do_not_depend_on_their_batch(store):
    corruption = Corruption(configure(SpanCorruption(), 1), TOKENIZER)
    rows = []
    for size in (4, 7):
        batches = held_out_windows(store, LENGTH, True, size)
        found = [corruption.held_out(batch) for batch in batches]
        joined = {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}
        real = joined['text_tokens'] > 0
        rows.append({name: x[real] for name, x in joined.items()})
    for name, x in rows[0].items():
        npt.assert_array_equal(rows[1][name], x)


@pytest.mark.parametrize('document_masking', [True, False])
@pytest.mark.parametrize('encoder', [0, 1])
def test_what_stood_in_the_blanks_put_back_is_the_text(store, encoder, document_masking):
    counts, several = [], 0
    given = {'objective': SpanCorruption(), 'encoder': encoder, 'document_masking': document_masking}
    for before, after in pairs(store, batches=20, **given):
        read, documents, positions = (
            (after['source'], after['source_segment_ids'], after['source_positions'])
            if encoder
            else (after['inputs'][:LENGTH], after['segment_ids'][:LENGTH], after['positions'][:LENGTH])
        )
        written = slice(None) if encoder else slice(LENGTH, None)
        targets, inputs, own, weights, places = (
            after[name][written] for name in ('targets', 'inputs', 'segment_ids', 'loss_weights', 'positions')
        )
        npt.assert_array_equal(weights, own > 0)
        several += len(set(own[own > 0].tolist())) > 1
        text = []
        for document in range(1, documents.max() + 1):
            mine, answer = read[documents == document].tolist(), targets[own == document].tolist()
            npt.assert_array_equal(positions[documents == document], np.arange(len(mine)))
            if answer:
                assert answer[-1] == EOS
                shifted = inputs[own == document].tolist()
                assert shifted == [BOS, *answer[:-1]]  # each is predicted from those before
                first = 0 if encoder else len(mine)
                npt.assert_array_equal(places[own == document], first + np.arange(len(answer)))
            spans = [[]]
            for token in answer[:-1]:
                if token in MARKS:
                    assert token == MARKS[(len(spans) - 1) % 8]
                    spans.append([])
                else:
                    spans[-1].append(token)
            assert spans[0] == [] and all(spans[1:])
            for token in mine:
                text += spans.pop(1) if token in MARKS else [token]
            assert spans == [[]]
            counts.append(sum(token in MARKS for token in answer))
        real = before['segment_ids'] > 0 if document_masking else np.arange(LENGTH) < len(text)
        assert text == before['inputs'][real].tolist()
    assert max(counts) >= 2
    assert several or not document_masking


def test_so_much_is_hidden_in_so_many_blanks():
    objective = SpanCorruption(rate=0.2, span_length=2.5)
    assert objective.blanks(100) == (20, 8)
    assert objective.target_length(100) == 29
    assert SpanCorruption().blanks(2) == (1, 1)
    rng = np.random.default_rng(0)
    for _ in range(50):
        hidden = random_spans(rng, np.ones(100, bool), 20, 8)
        assert hidden.sum() == 20
        assert (np.diff(hidden.astype(int), prepend=0) == 1).sum() == 8


def test_all_ways_to_place_blanks_are_equally_likely():
    """Three hidden of six in two blanks: each side is cut in one of two ways, and the visible part comes first."""
    rng, found = np.random.default_rng(0), collections.Counter()
    for _ in range(4000):
        found[''.join('.x'[int(hidden)] for hidden in random_spans(rng, np.ones(6, bool), 3, 2))] += 1
    cuts = [(1, 2), (2, 1)]
    assert set(found) == {'.' * a + 'x' * b + '.' * c + 'x' * d for (a, c), (b, d) in itertools.product(cuts, cuts)}
    assert all(abs(count - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5 for count in found.values())


def test_a_prefix_is_read_and_the_rest_predicted_with_an_encoder_or_without(store):
    cuts = collections.Counter()
    both = zip(
        pairs(store, batches=10, objective=PrefixLM()), pairs(store, batches=10, objective=PrefixLM(), encoder=1)
    )
    for (before, row), (_, encoded) in both:
        prefix = int(row['prefix_lengths'])
        cuts[prefix] += 1
        npt.assert_array_equal(row['inputs'], before['inputs'])
        scored = (np.arange(LENGTH) >= prefix - 1) * before['loss_weights']
        npt.assert_array_equal(row['loss_weights'], scored)
        # The encoder reads the prefix, the decoder starts anew and predicts the same tokens in the same order.
        read = encoded['source_segment_ids'] > 0
        assert read.sum() == min(prefix, (before['segment_ids'] > 0).sum())
        npt.assert_array_equal(encoded['source'][read], before['inputs'][:prefix][: read.sum()])
        assert encoded['inputs'][0] == BOS
        rest = LENGTH - prefix + 1
        npt.assert_array_equal(encoded['inputs'][1:rest], before['inputs'][prefix:])
        npt.assert_array_equal(encoded['targets'][:rest], before['targets'][prefix - 1 :])
        npt.assert_array_equal(encoded['loss_weights'][:rest], scored[prefix - 1 :])
        assert not encoded['loss_weights'][rest:].any()
    assert min(cuts) <= 3
    assert max(cuts) >= LENGTH - 2


def test_a_tokenizer_without_a_token_for_blanks_is_refused():
    class Other:
        special = {0: '<s>', 1: '</s>'}

    with pytest.raises(UserError, match='no token that could stand for what is hidden'):
        blank_ids(Other)
    Other.special = {0: '<s>', 5: '[MASK]'}
    assert blank_ids(Other) == (5,)
    Other.special = {9: '<extra_id_10>', 19: '<extra_id_0>', 18: '<extra_id_1>'}
    assert blank_ids(Other) == (19, 18, 9)
    assert blank_ids(TOKENIZER) == tuple(MARKS)


def test_bytes_are_those_of_the_documents_where_tokens_do_not_add_up_to_them(store):
    """As with a causal model's evaluation, so that bits per byte compare for imported tokenizers as well."""

    class Imported:
        """Says that each token has a byte more than it has."""

        exact = False

        def __getattr__(self, name):
            return getattr(TOKENIZER, name)

        def token_bytes(self, token):
            return TOKENIZER.token_bytes(token) + b' '

    config = configure(PrefixLM())
    model = dataclasses.replace(config.model, num_layers=1, width=8, num_heads=1)
    config = dataclasses.replace(config, model=model)
    mesh, params = mesh_lib.one_device(), jax.jit(lambda: initial_model(model, 0))()
    exact, imported = (
        CorruptedEvaluator(config, tokenizer, [store], mesh).measure(params) for tokenizer in (TOKENIZER, Imported())
    )
    plain = TextEvaluator(config, Imported(), [store], mesh).measure(params)
    assert imported['bytes'] == plain['bytes'] and imported['tokens'] == exact['tokens']
    assert exact['bytes'] == store.num_bytes < 1.1 * imported['bytes']
