import collections
import itertools
import re

import grain
import numpy as np
import pytest

from llm import tokenizer as tokenizer_lib
from llm.config import TokenizerConfig
from llm.data import batches as batches_lib
from llm.data.batches import TrainBatches, data_index, held_out_windows
from llm.data.corpora import Document
from llm.data.token_store import StoreWriter, TokenStore
from llm.errors import UserError

LENGTH = 8


@pytest.fixture
def make_store(tmp_path):
    tokenizer = tokenizer_lib.train(TokenizerConfig(kind='byte'), 272, [])

    def make(seed, documents=12, longest=30, first_byte=0):
        """A store of random documents; its stream has every token's neighbourhood differ."""
        draw = np.random.default_rng(seed)
        writer = StoreWriter(tmp_path / f'store{seed}-{documents}', f'store{seed}', tokenizer)
        for i in range(documents):
            text = bytes(draw.integers(first_byte, first_byte + 100, draw.integers(0, longest), dtype=np.uint8))
            writer.add(Document(f'{i}', text), tokenizer.encode(text))
        writer.finish()
        return TokenStore.open(tmp_path / f'store{seed}-{documents}')

    return make


def windows_by_definition(store, document_masking=True):
    """What each window holds, written down token by token."""
    stream, found = store.tokens.tolist(), []
    for start in range(0, len(stream) - 1, LENGTH):
        row = collections.defaultdict(list)
        segment, position = 1, -1
        for i in range(start, start + LENGTH):
            real = i + 1 < len(stream)
            if real and stream[i] == 1:
                segment, position = segment + (i > start), -1
            position += 1
            row['inputs'].append(stream[i] if real else 0)
            row['targets'].append(stream[i + 1] if real else 0)
            row['loss_weights'].append(float(real and stream[i + 1] != 1))
            if document_masking:
                row['segment_ids'].append(segment if real else 0)
                row['positions'].append(position if real else 0)
        found.append({name: tuple(values) for name, values in row.items()})
    return found


def rows_of(batch):
    return [{name: tuple(values[i].tolist()) for name, values in batch.items()} for i in range(len(batch['inputs']))]


def frozen(rows):
    return collections.Counter(tuple(sorted(row.items())) for row in rows)


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize('document_masking', [True, False])
@pytest.mark.parametrize('num_stores', [1, 3])
def test_every_epoch_has_each_window_once(make_store, configure, document_masking, num_stores):
    stores = [make_store(seed) for seed in range(num_stores)]
    batches = TrainBatches(configure({'document_masking': document_masking}, batch_size=5), stores)
    expected = [window for store in stores for window in windows_by_definition(store, document_masking)]
    assert batches.windows_per_epoch == len(expected)
    assert len(expected) % 5, 'a batch has to run over the end of an epoch'
    rows = [row for i in range(len(expected)) for row in rows_of(batches.batch(i))]  # five epochs
    epochs = [rows[i : i + len(expected)] for i in range(0, len(rows), len(expected))]
    assert len(epochs) == 5
    assert all(frozen(epoch) == frozen(expected) for epoch in epochs)
    assert epochs[0] != expected, 'shuffled'
    assert len({str(epoch) for epoch in epochs}) == 5, 'each epoch in its own order'


def test_no_token_is_dropped(make_store, configure):
    stores = [make_store(0), make_store(1)]
    batches = TrainBatches(configure(batch_size=1), stores)
    counted = collections.Counter()
    for i in range(batches.windows_per_epoch):
        batch = batches.batch(i)
        counted.update(batch['targets'][batch['loss_weights'] > 0].tolist())
    tokens = np.concatenate([store.tokens for store in stores])
    assert counted == collections.Counter(tokens[tokens != 1].tolist())
    assert counted.total() == batches.tokens_per_epoch == sum(store.num_tokens for store in stores)


def test_shapes_and_dtypes(make_store, configure):
    batch = TrainBatches(configure(batch_size=3), [make_store(0)]).batch(0)
    dtypes = {name: values.dtype.name for name, values in batch.items()}
    assert dtypes.pop('loss_weights') == 'float32'
    assert dtypes == dict.fromkeys(['inputs', 'targets', 'segment_ids', 'positions'], 'int32')
    assert {values.shape for values in batch.values()} == {(3, LENGTH)}


def test_without_document_masking_a_row_is_one_sequence(make_store, configure):
    """No segment ids and no positions; all else as with it."""
    stores = [make_store(0), make_store(1)]
    masked, plain = (TrainBatches(configure({'document_masking': on}), stores) for on in (True, False))
    held_out = lambda on: list(held_out_windows(stores[0], LENGTH, on, 5))
    for with_ids, without in [(masked.batch(0), plain.batch(0)), *zip(held_out(True), held_out(False))]:
        assert with_ids.keys() - without.keys() == {'segment_ids', 'positions'}
        assert_equal(without, {name: with_ids[name] for name in without})
    real = np.concatenate([batch['segment_ids'] > 0 for batch in held_out(True)])
    assert (real[:, :-1] >= real[:, 1:]).all(), 'padding is on the right, or a causal row could see it'


def test_a_batch_depends_on_config_and_index_alone(make_store, configure):
    stores = [make_store(0), make_store(1)]
    first, second = (TrainBatches(configure(), stores) for _ in range(2))
    forwards = [first.batch(i) for i in range(30)]
    for i in reversed(range(30)):
        assert_equal(second.batch(i), forwards[i])
    orders = {tuple(TrainBatches(configure({'seed': seed}), stores).window(i) for i in range(20)) for seed in range(5)}
    assert len(orders) == 5


def test_a_seed_is_not_another_seeds_next_epoch(make_store, configure):
    stores = [make_store(0)]
    zero, one = (TrainBatches(configure({'seed': seed}), stores) for seed in (0, 1))
    n = zero.windows_per_epoch
    assert [zero.window(n + i) for i in range(n)] != [one.window(i) for i in range(n)]


def test_rows_are_slices_of_the_batch(make_store, configure):
    batches = TrainBatches(configure(batch_size=6), [make_store(0), make_store(1)])
    for index in (0, 3, 17):
        whole = batches.batch(index)
        for start, stop in ((0, 6), (0, 2), (2, 6), (5, 6), (3, 3)):
            assert_equal(batches.rows(index, start, stop), {n: v[start:stop] for n, v in whole.items()})


def test_weights_set_the_shares(make_store, configure):
    stores = [make_store(0), make_store(1, documents=60), make_store(2)]
    config = configure({'corpora': ('a', 'b', 'c'), 'weights': (0.5, 0.2, 0.3)}, batch_size=10)
    batches = TrainBatches(config, stores)
    edges = np.cumsum([0] + [len(windows_by_definition(store)) for store in stores])
    windows = np.array([batches.window(i) for i in range(2000)])
    corpus = np.searchsorted(edges, windows, side='right') - 1
    np.testing.assert_allclose(np.bincount(corpus) / 2000, (0.5, 0.2, 0.3), atol=2e-3)
    for start in range(0, 2000, 200):  # evenly, all the way
        np.testing.assert_allclose(np.bincount(corpus[start : start + 200]) / 200, (0.5, 0.2, 0.3), atol=0.02)
    for i in range(3):  # each corpus goes through its own epochs
        own, size = windows[corpus == i] - edges[i], edges[i + 1] - edges[i]
        for start in range(0, len(own) - size, size):
            assert sorted(own[start : start + size]) == list(range(size))


def test_data_index_steps_over_what_is_skipped():
    skipped = [[2, 4], [4, 5], [9, 12]]
    left = [i for i in range(40) if not any(start <= i < end for start, end in skipped)]
    assert [data_index(step, skipped) for step in range(len(left))] == left
    assert [data_index(step, []) for step in range(5)] == list(range(5))


@pytest.mark.parametrize('threads', [0, 1, 5])
def test_iteration_is_the_batches_in_order_on_any_number_of_threads(make_store, configure, threads, monkeypatch):
    monkeypatch.setattr(batches_lib, '_READ', grain.ReadOptions(num_threads=threads, prefetch_buffer_size=7))
    batches = TrainBatches(configure(batch_size=6), [make_store(0)])
    skipped = [[3, 5], [8, 9]]
    for rows in (None, (2, 5)):
        got = list(itertools.islice(batches.iterate(2, skipped, rows), 12))
        for step, batch in enumerate(got, start=2):
            assert_equal(batch, batches.rows(data_index(step, skipped), *(rows or (0, 6))))


def test_a_corpus_smaller_than_a_window(make_store, configure):
    small = make_store(0, documents=1, longest=4)
    with pytest.raises(UserError, match=r'store0 has \d+ tokens .*data\.sequence_length 8'):
        TrainBatches(configure(), [make_store(1), small])


# ----------------------------------------------------------------------------------------------------------- held out


@pytest.mark.parametrize('stride', [None, 8, 5, 3, 1])
@pytest.mark.parametrize('batch_size', [1, 4, 1000])
def test_every_held_out_target_counts_once_and_in_order(make_store, stride, batch_size):
    store = make_store(0)
    targets = []
    for batch in held_out_windows(store, LENGTH, True, batch_size, stride):
        assert batch['inputs'].shape == (batch_size, LENGTH)
        targets += batch['targets'][batch['loss_weights'] > 0].tolist()
    assert targets == [token for token in store.tokens.tolist() if token != 1]


def test_a_stride_gives_context(make_store):
    store, stride = make_store(0), 3
    stream = store.tokens.tolist()
    rows = [row for batch in held_out_windows(store, LENGTH, False, 4, stride) for row in rows_of(batch)]
    for k, row in enumerate(rows):
        real = min(LENGTH, len(stream) - 1 - k * stride)
        assert list(row['inputs'][:real]) == stream[k * stride :][:real]
        assert k == 0 or not any(row['loss_weights'][: LENGTH - stride])


def test_held_out_windows_are_the_stream_cut_up(make_store):
    store = make_store(0)
    rows = [row for batch in held_out_windows(store, LENGTH, True, 5) for row in rows_of(batch)]
    expected = windows_by_definition(store)
    assert rows[: len(expected)] == expected
    assert len(rows) % 5 == 0
    assert all(not any(row['loss_weights']) and not any(row['segment_ids']) for row in rows[len(expected) :])


def test_held_out_text_shorter_than_a_window_is_padded(make_store):
    store = make_store(0, documents=1, longest=4)
    [batch] = held_out_windows(store, 64, True, 2)
    assert batch['loss_weights'].sum() == store.num_tokens
    assert (batch['segment_ids'] > 0).sum() == len(store.tokens) - 1


def test_a_sample_of_held_out_windows_is_spread_evenly(make_store):
    store = make_store(0, documents=40)
    everything = windows_by_definition(store)
    rows = [r for batch in held_out_windows(store, LENGTH, True, 4, max_windows=9) for r in rows_of(batch)]
    chosen = [everything.index(row) for row in rows[:9]]
    assert not any(any(row['loss_weights']) for row in rows[9:])
    assert chosen == [i * len(everything) // 9 for i in range(9)]


@pytest.mark.parametrize('stride', [0, 9, -1])
def test_a_stride_outside_the_window_is_refused(make_store, stride):
    with pytest.raises(UserError, match=re.escape(f'the stride is {stride}; it must be in [1, 8]')):
        next(held_out_windows(make_store(0), LENGTH, True, 4, stride))
