"""Conversations as text, for lm-evaluation-harness: it puts its prompts together from text, where we have ids.

A tokenizer from elsewhere has a template that writes text. Ours is made of ids: here it is spelled with the names of
the special tokens, and read back. A message that spells one itself is refused, so the ids are those of `llm.chat`.
"""

import re
from collections.abc import Sequence
from typing import Any

from llm import chat
from llm.errors import UserError
from llm.tokenizer import GlassboxTokenizer, Tokenizer

_ENDS = {'system': '<|end|>', 'user': '<|end|>', 'assistant': '<eos>'}


def render(tokenizer: Tokenizer, messages: Sequence[dict[str, Any]], open_end: bool = False) -> str:
    """A conversation as text.

    Args:
        tokenizer: the model's.
        messages: see `llm.chat`.
        open_end: leave the last message, one of the assistant's, without its end, to be gone on with. Otherwise the
            last is the user's, and the text ends where the assistant is to speak.

    Raises:
        UserError: if roles do not take turns, there is no template, or a message spells a special token.
    """
    chat.check(messages)
    last = 'assistant' if open_end else 'user'
    if messages[-1]['role'] != last:
        raise UserError(f'the last turn is of {messages[-1]["role"]!r}; here it must be of {last!r}')
    for number, message in enumerate(messages, start=1):
        if (name := tokenizer.special_in(message['content'])) is not None:
            raise UserError(f'message {number} spells the special token {name}, which would be read as one')
    if isinstance(tokenizer, GlassboxTokenizer):
        text = ''.join(f'<|{m["role"]}|>{m["content"]}{_ENDS[m["role"]]}' for m in messages)
        return text.removesuffix(_ENDS[last]) if open_end else f'{text}<|assistant|>'
    if tokenizer.chat_template is None:
        raise UserError('the tokenizer has no chat template, so it cannot write conversations; leave --chat out')
    text = tokenizer.chat_template.render(messages, add_generation_prompt=not open_end).text
    begun = messages[-1]['content'].strip()
    return text[: text.rindex(begun) + len(begun)] if open_end and begun in text else text


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text in which special tokens are meant."""
    if not isinstance(tokenizer, GlassboxTokenizer):
        return tokenizer.encode_rendered(text)[0]
    ids = {name: i for i, name in tokenizer.special.items()}
    parts = re.split('({})'.format('|'.join(map(re.escape, ids))), text)
    return [i for part in parts if part for i in ([ids[part]] if part in ids else tokenizer.encode(part))]
