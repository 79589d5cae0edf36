"""Preferences: two responses to a prompt, or a ranking of several.

    {"prompt": "text", "chosen": "text", "rejected": "text"}              plain, no roles; "margin": number is an option
    {"prompt": [messages], "chosen": [message], "rejected": [message]}    a conversation and two ways to answer
    {"chosen": ..., "rejected": ...}                                      the prompt is how both begin
    {"prompt": ..., "responses": [best, ..., worst]}                      "scores": [numbers] is an option, and
                                                                          "ended": [booleans], false where one was cut

Every response has a score, and only differences count: 1 and 0 for a pair, or its margin and 0; k - 1 down to 0 for a
ranking of k, or its scores. Responses of the same score are not compared.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, Integer

from llm import chat
from llm.config import DPO, Config
from llm.data.batches import Batch
from llm.data.images import refuse
from llm.data.ragged import Ragged
from llm.data.rows import BadRow
from llm.tokenizer import Tokenizer

_NO_MARGIN = 1e-30  # the score of a preference whose margin is 0: still a preference, unlike a tie


class Ranked(NamedTuple):
    """A row, understood."""

    prompt: str | list[chat.Message]
    responses: list[str]  # what the assistant says, if the prompt is a conversation
    scores: list[float]
    ended: list[bool]  # False for a response that was cut when it was drawn: it gets no <eos>


class Preference(NamedTuple):
    """One example: a pair, or a ranking."""

    tokens: list[list[int]]  # prompt and response
    prompt_lengths: list[int]
    scores: list[float]

    @property
    def prompt(self) -> bytes:
        return np.array(self.tokens[0][: self.prompt_lengths[0]], np.int32).tobytes()


def parse(fields: dict[str, Any]) -> Ranked:
    """Understands a row.

    Raises:
        BadRow: with everything that is wrong.
    """
    if 'responses' in fields and 'chosen' not in fields:
        responses, problems = fields['responses'], []
        if not isinstance(responses, list) or len(responses) < 2:
            raise BadRow('responses must be a list of at least two')
        scores = fields.get('scores')
        if scores is None:
            scores = list(range(len(responses) - 1, -1, -1))
        elif not isinstance(scores, list) or len(scores) != len(responses) or not all(map(_is_number, scores)):
            problems.append(f'scores must be {len(responses)} finite numbers, one per response')
        elif any(a < b for a, b in itertools.pairwise(scores)):
            problems.append('scores must not rise: the best response comes first')
        ended = fields.get('ended', [True] * len(responses))
        if not isinstance(ended, list) or len(ended) != len(responses) or not all(type(e) is bool for e in ended):
            problems.append(f'ended must be {len(responses)} times true or false, one per response')
        if 'prompt' not in fields:
            problems.append('it has no prompt')
        if problems:
            raise BadRow(*problems)
        prompt = fields['prompt']
    else:
        if missing := [name for name in ('chosen', 'rejected') if name not in fields]:
            raise BadRow(f'it has no {" and no ".join(missing)}; give chosen and rejected, or responses')
        margin = fields.get('margin')
        if margin is not None and not (_is_number(margin) and margin >= 0):
            raise BadRow(f'its margin is {margin!r}; it must be a number of at least 0')
        ended = [True, True]
        scores = [1.0 if margin is None else max(float(margin), _NO_MARGIN), 0.0]
        prompt, responses = fields.get('prompt'), [fields['chosen'], fields['rejected']]
        whole = isinstance(prompt, str) and all(isinstance(response, list) for response in responses)
        if prompt is None or whole:
            text = prompt
            prompt, responses = _common_start(*responses)
            if whole and not any(isinstance(m, dict) and m.get('content') == text for m in prompt):
                raise BadRow('the prompt is a text, and not one of the messages that chosen and rejected begin with')
    with np.errstate(over='ignore'):
        scores = [float(np.float32(score)) for score in scores]  # as they are stored, so that ties are seen
    if not all(map(math.isfinite, scores)):
        raise BadRow('its scores are too large; keep them below 1e38')
    return Ranked(prompt, _texts(prompt, responses), scores, ended)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _common_start(chosen: Any, rejected: Any) -> tuple[Any, list[Any]]:
    """The prompt that two responses share, and what is left of them (as TRL's `extract_prompt`)."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        size = chat.common_prefix(chosen, rejected)
        size -= size > 0 and size < max(len(chosen), len(rejected)) and chosen[size - 1] == ' '  # " word" is one token
    elif isinstance(chosen, list) and isinstance(rejected, list):
        size = min(chat.common_prefix(chosen, rejected), len(chosen) - 1, len(rejected) - 1)  # leave a response
    else:
        raise BadRow('chosen and rejected must be two texts or two lists of messages')
    return chosen[:size], [chosen[size:], rejected[size:]]


def _texts(prompt: Any, responses: list[Any]) -> list[str]:
    """The responses as texts, once all is as it should be."""
    if isinstance(prompt, str):
        if not all(isinstance(response, str) for response in responses):
            raise BadRow('the prompt is a text, so every response must be one')
        return responses
    problems = chat.problems(prompt)
    if not problems and prompt[-1]['role'] != 'user':
        problems = ['the prompt must end with a message of the user']
    if problems:
        raise BadRow(*(f'prompt: {problem}' for problem in problems))
    for i, response in enumerate(responses, start=1):
        if not isinstance(response, list) or len(response) != 1 or chat.problems([*prompt, *response]):
            problems.append(
                f'response {i} must be a list of one message, of the assistant, as the prompt is one of messages'
            )
    if problems:
        raise BadRow(*problems)
    return [response[0]['content'] for response in responses]


class PreferenceReader:
    """Rows to examples, and what became of those that did not make it."""

    def __init__(self, config: Config, tokenizer: Tokenizer):
        self._length, self._tokenizer = config.data.sequence_length, tokenizer
        self._pairs = isinstance(config.objective, DPO)
        self._reads_images = config.model.image_size is not None
        self._ends = chat.end_ids(tokenizer)
        self._largest = 2  # responses to a prompt
        self.dropped: Counter[str] = Counter()  # rows, by reason
        self.noted: Counter[str] = Counter()  # rows that were changed, by what was done

    def read(self, fields: dict[str, Any]) -> list[Preference]:
        """The examples of a row: its ranking, or for DPO every pair of it; none if it was dropped.

        Raises:
            BadRow: see `parse`.
        """
        refuse(fields, self._reads_images)
        prompt, responses, scores, ended = parse(fields)
        self.noted['more_in_messages'] += not isinstance(prompt, str) and chat.has_more(prompt)
        first = {text: i for i, text in reversed(list(enumerate(responses)))}
        if len(first) < len(responses):
            if len(first) == 1:
                return self._drop('responses_equal')
            self.noted['responses_equal'] += 1
        kept = sorted(first.values())
        encoded = [self._encode(prompt, responses[i], ended[i]) for i in kept]
        tokens, lengths = [ids[: self._length] for ids, _ in encoded], [length for _, length in encoded]
        scores = [scores[i] for i in kept]
        if any(len(ids) <= length for ids, length in zip(tokens, lengths)):
            return self._drop('prompt_fills_window')
        if len({tuple(ids) for ids in tokens}) < len(tokens):
            return self._drop('difference_cut_away')
        if scores[0] == scores[-1]:
            return self._drop('no_preference')
        self.noted['truncated'] += any(len(ids) > self._length for ids, _ in encoded)
        self._largest = max(self._largest, 2 if self._pairs else len(kept))
        if not self._pairs:
            return [Preference(tokens, lengths, scores)]
        return [
            Preference([tokens[i], tokens[j]], [lengths[i], lengths[j]], [scores[i], scores[j]])
            for i, j in itertools.combinations(range(len(kept)), 2)
            if scores[i] > scores[j]
        ]

    def _drop(self, reason: str) -> list[Preference]:
        self.dropped[reason] += 1
        return []

    def _encode(self, prompt: str | list[chat.Message], response: str, ended: bool) -> tuple[list[int], int]:
        """The ids of both, and how many are the prompt's."""
        ids, length = self._encode_ended(prompt, response)
        return (ids if ended or ids[-1] not in self._ends else ids[:-1]), length

    def _encode_ended(self, prompt: str | list[chat.Message], response: str) -> tuple[list[int], int]:
        if isinstance(prompt, str):
            ids, length, whole = chat.encode_completion(self._tokenizer, prompt, response)
        else:
            ids, length, whole = chat.encode_exchange(self._tokenizer, prompt, response, chat.EXAMPLES_DAY)
        self.noted['prompt_not_a_prefix'] += not whole
        return ids, length

    def table(self, sources: Sequence[Sequence[Preference]]) -> 'PreferenceTable':
        """Both sides' tables are as wide as the largest ranking of all rows that were read."""
        return PreferenceTable(sources, self._largest, self._length)


class PreferenceTable:
    """Preferences for training. Those of a source follow each other."""

    prompt_lengths: Int32[np.ndarray, 'examples responses']
    lengths: Int32[np.ndarray, 'examples responses']  # of prompt and response; 0 where there is none
    scores: Float32[np.ndarray, 'examples responses']

    def __init__(self, sources: Sequence[Sequence[Preference]], responses: int, length: int):
        """
        Args:
            sources: the examples of each source.
            responses: K, columns of the tables; for DPO 2, the chosen one first.
            length: T, the longest that prompt and response may be.
        """
        examples = [example for source in sources for example in source]
        shape = len(examples), responses
        self.prompt_lengths, self.scores = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        for i, example in enumerate(examples):
            self.prompt_lengths[i, : len(example.scores)] = example.prompt_lengths
            self.scores[i, : len(example.scores)] = example.scores
        no_response: list[list[int]] = [[]]
        self._ids = Ragged(
            [ids for e in examples for ids in (*e.tokens, *no_response * (responses - len(e.tokens)))], np.int32
        )
        self.lengths = self._ids.lengths.astype(np.int32).reshape(shape)
        self._responses, self._length = responses, length
        self.extra: dict[str, Float32[np.ndarray, 'examples responses']] = {}  # columns that came later
        self.edges = np.cumsum([0, *map(len, sources)]).tolist()  # rows [edges[i], edges[i + 1]) are of source i

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> Int32[np.ndarray, 'examples responses length']:
        """Prompt and response of all, right-padded; made anew each time."""
        return self.rows(np.arange(len(self)))['tokens']

    @property
    def largest_id(self) -> int:
        return self._ids.largest

    @property
    def statistics(self) -> dict[str, Any]:
        trained = int((self.lengths - self.prompt_lengths).sum())
        pairs = sum(
            int((self.scores[:, i] > self.scores[:, j]).sum(where=self.lengths[:, j] > 0))
            for i, j in itertools.combinations(range(self._responses), 2)
        )
        return {'examples': len(self), 'tokens': len(self._ids.values), 'trained_tokens': trained, 'pairs': pairs}

    def rows(self, indices: Integer[np.ndarray, 'rows']) -> Batch:
        """`tokens` (B, K, T), `prompt_lengths`, `lengths`, `scores` and what is in `extra` (B, K), `indices` (B,)."""
        indices = np.asarray(indices, np.int64)
        places = (indices[:, None] * self._responses + np.arange(self._responses)).reshape(-1)
        tokens = self._ids.padded(places, self._length)
        return {
            'tokens': tokens.reshape(len(indices), self._responses, self._length),
            'prompt_lengths': self.prompt_lengths[indices],
            'lengths': self.lengths[indices],
            'scores': self.scores[indices],
            'indices': indices.astype(np.int32),
            **{name: column[indices] for name, column in self.extra.items()},
        }

    def prompt(self, index: int) -> list[int]:
        """The ids that the responses of an example follow."""
        return self._ids[index * self._responses][: self.prompt_lengths[index, 0]].tolist()

    def update(self, digest: Any) -> None:
        """Adds the content to a hash."""
        self._ids.update(digest)
        for array in (self.prompt_lengths, self.scores):
            digest.update(array.astype(array.dtype.newbyteorder('<')).tobytes())
