"""What a model is trained on, for people: conversations as they are tokenised, the trained tokens marked."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from llm.config import SFT, Config, DataConfig, ModelConfig, RewardModel
from llm.data import prompts
from llm.data.examples import DROPPED
from llm.data.instructions import InstructionReader
from llm.data.preferences import PreferenceReader
from llm.data.rows import BadRow, Row
from llm.errors import UserError
from llm.tokenizer import Tokenizer

_UNLIMITED = 1 << 24  # tokens: the window when none is asked for
_RESET = '\x1b[0m'
_TRAINED, _SPECIAL, _TRAINED_SPECIAL, _HEADING = '\x1b[30;42m', '\x1b[36m', '\x1b[1;30;42m', '\x1b[1m'
_MARKS = '⟦', '⟧'  # around what is trained on, where there is no colour


class Sequence(NamedTuple):
    """One row of tokens."""

    title: str
    ids: list[int]
    mask: list[bool]


@dataclass
class Counts:
    """What was shown."""

    rows: int = 0
    dropped: int = 0
    wrong: int = 0
    tokens: int = 0
    trained: int = 0

    def __str__(self) -> str:
        share = f' ({self.trained / self.tokens:.0%})' if self.tokens else ''
        parts = [
            f'{self.rows:,} row{"s" * (self.rows != 1)}',
            f'{self.tokens:,} tokens',
            f'{self.trained:,} trained on{share}',
        ]
        parts += [f'{count:,} {what}' for what, count in (('dropped', self.dropped), ('wrong', self.wrong)) if count]
        return ', '.join(parts)


class Viewer:
    """Shows rows of any kind: conversations, completions, preferences, rankings, prompts."""

    def __init__(self, tokenizer: Tokenizer, window: int = 0, colour: bool = False):
        """
        Args:
            tokenizer: the model's.
            window: `data.sequence_length`; what it cuts off is not shown. 0 cuts nothing.
            colour: mark with colours of a terminal, not with brackets.
        """
        window = window or _UNLIMITED
        base = Config(
            model=ModelConfig(context_length=window), data=DataConfig(sequence_length=window), objective=SFT()
        )
        self._tokenizer, self._colour = tokenizer, colour
        longest_first = sorted(tokenizer.special.values(), key=len, reverse=True)
        self._looks_special = re.compile('|'.join(map(re.escape, longest_first)) or '(?!)')
        self._instructions = InstructionReader(base, tokenizer)
        self._preferences = PreferenceReader(dataclasses.replace(base, objective=RewardModel()), tokenizer)
        self.counts = Counts()

    def show(self, rows: list[Row]) -> Iterator[str]:
        """The lines to print, row by row. A row that is wrong says so; `counts` has the sum."""
        for row in rows:
            self.counts.rows += 1
            try:
                if row.problem:
                    raise BadRow(row.problem)
                sequences, reason = self._sequences(row)
            except (BadRow, UserError) as error:
                self.counts.wrong += 1
                yield self._heading(row.where, f'wrong: {error}')
            else:
                self.counts.dropped += not sequences
                if not sequences:
                    yield self._heading(row.where, f'dropped: {reason}')
                for sequence in sequences:
                    trained = sum(sequence.mask)
                    self.counts.tokens += len(sequence.ids)
                    self.counts.trained += trained
                    about = f'{len(sequence.ids)} tokens, {trained} trained on'
                    yield self._heading(row.where, f'{sequence.title}: {about}' if sequence.title else about)
                    yield self._text(sequence)
            yield ''

    def _sequences(self, row: Row) -> tuple[list[Sequence], str]:
        """The rows of tokens, or none and the reason."""
        fields = row.fields
        if 'chosen' in fields or 'rejected' in fields or 'responses' in fields:
            titles = ('chosen', 'rejected') if 'chosen' in fields else itertools.repeat('response')
            examples, reason = _read(self._preferences, fields)
            found = [
                Sequence(f'{title}, score {_number(score)}', ids, [i >= start for i in range(len(ids))])
                for example in examples
                for title, ids, start, score in zip(titles, *example)
            ]
            return found, reason
        if 'prompt' in fields and 'completion' not in fields and 'messages' not in fields:
            text, _ = prompts.parse(fields)
            ids = prompts.encode(self._tokenizer, text)
            return [Sequence('prompt', ids, [False] * len(ids))], ''
        examples, reason = _read(self._instructions, fields)
        return [Sequence('', example.ids.tolist(), example.mask.tolist()) for example in examples], reason

    def _heading(self, where: str, about: str) -> str:
        return f'{_HEADING}{where}{_RESET}: {about}' if self._colour else f'{where}: {about}'

    def _text(self, sequence: Sequence) -> str:
        """Special tokens by name, the rest as text."""
        parts = []
        for trained, run in itertools.groupby(zip(sequence.ids, sequence.mask), key=lambda pair: pair[1]):
            marked = ''
            for special, ids in itertools.groupby((i for i, _ in run), key=self._tokenizer.special.__contains__):
                if special:
                    text = ''.join(map(self._tokenizer.piece, ids))
                else:
                    text = self._plain(self._tokenizer.decode(ids, continued=True))
                if self._colour:
                    style = (_TRAINED_SPECIAL if trained else _SPECIAL) if special else _TRAINED if trained else ''
                    # A background that is on at the end of a line would run on to the terminal's edge.
                    text = '\n'.join(f'{style}{line}{_RESET}' if style and line else line for line in text.split('\n'))
                marked += text
            parts.append(f'{_MARKS[0]}{marked}{_MARKS[1]}' if trained and not self._colour else marked)
        return ''.join(parts)

    def _plain(self, text: str) -> str:
        """Text fit for a terminal: control characters escaped, a backslash before what spells a special token."""
        text = ''.join(c if c.isprintable() or c == '\n' else repr(c)[1:-1] for c in text)
        return self._looks_special.sub(r'\\\g<0>', text)


def _number(x: float) -> str:
    """Without more digits than it needs; the 1e-30 of a preference without a margin is 0."""
    return f'{x:.6f}'.rstrip('0').rstrip('.')


def _read(reader: InstructionReader | PreferenceReader, fields: dict[str, Any]) -> tuple[list[Any], str]:
    """The examples of a row, or why there are none."""
    before = reader.dropped.copy()
    examples = reader.read(fields)
    return examples, ', '.join(DROPPED[reason] for reason in reader.dropped - before)
