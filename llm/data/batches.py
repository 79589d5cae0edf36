"""Token stores to batches: every batch is a pure function of the config and its index.

A store is one flat stream `BOS document EOS BOS document EOS ...`. Window w of T tokens has inputs stream[wT : wT+T]
and targets stream[wT+1 : wT+T+1]; so every token is a target of exactly one window. A BOS as target has weight 0, since
the documents' order means nothing; the last window is padded with weight 0.

A batch is a dictionary of arrays, B rows of T tokens:

    inputs         (B, T) int32
    targets        (B, T) int32
    loss_weights   (B, T) float32, 1 where the target counts, else 0
    segment_ids    (B, T) int32, 1, 2, ... per document within the row; 0 is padding
    positions      (B, T) int32, from 0 in each document within the row

Without document masking there are no `segment_ids` and no `positions`: a row is one causal sequence counted from its
start. Padding is on the right and has weight 0, so no target that counts sees it.
"""

import sys
from collections.abc import Callable, Iterator, Sequence

import grain
import numpy as np
from jaxtyping import Float32, Int32, Int64

from llm.config import Config, DataConfig
from llm.data.token_store import TokenStore
from llm.errors import UserError

PADDING = 0  # a token that every model knows; what it is makes no difference
Batch = dict[str, Int32[np.ndarray, 'batch length'] | Float32[np.ndarray, 'batch length']]

_READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)  # batches made ahead of the training step


class TrainBatches:
    """Training batches in a random order that is fixed by the config.

    Without weights, an epoch is a permutation of all windows of all corpora. With weights, each corpus is permuted on
    its own, epoch after epoch, and grain deals them out in the given proportions; `windows_per_epoch` then still counts
    every window once. Permutations are computed, not stored (`grain.MapDataset.shuffle`), and batches run on across the
    ends of epochs, so no window is left out.
    """

    def __init__(self, config: Config, stores: Sequence[TokenStore], numbered: bool = False):
        """
        Args:
            config: `data` and `training.batch_size` decide.
            stores: the training store of each corpus.
            numbered: whether batches also say which `windows` (batch,) their rows are.

        Raises:
            UserError: if a corpus does not fill one window.
        """
        self._length = config.data.sequence_length
        self._batch_size = config.training.batch_size
        self._document_masking = config.data.document_masking
        self._stores = list(stores)
        self._numbered = numbered
        for store in stores:
            if len(store.tokens) - 1 < self._length:
                raise UserError(
                    f'{store.source} has {len(store.tokens) - 1} tokens to train on, fewer than one window of '
                    f'data.sequence_length {self._length}; shorten that, or give it more text'
                )
        windows = [_num_windows(store, self._length) for store in stores]
        self._first_window = np.cumsum([0, *windows])  # of each store, when all windows are numbered through
        self._order = random_order(self._first_window, config.data)

    @property
    def windows_per_epoch(self) -> int:
        """Windows of all corpora."""
        return int(self._first_window[-1])

    @property
    def tokens_per_epoch(self) -> int:
        """Targets of weight 1 in all windows."""
        return sum(store.num_tokens for store in self._stores)

    def window(self, number: int) -> int:
        """Which window comes as the `number`-th, counted through all corpora."""
        return self._order[number]

    def batch(self, index: int) -> Batch:
        """Batch `index`, from 0 on without end."""
        return self.rows(index, 0, self._batch_size)

    def rows(self, index: int, start: int, stop: int) -> Batch:
        """Rows [start, stop) of batch `index`: what one of several processes loads."""
        first = index * self._batch_size
        windows = np.array([self._order[i] for i in range(first + start, first + stop)], np.int64)
        return self.cut(windows) | ({'windows': windows} if self._numbered else {})

    def cut(self, windows: Int64[np.ndarray, 'rows']) -> Batch:
        """Windows by their numbers, which run through all corpora."""
        store_of_row = np.searchsorted(self._first_window, windows, side='right') - 1
        batch = _empty(len(windows), self._length, self._document_masking)
        for i, store in enumerate(self._stores):
            here = store_of_row == i
            if here.any():
                starts = (windows[here] - self._first_window[i]) * self._length
                for name, rows in _cut(store, starts, self._length, self._document_masking).items():
                    batch[name][here] = rows
        return batch

    def iterate(
        self, start_step: int, skipped: Sequence[Sequence[int]], rows: tuple[int, int] | None = None
    ) -> Iterator[Batch]:
        """The batches of step `start_step`, the next, and so on without end, made ahead by threads.

        Args:
            start_step: updates made so far.
            skipped: see `data_index`.
            rows: only rows [start, stop) of each batch.
        """
        return read_ahead(self.rows, start_step, skipped, *(rows or (0, self._batch_size)))


def random_order(edges: Sequence[int], config: DataConfig) -> grain.MapDataset:
    """The order in which rows come, without end: item i is the number of the i-th row.

    Args:
        edges: rows [edges[i], edges[i + 1]) are those of corpus i.
        config: `seed` and `weights` decide.
    """
    seeds = np.random.SeedSequence(config.seed).generate_state(len(edges))  # unlike seed, seed + 1, ...
    if not config.weights:
        return grain.MapDataset.range(int(edges[-1])).shuffle(seed=int(seeds[0])).repeat()
    parts = [
        grain.MapDataset.range(int(start), int(end)).shuffle(seed=int(seed)).repeat()
        for start, end, seed in zip(edges, edges[1:], seeds[1:])
    ]
    return grain.MapDataset.mix(parts, list(config.weights))


def read_ahead(
    rows: Callable[[int, int, int], Batch], start_step: int, skipped: Sequence[Sequence[int]], start: int, stop: int
) -> Iterator[Batch]:
    """Rows [start, stop) of the batches from step `start_step` on, made ahead by threads."""
    steps = grain.MapDataset.range(start_step, sys.maxsize)
    batches = steps.map(lambda step: rows(data_index(step, skipped), start, stop))
    return iter(batches.to_iter_dataset(_READ))


def data_index(step: int, skipped: Sequence[Sequence[int]]) -> int:
    """Which batch step `step` trains on, when some are left out.

    Args:
        step: updates made before it.
        skipped: ranges [start, end) of batch indices, sorted and apart from each other.
    """
    index = step
    for start, end in skipped:
        if index >= start:
            index += end - start
    return index


def held_out_windows(
    store: TokenStore,
    sequence_length: int,
    document_masking: bool,
    batch_size: int,
    stride: int | None = None,
    max_windows: int | None = None,
) -> Iterator[Batch]:
    """The held-out text in order, every target counted exactly once; the last batch is filled with rows of weight 0.

    Args:
        store: held-out documents.
        sequence_length: tokens in a window.
        document_masking: as in training.
        batch_size: windows in a batch.
        stride: how far a window starts after the previous one, at most `sequence_length` (the default: windows follow
            each other, and each starts without context). Of all windows but the first, only the last `stride` targets
            count, so these have at least `sequence_length - stride` tokens of context.
        max_windows: only so many windows, evenly spread.
    """
    stride = sequence_length if stride is None else stride
    if not 1 <= stride <= sequence_length:
        raise UserError(f'the stride is {stride}; it must be in [1, {sequence_length}], the length of a window')
    count = 1 + max(0, -(-(len(store.tokens) - 1 - sequence_length) // stride))
    windows = np.arange(count)
    if max_windows is not None and max_windows < count:
        windows = windows[np.arange(max_windows) * count // max_windows]
    for first in range(0, len(windows), batch_size):
        chosen = windows[first : first + batch_size]
        batch = _empty(batch_size, sequence_length, document_masking)
        for name, rows in _cut(store, chosen * stride, sequence_length, document_masking).items():
            batch[name][: len(chosen)] = rows
        batch['loss_weights'][: len(chosen)][chosen > 0, : sequence_length - stride] = 0
        yield batch


def _num_windows(store: TokenStore, length: int) -> int:
    return -(-(len(store.tokens) - 1) // length)


def _empty(rows: int, length: int, document_masking: bool) -> Batch:
    """Padding only."""
    batch = {name: np.full((rows, length), PADDING, np.int32) for name in ('inputs', 'targets')}
    batch['loss_weights'] = np.zeros((rows, length), np.float32)
    if document_masking:
        batch |= {name: np.zeros((rows, length), np.int32) for name in ('segment_ids', 'positions')}
    return batch


def _cut(store: TokenStore, starts: Int64[np.ndarray, 'rows'], length: int, document_masking: bool) -> Batch:
    """Rows of `length` tokens from the given places of a store's stream."""
    place = starts[:, None] + np.arange(length + 1)
    last = len(store.tokens) - 1
    tokens = store.tokens[np.minimum(place, last)].astype(np.int32)
    real = place[:, 1:] <= last  # has a target
    starts = store.is_start(np.minimum(place, last))
    inputs, targets = (np.where(real, side, PADDING) for side in (tokens[:, :-1], tokens[:, 1:]))
    rows = {'inputs': inputs, 'targets': targets, 'loss_weights': (real & ~starts[:, 1:]).astype(np.float32)}
    if not document_masking:
        return rows
    is_start = starts[:, :-1] & real
    is_start[:, 0] = True  # or the rest of a document that began before the row
    segment_ids = np.cumsum(is_start, axis=1, dtype=np.int32)
    steps = np.broadcast_to(np.arange(length, dtype=np.int32), real.shape)
    positions = steps - np.maximum.accumulate(np.where(is_start, steps, 0), axis=1)
    return rows | {'segment_ids': np.where(real, segment_ids, 0), 'positions': np.where(real, positions, 0)}
