"""From an engine's events to the JSON of OpenAI's API."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from llm.inference.engine import Event
from llm.tokenizer import Tokenizer

LEAST_LOGPROB = -9999.0  # JSON has no infinity

FINISH_REASONS = {'stop_token': 'stop', 'stop_string': 'stop', 'length': 'length'}


def dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(',', ':')).encode('utf-8', 'replace')


def merge(events: Sequence[Event]) -> Event:
    """Several events that follow each other as one."""
    return Event(
        ''.join(event.text for event in events),
        *(sum((getattr(event, name) for event in events), ()) for name in ('ids', 'logprobs', 'top')),
    )


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """How a token is written where it stands alone: part of a character as `bytes:\\xe2`, special ones by name."""
    data = tokenizer.token_bytes(token)
    if not data:
        return tokenizer.piece(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return 'bytes:' + ''.join(f'\\x{byte:02x}' for byte in data)


class Answer:
    """What all parts of one answer share, and its two forms: whole, and chunk by chunk."""

    prefix: str
    whole_object: str
    chunk_object: str

    def __init__(self, model: str, tokenizer: Tokenizer, logprobs: bool, top_logprobs: int):
        """
        Args:
            model: its name.
            tokenizer: the model's.
            logprobs: report the log-probability of every token written, the one that ended the text included,
            top_logprobs: and of this many alternatives.
        """
        self.id = f'{self.prefix}-{secrets.token_hex(12)}'
        self.model, self.tokenizer = model, tokenizer
        self._logprobs, self._top = logprobs, top_logprobs
        self._created = int(time.time())

    def whole(self, choices: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
        return {**self._head(self.whole_object), 'choices': choices, 'usage': usage}

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self._head(self.chunk_object), 'choices': choices, **more}

    def _head(self, kind: str) -> dict[str, Any]:
        return {'id': self.id, 'object': kind, 'created': self._created, 'model': self.model}

    def _number(self, logprob: float) -> float:
        return max(float(logprob), LEAST_LOGPROB)


class TextAnswer(Answer):
    """`POST /v1/completions`."""

    prefix, whole_object, chunk_object = 'cmpl', 'text_completion', 'text_completion'

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._offsets: dict[int, int] = {}  # characters that the tokens of each choice have spelled

    def opening(self, index: int, echo: str) -> dict[str, Any] | None:
        """The first part of a choice that is streamed, if there is something to say before the model does."""
        return self.part(index, Event(echo, (), (), ()), None) if echo else None

    def choice(self, index: int, echo: str, event: Event, finish_reason: str | None) -> dict[str, Any]:
        """A whole choice, of all its events merged."""
        return self.part(index, event, finish_reason) | {'text': echo + event.text}

    def part(self, index: int, event: Event, finish_reason: str | None) -> dict[str, Any]:
        return {
            'index': index,
            'text': event.text,
            'logprobs': self._report(index, event) if self._logprobs else None,
            'finish_reason': finish_reason,
        }

    def _report(self, index: int, event: Event) -> dict[str, Any]:
        name, offsets = lambda token: token_text(self.tokenizer, token), []
        for token in event.ids:
            offsets.append(self._offsets.get(index, 0))
            # A character begins with every byte that does not continue one.
            begun = sum(byte & 0xC0 != 0x80 for byte in self.tokenizer.token_bytes(token))
            self._offsets[index] = offsets[-1] + begun
        top = [{name(token): self._number(p) for token, p in row[: self._top]} for row in event.top]
        return {
            'tokens': [name(token) for token in event.ids],
            'token_logprobs': [self._number(p) for p in event.logprobs],
            'top_logprobs': top if self._top else None,
            'text_offset': offsets,
        }


class ChatAnswer(Answer):
    """`POST /v1/chat/completions`."""

    prefix, whole_object, chunk_object = 'chatcmpl', 'chat.completion', 'chat.completion.chunk'

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._begun: set[int] = set()  # choices that have said something

    def opening(self, index: int, echo: str) -> dict[str, Any] | None:
        return {'index': index, 'delta': {'role': 'assistant', 'content': ''}, 'logprobs': None, 'finish_reason': None}

    def choice(self, index: int, echo: str, event: Event, finish_reason: str | None) -> dict[str, Any]:
        message = {'role': 'assistant', 'content': self._text(index, event), 'refusal': None}
        return self._choice(index, {'message': message}, event, finish_reason)

    def part(self, index: int, event: Event, finish_reason: str | None) -> dict[str, Any]:
        text = self._text(index, event)
        return self._choice(index, {'delta': {'content': text} if text else {}}, event, finish_reason)

    def _text(self, index: int, event: Event) -> str:
        """What a piece says. Some tokenizers mark a beginning with a space, which is no text of the model's."""
        first = index not in self._begun and bool(event.text)
        if first:
            self._begun.add(index)
        return event.text.removeprefix(' ') if first and self.tokenizer.leading_space else event.text

    def _choice(self, index: int, said: dict[str, Any], event: Event, finish_reason: str | None) -> dict[str, Any]:
        report = {'content': self._report(event), 'refusal': None} if self._logprobs else None
        return {'index': index, **said, 'logprobs': report, 'finish_reason': finish_reason}

    def _report(self, event: Event) -> list[dict[str, Any]]:
        tops = event.top or [()] * len(event.ids)
        return [
            self._token(token, logprob) | {'top_logprobs': [self._token(*pair) for pair in top[: self._top]]}
            for token, logprob, top in zip(event.ids, event.logprobs, tops)
        ]

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        data = self.tokenizer.token_bytes(token)
        return {'token': token_text(self.tokenizer, token), 'logprob': self._number(logprob), 'bytes': list(data)}


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        'prompt_tokens': prompt_tokens,
        'completion_tokens': completion_tokens,
        'total_tokens': prompt_tokens + completion_tokens,
    }
