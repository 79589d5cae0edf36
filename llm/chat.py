"""Conversations to ids, for training and inference alike: one template, and the mask of what is trained on.

Our own tokenizer's template is made of ids:

    <bos> [<|system|> text <|end|>]  { <|user|> text <|end|> <|assistant|> text <eos> }

Each text is tokenised on its own and special tokens never come from text, so nothing that somebody writes can close a
turn or open another, and the ids of a prompt are always how the ids of the continued conversation begin. Trained on
are the assistant's texts and the <eos> that ends each of them, which is what makes a model stop.

A tokenizer from elsewhere brings its own template, which writes text: see `llm.templated_chat`.
"""

import bisect
import datetime
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from llm import templated_chat
from llm.errors import UserError
from llm.tokenizer import BOS, EOS, SPECIAL_TOKENS, GlassboxTokenizer, Tokenizer

Message = dict[str, Any]  # {'role': 'system', 'user' or 'assistant', 'content': its text}

SYSTEM, USER, ASSISTANT, END = (SPECIAL_TOKENS.index(f'<|{name}|>') for name in ('system', 'user', 'assistant', 'end'))
# What day it is in examples to train on: they must not change overnight, or a run could not go on.
EXAMPLES_DAY = datetime.datetime(2024, 7, 26)

_FIELDS = ('role', 'content')
_ROLES = {'system': (SYSTEM, END), 'user': (USER, END), 'assistant': (ASSISTANT, EOS)}


class Encoded(NamedTuple):
    """A text that a model learns from."""

    ids: list[int]
    mask: list[bool]  # as long; True where the id is one to be predicted


def encode(tokenizer: Tokenizer, messages: Sequence[Message], today: datetime.datetime | None = None) -> Encoded:
    """A whole conversation. The mask is True on every assistant text and the token that ends its turn.

    Args:
        tokenizer: the model's.
        messages: the conversation.
        today: what day a template that asks is told; None is today.

    Raises:
        UserError: see `check` and `llm.templated_chat.encode`.
    """
    check(messages)
    if not isinstance(tokenizer, GlassboxTokenizer):
        return Encoded(*templated_chat.encode(tokenizer, messages, today))
    ids, mask = [BOS], [False]
    for message in messages:
        first, last = _ROLES[message['role']]
        text = tokenizer.encode(message['content'])
        ids += [first, *text, last]
        mask += [False, *[message['role'] == 'assistant'] * (len(text) + 1)]
    return Encoded(ids, mask)


def encode_prompt(
    tokenizer: Tokenizer, messages: Sequence[Message], today: datetime.datetime | None = None
) -> list[int]:
    """What an answer follows: the conversation up to the user's turn, and what opens the assistant's.

    Raises:
        UserError: see `encode`; also if the last turn is not the user's.
    """
    check(messages)
    if messages[-1]['role'] != 'user':
        raise UserError(f'the last turn is of {messages[-1]["role"]!r}; an answer follows a turn of the user')
    if not isinstance(tokenizer, GlassboxTokenizer):
        return templated_chat.encode_prompt(tokenizer, messages, today)
    return [*encode(tokenizer, messages).ids, ASSISTANT]


def encode_exchange(
    tokenizer: Tokenizer, messages: Sequence[Message], answer: str, today: datetime.datetime | None = None
) -> tuple[list[int], int, bool]:
    """A prompt, and what the assistant is to say, with the token that ends its turn.

    A template may write more, or other things, before an answer than at the end of a prompt; then the answer begins
    with the first id that differs.

    Returns:
        The ids; how many of them are the prompt's; whether these are all ids of the prompt.
    """
    if not isinstance(tokenizer, GlassboxTokenizer):
        check([*messages, {'role': 'assistant', 'content': answer}])
        return templated_chat.encode_exchange(tokenizer, messages, answer, today)
    prompt = encode_prompt(tokenizer, messages)
    return [*prompt, *tokenizer.encode(answer), EOS], len(prompt), True


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end an answer: those that end any text, and the one that closes the assistant's turn."""
    if tokenizer.chat_template is None:
        return tokenizer.stop_ids
    last = templated_chat.end_id(tokenizer)
    return tuple(dict.fromkeys((*tokenizer.stop_ids, *(() if last is None else (last,)))))


def stop_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The same, and the tokens around others' turns: a model that opens one has finished its own."""
    others = ()
    if isinstance(tokenizer, GlassboxTokenizer):
        others = END, USER
    elif tokenizer.chat_template is not None:
        others = templated_chat.special_ids(tokenizer)
    return tuple(dict.fromkeys((*end_ids(tokenizer), *others)))


def answer(tokenizer: Tokenizer, pieces: Iterable[str]) -> Iterator[str]:
    """What a model said, piece by piece, without the space that some tokenizers put before a text's first word."""
    begun = not tokenizer.leading_space
    for piece in pieces:
        yield piece if begun else piece.removeprefix(' ')
        begun = begun or bool(piece)


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """A plain prompt, without roles."""
    return tokenizer.encode_text(text)


def encode_completion(tokenizer: Tokenizer, prompt: str, completion: str) -> tuple[list[int], int, bool]:
    """A plain prompt and what follows it, as one text; a text that nothing stands before follows the `start_id`.

    Tokens may reach over the seam. Then the completion begins with the first id that differs from the prompt's.

    Returns:
        The ids, with <bos> if the tokenizer puts one there, and <eos>; how many of them are the prompt's; whether these
        are all ids of the prompt.
    """
    first = tokenizer.prefix_ids or (() if prompt else (tokenizer.start_id,))
    before = [*first, *tokenizer.encode(prompt)]
    whole = [*first, *tokenizer.encode(prompt + completion), tokenizer.end_id]
    common = common_prefix(before, whole)
    return whole, common, common == len(before)


def common_prefix(a: Sequence[Any], b: Sequence[Any]) -> int:
    """How many items two sequences begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def problems(messages: Any) -> list[str]:
    """What keeps a value from being a conversation; nothing if it is one."""
    if not isinstance(messages, list | tuple) or not messages:
        return ['the conversation must be a list of at least one message']
    found = []
    for i, message in enumerate(messages):
        where = f'message {i + 1}'
        if not isinstance(message, dict):
            found.append(f'{where} must be an object with role and content')
            continue
        if not isinstance(message.get('content'), str):
            found.append(f'the content of {where} must be a text')
        role = message.get('role')
        if not isinstance(role, str) or role not in _ROLES:
            found.append(f'the role of {where} is {role!r}; use system, user or assistant')
    if found:
        return found
    roles = [message['role'] for message in messages]
    turns = roles[1:] if roles[0] == 'system' else roles
    if not turns:
        return ['there is no turn of the user']
    for i, role in enumerate(turns):
        expected = ('user', 'assistant')[i % 2]
        if role != expected:
            number = i + 1 + len(roles) - len(turns)
            return [
                f'message {number} is of {role!r} where one of {expected!r} must come: after at most one system '
                'message, user and assistant take turns'
            ]
    return []


def has_more(messages: Sequence[Message]) -> bool:
    """Whether a message says more than who says what (tool calls, names, weights), which is left out."""
    return any(value is not None for message in messages for name, value in message.items() if name not in _FIELDS)


def check(messages: Any) -> None:
    """Raises UserError unless roles are known and take turns, the user first, and every content is a text."""
    if found := problems(messages):
        raise UserError('; '.join(found))


def fit(tokenizer: Tokenizer, messages: Sequence[Message], room: int) -> list[Message]:
    """Forgets the oldest exchanges of user and assistant until the prompt fits. The system message stays.

    Args:
        tokenizer: the model's.
        messages: a conversation that ends with the user's turn.
        room: most ids that `encode_prompt` may give.

    Raises:
        UserError: if the user's last turn does not fit even alone; or see `encode_prompt`.
    """
    check(messages)
    start = int(messages[0]['role'] == 'system')
    head, turns = list(messages[:start]), list(messages[start:])
    size = lambda exchanges: len(encode_prompt(tokenizer, [*head, *turns[2 * exchanges :]]))
    if (shortest := size(len(turns) // 2)) > room:
        raise UserError(
            f'the last message takes {shortest} tokens with {"the system message" if head else "its tags"}, and there '
            f'is room for {room}; shorten it'
        )
    forgotten = bisect.bisect_left(range(len(turns) // 2), True, key=lambda exchanges: size(exchanges) <= room)
    return [*head, *turns[2 * forgotten :]]
