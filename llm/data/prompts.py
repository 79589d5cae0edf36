"""Prompts for learning from one's own responses.

    {"prompt": "text", ...}         a plain text, no roles
    {"prompt": [messages], ...}     a conversation that ends with the user's turn

Further fields are columns: a reward written in Python gets them.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Integer

from llm import chat
from llm.config import Config
from llm.data.batches import Batch
from llm.data.images import refuse
from llm.data.ragged import Ragged
from llm.data.rows import BadRow
from llm.tokenizer import Tokenizer

_TAKEN = ('prompts', 'completions')  # what a reward function gets anyway


class Prompt(NamedTuple):
    """One example."""

    ids: Int32[np.ndarray, 'tokens']
    text: str | list[chat.Message]  # as the row has it
    columns: dict[str, Any]  # its further fields

    @property
    def prompt(self) -> bytes:
        return self.ids.tobytes()


def parse(fields: dict[str, Any]) -> tuple[str | list[chat.Message], dict[str, Any]]:
    """A row as its prompt and its further fields.

    Raises:
        BadRow: with everything that is wrong.
    """
    found = [f'the field {name!r} has the name of something else; rename it' for name in _TAKEN if name in fields]
    if 'prompt' not in fields:
        raise BadRow('it has no prompt', *found)
    columns = dict(fields)
    prompt = columns.pop('prompt')
    if not isinstance(prompt, str):
        problems = chat.problems(prompt)
        if not problems and prompt[-1]['role'] != 'user':
            problems = ['the prompt must end with a message of the user']
        found += problems
    if found:
        raise BadRow(*found)
    return prompt, columns


def encode(tokenizer: Tokenizer, prompt: str | list[chat.Message]) -> list[int]:
    """The ids of a prompt, of either kind."""
    if isinstance(prompt, str):
        return chat.encode_text(tokenizer, prompt)
    return chat.encode_prompt(tokenizer, prompt, chat.EXAMPLES_DAY)


class PromptReader:
    """Rows to prompts, and what became of those that did not make it."""

    def __init__(self, config: Config, tokenizer: Tokenizer):
        self._room = config.data.sequence_length - config.objective.rollout.max_new_tokens
        self._tokenizer = tokenizer
        self._reads_images = config.model.image_size is not None
        self.dropped: Counter[str] = Counter()  # rows, by reason
        self.noted: Counter[str] = Counter()  # rows that were changed, by what was done

    def read(self, fields: dict[str, Any]) -> list[Prompt]:
        """The prompt of a row, or none if it was dropped.

        Raises:
            BadRow: see `parse`.
        """
        refuse(fields, self._reads_images)
        text, columns = parse(fields)
        ids = encode(self._tokenizer, text)
        if len(ids) > self._room:
            self.dropped['prompt_too_long'] += 1
            return []
        self.noted['more_in_messages'] += not isinstance(text, str) and chat.has_more(text)
        return [Prompt(np.array(ids, np.int32), text, columns)]

    def table(self, sources: Sequence[Sequence[Prompt]]) -> 'PromptTable':
        return PromptTable(self._room, sources)


class PromptTable:
    """Prompts for rollouts. Those of a source follow each other."""

    def __init__(self, width: int, sources: Sequence[Sequence[Prompt]]):
        self._width = width
        self._prompts = [prompt for source in sources for prompt in source]
        self._ids = Ragged([prompt.ids for prompt in self._prompts], np.int32)
        self._names = sorted({name for prompt in self._prompts for name in prompt.columns})
        self.edges = np.cumsum([0, *map(len, sources)]).tolist()  # rows [edges[i], edges[i + 1]) are of source i

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def largest_id(self) -> int:
        return self._ids.largest

    @property
    def statistics(self) -> dict[str, Any]:
        return {'examples': len(self), 'tokens': len(self._ids.values)}

    def rows(self, indices: Integer[np.ndarray, 'rows']) -> Batch:
        """`prompts` (B, P), `prompt_lengths` (B,) and `indices` (B,), P what rollouts leave of the window."""
        return {
            'prompts': self._ids.padded(indices, self._width),
            'prompt_lengths': self._ids.lengths[indices].astype(np.int32),
            'indices': np.asarray(indices, np.int32),
        }

    def prompt(self, index: int) -> list[int]:
        """The ids of a prompt."""
        return self._ids[index].tolist()

    def columns(self, indices: Integer[np.ndarray, 'rows']) -> dict[str, list]:
        """What a reward function is told: `prompts` as the rows have them, and every further field (or None)."""
        chosen = [self._prompts[i] for i in indices]
        columns = {name: [prompt.columns.get(name) for prompt in chosen] for name in self._names}
        return {'prompts': [prompt.text for prompt in chosen], **columns}

    def update(self, digest: Any) -> None:
        """Adds the content to a hash."""
        self._ids.update(digest)
        columns = [prompt.columns for prompt in self._prompts]
        digest.update(json.dumps(columns, sort_keys=True, default=repr).encode('utf-8', 'surrogatepass'))
