"""Examples for supervised fine-tuning: a conversation, or a prompt and its completion, as a row of tokens.

{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
{"prompt": "text", "completion": "text"}              one plain text, no roles
{"prompt": [messages], "completion": [messages]}      trained on the assistant of the completion alone
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Integer

from llm import chat
from llm.config import Config
from llm.data.batches import Batch
from llm.data.packing import pack
from llm.data.ragged import Ragged
from llm.data.rows import BadRow
from llm.errors import UserError
from llm.tokenizer import Tokenizer


class Instruction(NamedTuple):
    """One example."""

    ids: Int32[np.ndarray, 'tokens']
    mask: Bool[np.ndarray, 'tokens']  # the ids that are to be predicted

    @property
    def prompt(self) -> bytes:
        """What precedes the first answer, to be compared with others'."""
        return self.ids[: int(np.argmax(self.mask))].tobytes()


def parse(fields: dict[str, Any]) -> tuple[Any, Any]:
    """A row as (prompt, completion): two texts, or two lists of messages.

    The prompt of a row of `messages` is empty: every answer in it is trained on.

    Raises:
        BadRow: with everything that is wrong.
    """
    if 'completion' not in fields and 'messages' in fields:
        prompt, completion = [], fields['messages']
        found = chat.problems(completion)
    else:
        if missing := [name for name in ('prompt', 'completion') if name not in fields]:
            raise BadRow(f'it has no {" and no ".join(missing)}; give messages, or prompt and completion')
        prompt, completion = fields['prompt'], fields['completion']
        if isinstance(prompt, str) and isinstance(completion, str):
            if not completion:
                raise BadRow('there is nothing to train on: the completion is empty')
            return prompt, completion
        if not (isinstance(prompt, list) and isinstance(completion, list)):
            raise BadRow('prompt and completion must be two texts or two lists of messages')
        found = chat.problems(prompt) or chat.problems([*prompt, *completion])
        if not found and prompt[-1]['role'] != 'user':
            found = ['the prompt must end with a message of the user']
    if found:
        raise BadRow(*found)
    answers = [message for message in completion if message['role'] == 'assistant']
    if not any(message['content'] for message in answers):
        what = 'every message of the assistant is empty' if answers else 'there is no message of the assistant'
        raise BadRow(f'there is nothing to train on: {what}')
    return prompt, completion


class InstructionReader:
    """Rows to examples, and what became of those that did not make it."""

    def __init__(self, config: Config, tokenizer: Tokenizer):
        self._config, self._tokenizer = config, tokenizer
        self.dropped: Counter[str] = Counter()  # rows, by reason
        self.noted: Counter[str] = Counter()  # rows that were changed, by what was done
        if config.objective.packing and not config.data.document_masking:
            raise UserError(
                'data.document_masking is False; it must be True with objective.packing, or examples that share a row '
                'would see each other'
            )

    def read(self, fields: dict[str, Any]) -> list[Instruction]:
        """The example of a row, or none if it was dropped.

        Raises:
            BadRow: see `parse`.
        """
        prompt, completion = parse(fields)
        if isinstance(completion, str):
            ids, start, whole = chat.encode_completion(self._tokenizer, prompt, completion)
            self.noted['prompt_not_a_prefix'] += not whole
            mask = [i >= start for i in range(len(ids))]
        else:
            messages = [*prompt, *completion]
            self.noted['more_in_messages'] += chat.has_more(messages)
            ids, mask = chat.encode(self._tokenizer, messages, chat.EXAMPLES_DAY)
            if prompt:
                asked = chat.encode_prompt(self._tokenizer, prompt, chat.EXAMPLES_DAY)
                start = chat.common_prefix(asked, ids)
                mask[:start] = [False] * start
        room = self._config.data.sequence_length + 1  # the last id is a target alone
        if len(ids) > room:
            ids, mask = ids[:room], mask[:room]
            if not any(mask):
                self.dropped['completion_cut_away'] += 1
                return []
            self.noted['truncated'] += 1
        return [Instruction(np.array(ids, np.int32), np.array(mask, bool))]

    def table(self, sources: Sequence[Sequence[Instruction]]) -> 'InstructionTable':
        return InstructionTable(self._config, sources)


class InstructionTable:
    """Rows for training: one example in each, or packed. Those of a source follow each other."""

    def __init__(self, config: Config, sources: Sequence[Sequence[Instruction]]):
        self._length = config.data.sequence_length
        self._everything = config.objective.train_on == 'all'
        self._masking = config.data.document_masking
        examples = [example for source in sources for example in source]
        self._ids = Ragged([example.ids for example in examples], np.int32)
        self._masks = Ragged([example.mask for example in examples], bool)
        self._rows: list[list[int]] = []  # examples in each
        self.edges = [0]  # rows [edges[i], edges[i + 1]) are of source i
        first = 0
        for source in sources:
            sizes = [len(example.ids) - 1 for example in source]
            packed = pack(sizes, self._length) if config.objective.packing else [[i] for i in range(len(source))]
            self._rows += [[first + i for i in row] for row in packed]
            self.edges.append(len(self._rows))
            first += len(source)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def largest_id(self) -> int:
        return self._ids.largest

    @property
    def statistics(self) -> dict[str, Any]:
        tokens = len(self._ids.values) - len(self._ids)  # that are predicted, BOS is not
        trained = tokens if self._everything else int(self._masks.values.sum())
        sizes = {'examples': len(self._ids), 'tokens': tokens, 'trained_tokens': trained, 'rows': len(self)}
        return sizes | {'fill': tokens / (len(self) * self._length) if len(self) else 0.0}

    def rows(self, indices: Integer[np.ndarray, 'rows']) -> Batch:
        """A batch as in `llm.data.batches`; without document masking it has no segment ids and no positions."""
        shape = len(indices), self._length
        names = ('inputs', 'targets', 'segment_ids', 'positions')
        batch = {name: np.zeros(shape, np.int32) for name in names}  # PAD is 0
        batch['loss_weights'] = np.zeros(shape, np.float32)
        for r, index in enumerate(indices):
            start = 0
            for segment, example in enumerate(self._rows[index], start=1):
                ids = self._ids[example]
                end = start + len(ids) - 1
                here = r, slice(start, end)
                batch['inputs'][here], batch['targets'][here] = ids[:-1], ids[1:]
                batch['loss_weights'][here] = 1 if self._everything else self._masks[example][1:]
                batch['segment_ids'][here] = segment
                batch['positions'][here] = np.arange(end - start)
                start = end
        if not self._masking:
            del batch['segment_ids'], batch['positions']
        return batch

    def prompt(self, index: int) -> list[int]:
        """The ids of an example before the first one that is trained on."""
        return self._ids[index][: int(np.argmax(self._masks[index]))].tolist()

    def update(self, digest: Any) -> None:
        """Adds the content to a hash."""
        self._ids.update(digest)
        self._masks.update(digest)
