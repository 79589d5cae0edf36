"""Examples for supervised fine-tuning: a conversation, or a prompt and its completion, as a row of tokens.

{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}
{"prompt": "text", "completion": "text"}              one plain text, no roles
{"prompt": [messages], "completion": [messages]}      trained on the assistant of the completion alone
{"prompt": "text", "completion": "text", "images": [images]}      see `llm.data.images`
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Integer

from llm import chat
from llm.config import Config
from llm.data import images
from llm.data.batches import Batch
from llm.data.images import Image, ImagePrompt, ImageTable
from llm.data.packing import pack
from llm.data.ragged import Ragged
from llm.data.rows import BadRow
from llm.errors import UserError
from llm.tokenizer import Tokenizer


class Instruction(NamedTuple):
    """One example."""

    ids: Int32[np.ndarray, 'tokens']
    mask: Bool[np.ndarray, 'tokens']  # the ids that are to be predicted
    patches: Int32[np.ndarray, 'tokens'] | None = None  # which are patches of its images, see `llm.model.patches`
    images: tuple[Image, ...] = ()

    @property
    def prompt(self) -> bytes:
        """What precedes the first answer, to be compared with others'."""
        return b''.join([self.ids[: int(np.argmax(self.mask))].tobytes(), *(image.tobytes() for image in self.images)])


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
        patches, pictures = None, ()
        if 'images' in fields:
            if not isinstance(completion, str):
                raise BadRow('images go with a prompt and a completion that are texts, not messages')
            model = self._config.model
            pictures = images.read_all(fields['images'], model)
            ids, patches, start, whole = images.encode_completion(self._tokenizer, prompt, completion, pictures, model)
            self.noted['prompt_not_a_prefix'] += not whole
            mask = [i >= start for i in range(len(ids))]
        elif isinstance(completion, str):
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
        if patches is not None:
            patches = np.array(patches[: len(ids)], np.int32)
        return [Instruction(np.array(ids, np.int32), np.array(mask, bool), patches, pictures)]

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
        self._images = None
        if any(example.images for example in examples):
            text = lambda example: np.zeros(len(example.ids), np.int32)
            self._images = ImageTable(
                [example.images for example in examples],
                [text(example) if example.patches is None else example.patches for example in examples],
            )
        self._rows: list[list[int]] = []  # examples in each
        self.edges = [0]  # rows [edges[i], edges[i + 1]) are of source i
        first = 0
        for source in sources:
            sizes = [len(example.ids) - 1 for example in source]
            packed = pack(sizes, self._length) if config.objective.packing else [[i] for i in range(len(source))]
            self._rows += [[first + i for i in row] for row in packed]
            self.edges.append(len(self._rows))
            first += len(source)
        if self._images is not None:
            self._most_images = max(int(self._images.counts[row].sum()) for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def largest_id(self) -> int:
        return self._ids.largest

    @property
    def statistics(self) -> dict[str, Any]:
        tokens = len(self._ids.values) - len(self._ids)  # that are predicted, BOS is not
        trained = int(self._masks.values.sum())
        if self._everything:
            trained = tokens - (0 if self._images is None else self._images.tokens)
        sizes = {'examples': len(self._ids), 'tokens': tokens, 'trained_tokens': trained, 'rows': len(self)}
        if self._images is not None:
            sizes['images'] = len(self._images)
        return sizes | {'fill': tokens / (len(self) * self._length) if len(self) else 0.0}

    def rows(self, indices: Integer[np.ndarray, 'rows']) -> Batch:
        """A batch as in `llm.data.batches`; without document masking it has no segment ids and no positions.

        If any example of the table has images: also `patches` (B, T), see `llm.model.patches`, and `images`
        (B, N, H, W, C), N the most that a row of the table has.
        """
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
                batch['loss_weights'][here] = self._counts(example)
                batch['segment_ids'][here] = segment
                batch['positions'][here] = np.arange(end - start)
                start = end
        if self._images is not None:
            batch |= self._with_images(indices)
        if not self._masking:
            del batch['segment_ids'], batch['positions']
        return batch

    def _counts(self, example: int) -> Bool[np.ndarray, 'targets']:
        """Which of an example's targets are trained on; a patch is read, and there is no token that it would be."""
        if not self._everything:
            return self._masks[example][1:]
        if self._images is None:
            return np.ones(len(self._ids[example]) - 1, bool)
        return self._images.patches(example)[1:] == 0

    def _with_images(self, indices: Integer[np.ndarray, 'rows']) -> Batch:
        """What rows with images have more than others."""
        pixels = np.zeros((len(indices), self._most_images, *self._images.shape), np.float32)
        patches = np.zeros((len(indices), self._length), np.int32)
        for r, index in enumerate(indices):
            start = count = before = 0  # tokens, images and patches of the row's examples so far
            for example in self._rows[index]:
                own = self._images.images(example)
                places = self._images.patches(example)[:-1]  # the last id is a target alone
                patches[r, start : start + len(places)] = np.where(places > 0, places + before, 0)
                pixels[r, count : count + len(own)] = own
                start, count, before = start + len(places), count + len(own), before + int(places.max(initial=0))
        return {'patches': patches, 'images': pixels}

    def prompt(self, index: int) -> list[int] | ImagePrompt:
        """The ids of an example before the first one that is trained on, with its images if it has some."""
        end = int(np.argmax(self._masks[index]))
        ids = self._ids[index][:end].tolist()
        if self._images is None or not self._images.counts[index]:
            return ids
        return ImagePrompt(ids, self._images.patches(index)[:end].tolist(), tuple(self._images.images(index)))

    def update(self, digest: Any) -> None:
        """Adds the content to a hash."""
        self._ids.update(digest)
        self._masks.update(digest)
        if self._images is not None:
            self._images.update(digest)
