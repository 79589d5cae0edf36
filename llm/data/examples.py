"""From rows of examples to batches, for every objective but plain text: read, drop duplicates, split, tokenise."""

import functools
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tqdm
from absl import logging
from jaxtyping import Integer

from llm.config import DPO, SFT, Config, Online, RewardModel
from llm.data import split
from llm.data.batches import Batch, random_order, read_ahead
from llm.data.instructions import InstructionReader, InstructionTable
from llm.data.preferences import PreferenceReader, PreferenceTable
from llm.data.prompts import PromptReader, PromptTable
from llm.data.rows import BadRow, Row, open_rows
from llm.errors import UserError
from llm.tokenizer import Tokenizer

Table = InstructionTable | PreferenceTable | PromptTable
Reader = InstructionReader | PreferenceReader | PromptReader

DROPPED = {  # what each reason means, for people
    'duplicates': 'equal to an earlier row',
    'completion_cut_away': 'the window of data.sequence_length ends before the completion begins',
    'prompt_fills_window': 'the prompt fills the window of data.sequence_length',
    'prompt_too_long': 'the prompt leaves no room for objective.rollout.max_new_tokens in data.sequence_length',
    'responses_equal': 'chosen and rejected are equal',
    'difference_cut_away': 'the responses differ only beyond the window of data.sequence_length',
    'no_preference': 'all responses have the same score',
}
_NOTED = {
    'truncated': 'were cut at the end of the window of data.sequence_length, so they do not end with <eos>',
    'responses_equal': 'had a response twice in their ranking; the better place counts',
    'more_in_messages': 'have messages with more than role and content; the rest is not used',
    'prompt_not_a_prefix': 'have a token that reaches over the end of the prompt; it counts as the completion',
}


@dataclass(frozen=True)
class Examples:
    """Examples that are ready to train on."""

    tokenizer: Tokenizer
    train: Table
    held_out: Table
    statistics: dict[str, Any]  # plain values, for summary.json

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over all examples: what decides every batch."""
        digest = hashlib.sha256()
        for table in (self.train, self.held_out):
            digest.update(json.dumps([int(edge) for edge in table.edges]).encode())
            table.update(digest)
        return digest.hexdigest()


def prepare_examples(config: Config, tokenizer: Tokenizer, needs_held_out: bool = True) -> Examples:
    """Makes the examples of a config ready.

    Args:
        config: `data.corpora` names the rows; `objective` says what they are.
        tokenizer: the model's.
        needs_held_out: whether there must be some to measure on.

    Raises:
        UserError: if a source is missing or empty, has a row that is wrong, has nothing to train on, or if nothing is
            held out; if the tokenizer knows more tokens than the model.
    """
    tokenizer.check_fits(config.model.vocab_size)
    reader = make_reader(config, tokenizer)
    train, held_out, sources = [], [], []
    seen: set[bytes] = set()
    for source in config.data.corpora:
        before = reader.dropped.copy()
        sides = [], []
        rows = tqdm.tqdm(open_rows(source, config.data), desc=f'tokenising {source}', file=sys.stderr, disable=None)
        for row, examples in read_rows(_unique(rows, seen, reader.dropped), reader):
            sides[split.is_held_out(row.identity)].extend(examples)
        dropped = reader.dropped - before
        if not sides[0]:
            raise UserError(_nothing_to_train_on(source, len(sides[1]), dropped))
        train.append(sides[0])
        held_out.append(sides[1])
        sources.append({'source': source, 'train': len(sides[0]), 'held_out': len(sides[1]), 'dropped': dict(dropped)})
    if needs_held_out and not any(held_out):
        raise UserError(
            f'none of the {sum(map(len, train))} examples is held out: a hash of its place chooses one row in '
            f'{split.HELD_OUT_ONE_IN}; give more rows'
        )
    _report(reader)
    tables = reader.table(train), reader.table(held_out)
    for table in tables:
        if table.largest_id >= config.model.vocab_size:
            raise UserError(
                f'the chat template writes token {table.largest_id}, beyond model.vocab_size '
                f'{config.model.vocab_size}; use the tokenizer that the model was trained with'
            )
    prompts = {example.prompt for source in train for example in source}
    statistics = {
        'train': tables[0].statistics,
        'held_out': tables[1].statistics,
        'held_out_prompts_in_train': sum(example.prompt in prompts for source in held_out for example in source),
        'dropped': dict(reader.dropped),
        'noted': {name: count for name, count in reader.noted.items() if count},
        'sources': sources,
        'tokenizer': {'vocab_size': tokenizer.vocab_size, 'sha256': tokenizer.digest},
    }
    return Examples(tokenizer, *tables, statistics)


def make_reader(config: Config, tokenizer: Tokenizer) -> Reader:
    """What reads rows for an objective."""
    if isinstance(config.objective, SFT):
        return InstructionReader(config, tokenizer)
    if isinstance(config.objective, RewardModel | DPO):
        return PreferenceReader(config, tokenizer)
    if isinstance(config.objective, Online):
        return PromptReader(config, tokenizer)
    raise ValueError(f'objective {config.objective.kind} learns from documents, not from rows of examples')


def read_rows(rows: Iterable[Row], reader: Reader) -> Iterator[tuple[Row, list[Any]]]:
    """The examples of each row.

    Raises:
        UserError: at the end, if a row is wrong: everything about the first of them, and how many more there are.
    """
    bad, first = 0, ''
    for row in rows:
        try:
            if row.problem:
                raise BadRow(row.problem)
            examples = reader.read(row.fields)
        except (BadRow, UserError) as error:
            bad += 1
            first = first or f'{row.where}: {error}'
            continue
        yield row, examples
    if bad:
        more = f' (and {bad - 1} more row{"s" * (bad > 2)} with something wrong)' if bad > 1 else ''
        raise UserError(f'{first}; repair or remove it{more}')


def _unique(rows: Iterable[Row], seen: set[bytes], dropped: Counter[str]) -> Iterator[Row]:
    """Passes on the rows that are not equal to an earlier one, of whatever source."""
    for row in rows:
        content = json.dumps(row.fields, sort_keys=True, default=repr)
        key = hashlib.sha256(content.encode('utf-8', 'surrogatepass')).digest()[:16]
        if row.problem or key not in seen:
            seen.add(key)
            yield row
        else:
            dropped['duplicates'] += 1


def _nothing_to_train_on(source: str, held_out: int, dropped: Counter[str]) -> str:
    reasons = [f'{held_out} held out'] if held_out else []
    reasons += [f'{count} dropped because {DROPPED[reason]}' for reason, count in dropped.items()]
    return f'{source} has nothing to train on: {", ".join(reasons) or "no rows"}; give it other rows, or more of them'


def _report(reader: Reader) -> None:
    for reason, count in sorted(reader.dropped.items()):
        logging.warning('%d row%s dropped: %s', count, 's' * (count != 1), DROPPED[reason])
    for what, count in sorted(reader.noted.items()):
        if count:
            logging.warning('%d row%s %s', count, 's' * (count != 1), _NOTED[what])


# ------------------------------------------------------------------------------------------------------------- batches


class ExampleBatches:
    """Training batches in a random order that is fixed by the config, as `llm.data.batches.TrainBatches` has it."""

    def __init__(self, config: Config, table: Table):
        """
        Args:
            config: `data.seed`, `data.weights` and `training.batch_size` decide.
            table: the training side.
        """
        self._table, self._batch_size = table, config.training.batch_size
        self._order = random_order(table.edges, config.data)

    @property
    def rows_per_epoch(self) -> int:
        return len(self._table)

    def batch(self, index: int) -> Batch:
        """Batch `index`, from 0 on without end."""
        return self.rows(index, 0, self._batch_size)

    def indices(self, index: int, start: int, stop: int) -> Integer[np.ndarray, 'rows']:
        """Which rows of the table are rows [start, stop) of batch `index`."""
        first = index * self._batch_size
        return np.array([self._order[i] for i in range(first + start, first + stop)], np.int64)

    def rows(self, index: int, start: int, stop: int) -> Batch:
        """Rows [start, stop) of batch `index`: what one of several processes loads."""
        return self._table.rows(self.indices(index, start, stop))

    def iterate(
        self, start_step: int, skipped: Sequence[Sequence[int]], rows: tuple[int, int] | None = None
    ) -> Iterator[Batch]:
        """The batches of step `start_step`, the next, and so on without end, made ahead by threads.

        Args:
            start_step: updates made so far.
            skipped: see `llm.data.batches.data_index`.
            rows: only rows [start, stop) of each batch.
        """
        return read_ahead(self.rows, start_step, skipped, *(rows or (0, self._batch_size)))


def held_out_batches(table: Table, batch_size: int, max_rows: int | None = None) -> Iterator[tuple[Batch, int]]:
    """The rows of a table in order, each once, with how many of a batch are real; the last is filled with empty ones.

    An empty row counts for nothing: its loss weights, lengths and scores are 0. An empty prompt is one token
    of padding, so that it can be continued like any other.

    Args:
        table: the held-out side.
        batch_size: rows of every batch.
        max_rows: only so many rows, evenly spread.
    """
    chosen = np.arange(len(table))
    if max_rows is not None and max_rows < len(chosen):
        chosen = chosen[np.arange(max_rows) * len(chosen) // max_rows]
    for first in range(0, len(chosen), batch_size):
        indices = chosen[first : first + batch_size]
        missing = batch_size - len(indices)
        batch = {
            name: np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
            for name, x in table.rows(indices).items()
        }
        if missing and 'prompts' in batch:
            batch['prompt_lengths'][len(indices) :] = 1
        yield batch, len(indices)
