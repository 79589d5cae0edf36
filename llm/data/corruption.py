"""Windows of text of which the model sees a part: what is hidden, and what is to be guessed.

Each objective hides in its own way; what comes out is a batch like any other (see `llm.data.batches`), for the loss of
`llm.objectives.next_token`:

    masked           some tokens are replaced; targets are the tokens themselves, weighted where they were chosen
    prefix_lm        the window is cut in two; targets are the next tokens of the second part
    span_corruption  runs of tokens are taken out, and a blank put in the place of each; targets are the blanks, each
                     with what stood in it, and an end

What a row becomes is a pure function of the row and of the numbers its random generator starts from: of training, the
seed, the batch's index and the row's place in it; of held-out text, the text. Further arrays of a batch, B rows:

    text_tokens         (B,) int32, tokens of the window that would be targets if nothing were hidden
    prefix_lengths      (B,) int32, columns that see each other, without an encoder
    source              (B, S) int32, what the encoder reads, with source_segment_ids and source_positions

Special tokens are never hidden and no blank reaches over the border of two documents.
"""

import itertools
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int32

from llm.config import Config, Corrupted, Masked, PrefixLM
from llm.data.batches import PADDING, Batch, TrainBatches
from llm.data.token_store import TokenStore
from llm.errors import UserError
from llm.tokenizer import Tokenizer

Row = dict[str, np.ndarray]


class Corruption:
    """What an objective makes of windows of text."""

    def __init__(self, config: Config, tokenizer: Tokenizer):
        """
        Args:
            config: the objective, whether there is an encoder, and the length of a window.
            tokenizer: has the tokens that stand for what is hidden.

        Raises:
            UserError: if it has none.
        """
        self._objective: Corrupted = config.objective
        self._encoder = config.model.encoder_layers > 0
        self._length = config.data.sequence_length
        self._start = tokenizer.start_id
        if not isinstance(self._objective, PrefixLM):
            self._blanks = blank_ids(tokenizer)
            self._end = tokenizer.end_id
        known = np.arange(tokenizer.vocab_size)
        self._special = np.isin(known, list(tokenizer.special))
        self._ordinary = known[~self._special]  # what a token may be replaced by

    def __call__(self, batch: Batch, seeds: Sequence[Sequence[int]]) -> Batch:
        """Hides a part of each row.

        Args:
            batch: windows, as `llm.data.batches` cuts them.
            seeds: for each row, what its random generator starts from.
        """
        rows = []
        for place, seed in enumerate(seeds):
            row = {name: x[place] for name, x in batch.items()}
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(list(seed))))
            rows.append(self._corrupt(rng, row) | {'text_tokens': np.int32(row['loss_weights'].sum())})
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def held_out(self, batch: Batch) -> Batch:
        """The same, each row from its own text: whoever measures it, whenever, has the same hidden."""
        texts = (np.append(row, target[-1]) for row, target in zip(batch['inputs'], batch['targets'], strict=True))
        return self(batch, [(zlib.crc32(text.tobytes()),) for text in texts])

    def with_prefix(self, batch: Batch, prefix: int) -> Batch:
        """Rows of a prefix LM that are all cut behind their first `prefix` tokens; with 1, nothing is given away."""
        rows = [
            self._cut({name: x[place] for name, x in batch.items()}, prefix) for place in range(len(batch['inputs']))
        ]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _corrupt(self, rng: np.random.Generator, row: Row) -> Row:
        if isinstance(self._objective, Masked):
            return self._mask(rng, row)
        if isinstance(self._objective, PrefixLM):
            return self._cut(row, int(rng.integers(1, self._length, endpoint=True)))
        return self._take_out(rng, row)

    # ------------------------------------------------------------------------------------------------------- masked

    def _mask(self, rng: np.random.Generator, row: Row) -> Row:
        """`rate` of the ordinary tokens are chosen; most are replaced by the mask token, some by any, some by none."""
        tokens, objective = row['inputs'], self._objective
        places = np.flatnonzero(self._may_be_hidden(row))
        count = min(max(round(len(places) * objective.rate), 1), len(places))
        chosen = rng.choice(places, count, replace=False)
        draw = rng.random(count)
        inputs, weights = tokens.copy(), np.zeros(len(tokens), np.float32)
        inputs[chosen[draw < objective.masked]] = self._blanks[0]
        anything = chosen[(objective.masked <= draw) & (draw < objective.masked + objective.random)]
        inputs[anything] = rng.choice(self._ordinary, len(anything))
        weights[chosen] = 1
        return row | {'inputs': inputs, 'targets': tokens, 'loss_weights': weights}

    def _may_be_hidden(self, row: Row) -> Bool[np.ndarray, 'length']:
        real = _segments(row) > 0
        return real & ~self._special[np.where(real, row['inputs'], 0)]

    # ------------------------------------------------------------------------------------------------------- prefix

    def _cut(self, row: Row, prefix: int) -> Row:
        """The first `prefix` tokens are read, the others are predicted by those before them."""
        steps = np.arange(self._length, dtype=np.int32)
        weights = np.where(steps >= prefix - 1, row['loss_weights'], np.float32(0))
        if not self._encoder:
            return row | {'loss_weights': weights, 'prefix_lengths': np.int32(prefix)}
        segments, positions = _segments(row), row.get('positions', steps)
        read = steps < prefix
        # Column i of the decoder reads token prefix - 1 + i, and predicts the next; the first one is in the source, and
        # what starts a text takes its place.
        places = np.minimum(prefix - 1 + steps, self._length - 1)
        there = prefix - 1 + steps < self._length
        taken = lambda x: np.where(there, x[places], 0).astype(x.dtype)
        inputs = taken(row['inputs'])
        inputs[0] = self._start
        return {
            'inputs': inputs,
            'targets': taken(row['targets']),
            'loss_weights': taken(weights),
            'segment_ids': taken(segments),
            'positions': np.where(there, steps, 0),
            'source': np.where(read, row['inputs'], PADDING),
            'source_segment_ids': np.where(read, segments, 0),
            'source_positions': np.where(read, positions, 0),
        }

    # -------------------------------------------------------------------------------------------------------- spans

    def _take_out(self, rng: np.random.Generator, row: Row) -> Row:
        """Runs of tokens are taken out; a run that would not fit what is written stays where it is."""
        hidden = random_spans(rng, self._may_be_hidden(row), *self._objective.blanks(self._length))
        source, target = [], []  # (tokens, segment) of each
        room = self._objective.target_length(self._length)
        segments = _segments(row)
        for segment in range(1, int(segments.max()) + 1):
            (places,) = np.nonzero(segments == segment)
            read, written = [], []
            for run, is_hidden in _runs(hidden[places]):
                tokens = row['inputs'][places[run]].tolist()
                needed = len(tokens) + 1 + (not written)  # a blank, and once an end
                if not is_hidden or needed > room:
                    read += tokens
                    continue
                room -= needed
                blank = self._blanks[sum(token in self._blanks for token in written) % len(self._blanks)]
                read.append(blank)
                written += [blank, *tokens]
            source.append(read)
            target.append([*written, self._end] if written else [])
        return self._read_and_write(source, target)

    def _read_and_write(self, source: list[list[int]], target: list[list[int]]) -> Row:
        """Documents, one behind the other: what is read of each, and what is written."""
        width = self._objective.target_length(self._length)
        starts = [[self._start, *written[:-1]] if written else [] for written in target]
        read = _columns(source, self._length)
        written = _columns(starts, width)
        targets = _columns(target, width)['tokens']
        weights = (written['segment_ids'] > 0).astype(np.float32)
        if self._encoder:
            names = {'tokens': 'source', 'segment_ids': 'source_segment_ids', 'positions': 'source_positions'}
            return {names[name]: x for name, x in read.items()} | {
                'inputs': written['tokens'],
                'targets': targets,
                'loss_weights': weights,
                'segment_ids': written['segment_ids'],
                'positions': written['positions'],
            }
        # Without an encoder: behind the columns that are read, and counted on from the last token of the document.
        lengths = np.array([0, *map(len, source)], np.int32)
        written['positions'] = np.where(weights > 0, written['positions'] + lengths[written['segment_ids']], 0)
        nothing = np.zeros(self._length)
        return {
            'inputs': np.concatenate([read['tokens'], written['tokens']]),
            'targets': np.concatenate([nothing.astype(np.int32), targets]),
            'loss_weights': np.concatenate([nothing.astype(np.float32), weights]),
            'segment_ids': np.concatenate([read['segment_ids'], written['segment_ids']]),
            'positions': np.concatenate([read['positions'], written['positions']]),
            'prefix_lengths': np.int32(self._length),
        }


class CorruptedBatches(TrainBatches):
    """Training batches of which a part is hidden: another part each time that a window comes."""

    def __init__(self, config: Config, stores: Sequence[TokenStore], tokenizer: Tokenizer):
        """
        Args:
            config: the run's.
            stores: the training store of each corpus.
            tokenizer: the run's.

        Raises:
            UserError: if a corpus does not fill one window, or the tokenizer has nothing to put for what is hidden.
        """
        super().__init__(config, stores)
        self._corruption, self._seed = Corruption(config, tokenizer), config.data.seed

    def rows(self, index: int, start: int, stop: int) -> Batch:
        """Rows [start, stop) of batch `index`: what one of several processes loads."""
        plain = super().rows(index, start, stop)
        return self._corruption(plain, [(self._seed, index, row) for row in range(start, stop)])


def blank_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that stand for what is hidden; the first is the mask token of `masked`.

    Ours has eight reserved ones; the blanks of a text take them in turn. Of tokenizers from elsewhere those that are
    called so by their makers (BERT's [MASK], T5's <extra_id_0> ...).

    Raises:
        UserError: if there is none.
    """
    found = {name: i for i, name in tokenizer.special.items()}
    names = [name for name in found if name.startswith(('<|reserved_', '<extra_id_'))]
    names = sorted(names, key=lambda name: (len(name), name)) or [n for n in ('<mask>', '[MASK]') if n in found]
    if not names:
        raise UserError(
            'the tokenizer has no token that could stand for what is hidden (such as <mask>); use a tokenizer that has '
            'one, or objective prefix_lm, which hides nothing'
        )
    return tuple(found[name] for name in names)


def random_spans(
    rng: np.random.Generator, allowed: Bool[np.ndarray, 'length'], hidden: int, spans: int
) -> Bool[np.ndarray, 'length']:
    """Which places are hidden: so many of those allowed, in so many runs, as Raffel et al. 2020 draw them.

    The hidden tokens are cut into `spans` parts of at least one, all ways equally likely; so are the others into as
    many, and the two are dealt out in turn, the others first. A run that meets places that are not allowed is broken by
    them; where fewer are allowed than a whole window has, fewer are hidden in proportion.
    """
    (places,) = np.nonzero(allowed)
    hidden = min(round(hidden * len(places) / len(allowed)), len(places) - 1)
    spans = min(spans, hidden, len(places) - hidden)
    result = np.zeros(len(allowed), bool)
    if spans < 1:
        return result
    parts = np.stack([_parts(rng, len(places) - hidden, spans), _parts(rng, hidden, spans)], axis=1)
    result[places] = np.repeat(np.tile([False, True], spans), parts.reshape(-1))
    return result


def _parts(rng: np.random.Generator, total: int, parts: int) -> Int32[np.ndarray, 'parts']:
    """`total` as a sum of `parts` numbers of at least 1, all ways equally likely."""
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total).astype(np.int32)


def _runs(flags: Bool[np.ndarray, 'length']) -> list[tuple[slice, bool]]:
    """The stretches of equal flags, in order."""
    edges = [0, *(np.flatnonzero(flags[1:] != flags[:-1]) + 1).tolist(), len(flags)]
    return [(slice(start, end), bool(flags[start])) for start, end in itertools.pairwise(edges) if end > start]


def _columns(documents: list[list[int]], width: int) -> Row:
    """Documents in one row of `width` columns: tokens, segment ids from 1 and positions from 0 in each."""
    row = {name: np.zeros(width, np.int32) for name in ('tokens', 'segment_ids', 'positions')}
    row['tokens'][:] = PADDING
    at = 0
    for segment, tokens in enumerate(documents, start=1):
        span = slice(at, at + len(tokens))
        row['tokens'][span], row['segment_ids'][span] = tokens, segment
        row['positions'][span] = np.arange(len(tokens))
        at += len(tokens)
    return row


def _segments(row: Row) -> Int32[np.ndarray, 'length']:
    """Which document each token is of, 0 for padding; without document masking a window is one."""
    if 'segment_ids' in row:
        return row['segment_ids']
    (real,) = np.nonzero((row['loss_weights'] > 0) | (row['inputs'] != PADDING) | (row['targets'] != PADDING))
    return (np.arange(len(row['inputs'])) <= (real[-1] if len(real) else -1)).astype(np.int32)
