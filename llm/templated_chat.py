"""Conversations of models from elsewhere: written by their chat template, then tokenised as one text.

The ids are those that Hugging Face's `apply_chat_template` gives. Special tokens in that text are meant, so a message
that spells one is refused: it could close its turn and open another.
"""

import datetime
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llm.errors import UserError
from llm.tokenizer.interface import Tokenizer

if TYPE_CHECKING:
    from llm.tokenizer.chat_template import (
        ChatTemplate,  # imports Jinja, which training on our own template does not need
    )

Message = dict[str, Any]
_PROBE = 'what the assistant says'


def encode(
    tokenizer: Tokenizer, messages: Sequence[Message], today: datetime.datetime | None = None
) -> tuple[list[int], list[bool]]:
    """A whole conversation, and which of its ids are to be predicted.

    These are what the template writes in `{% generation %}` blocks. If it has none: of each of the assistant's turns,
    what follows the prompt for it, up to and with the token that ends the turn.

    Raises:
        UserError: if there is no template, it refuses the conversation, or a message spells a special token; if it
            marks no answers, and writes what stands before one otherwise than in a prompt.
    """
    template = _template(tokenizer)
    _refuse_special(tokenizer, messages)
    rendered = template.render(messages, add_generation_prompt=False, today=today)
    ids, spans = tokenizer.encode_rendered(rendered.text)
    mask = [False] * len(ids)
    if template.marks_answers:
        for start, end in rendered.answers:
            for i, (first, last) in enumerate(spans):
                mask[i] = mask[i] or (first < end and last > start)
        return ids, mask
    for i, message in enumerate(messages):
        if message['role'] == 'assistant':
            advice = 'mark answers in it with {% generation %}'
            start, _ = _answer_start(tokenizer, messages[:i], rendered.text, ids, today, advice)
            end = _end(tokenizer, ids, start)
            if end is None:  # nothing marks it: as far as the conversation up to here goes
                so_far = template.render(messages[: i + 1], add_generation_prompt=False, today=today).text
                end = _common_prefix(tokenizer.encode_rendered(so_far)[0], ids)
            mask[start:end] = [True] * (end - start)
    return ids, mask


def encode_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], today: datetime.datetime | None = None
) -> list[int]:
    """A conversation up to where the assistant is to speak."""
    _refuse_special(tokenizer, messages)
    text = _template(tokenizer).render(messages, add_generation_prompt=True, today=today).text
    return tokenizer.encode_rendered(text)[0]


def encode_exchange(
    tokenizer: Tokenizer, messages: Sequence[Message], answer: str, today: datetime.datetime | None = None
) -> tuple[list[int], int, bool]:
    """A prompt and its answer, up to and with the token that ends the turn.

    Returns:
        The ids; how many of them are the prompt's; whether these are all ids of the prompt.

    Raises:
        UserError: see `encode`; here the prompt counts even where answers are marked.
    """
    whole = [*messages, {'role': 'assistant', 'content': answer}]
    _refuse_special(tokenizer, whole)
    text = _template(tokenizer).render(whole, add_generation_prompt=False, today=today).text
    ids, _ = tokenizer.encode_rendered(text)
    start, of = _answer_start(tokenizer, messages, text, ids, today, 'change it to write both alike')
    return ids[: _end(tokenizer, ids, start)], start, start == of


@functools.lru_cache(maxsize=8)
def end_id(tokenizer: Tokenizer) -> int | None:
    """The special token that closes the assistant's turn, found in a conversation that the template writes."""
    text, ids, spans = _written(tokenizer)
    end = text.rfind(_PROBE) + len(_PROBE)
    after = (i for i, (start, _) in zip(ids, spans) if start >= end and i in tokenizer.special)
    return next(after, None) if _PROBE in text else None


@functools.lru_cache(maxsize=8)
def special_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The special tokens that the template writes around turns: whoever writes one has finished his own."""
    _, ids, _ = _written(tokenizer)
    return tuple(sorted({i for i in ids if i in tokenizer.special}))


def _written(tokenizer: Tokenizer) -> tuple[str, list[int], list[tuple[int, int]]]:
    """A short conversation."""
    talk = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': _PROBE}]
    text = _template(tokenizer).render(talk, add_generation_prompt=False).text
    return text, *tokenizer.encode_rendered(text)


def _template(tokenizer: Tokenizer) -> 'ChatTemplate':
    if tokenizer.chat_template is None:
        raise UserError(
            'the tokenizer has no chat template, so it cannot write conversations; put one into chat_template.jinja '
            'beside tokenizer.json, or use plain texts'
        )
    return tokenizer.chat_template


def _refuse_special(tokenizer: Tokenizer, messages: Sequence[Message]) -> None:
    for number, message in enumerate(messages, start=1):
        if (name := tokenizer.special_in(message['content'])) is not None:
            raise UserError(
                f'message {number} spells the special token {name}, which would be read as one; write it otherwise'
            )


def _answer_start(
    tokenizer: Tokenizer,
    before: Sequence[Message],
    text: str,
    ids: list[int],
    today: datetime.datetime | None,
    advice: str,
) -> tuple[int, int]:
    """Where an answer begins: how many ids are those of its prompt, and how many ids the prompt has alone.

    What opens the assistant's turn may differ (a prompt may go on with <think>). What stands before it may not: else
    the answer would seem to begin within somebody else's turn.

    Args:
        tokenizer: the model's.
        before: the messages before the answer.
        text, ids: of the whole conversation.
        today: what day it is.
        advice: what to do where they differ.
    """
    template = _template(tokenizer)
    prompt = template.render(before, add_generation_prompt=True, today=today).text
    if not text.startswith(prompt):
        turns = template.render(before, add_generation_prompt=False, today=today).text
        if not (text.startswith(turns) and prompt.startswith(turns)):
            raise UserError(
                f'the chat template writes what stands before message {len(before) + 1} otherwise in a whole '
                f'conversation than in the prompt for it, so where the answer begins is not known; {advice}'
            )
    found, _ = tokenizer.encode_rendered(prompt)
    return _common_prefix(found, ids), len(found)


def _end(tokenizer: Tokenizer, ids: list[int], start: int) -> int | None:
    """Where the turn that goes on at `start` ends, its last token included; None if no token tells."""
    ends = {*tokenizer.stop_ids, end_id(tokenizer)}
    return next((i + 1 for i in range(start, len(ids)) if ids[i] in ends), None)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
