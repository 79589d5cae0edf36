"""What every tokenizer gives, whoever trained it.

Special tokens stand for no text and never come from text, however it spells them: only code that asks for an id gets
one. Some tokenizers lack one or the other; whoever needs it asks for `start_id` or `end_id`, which say so in one line.
"""

import abc
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

from llm.errors import UserError


class Tokenizer(abc.ABC):
    """Text to ids and back.

    Attributes:
        bos_id, eos_id, pad_id, unk_id: the special tokens that have a name; None where there is no such token.
        prefix_ids: what a text begins with where its tokenizer puts something there: <bos>, or nothing.
        stop_ids: the ids that end what a model writes: `eos_id` first, and others that its makers name.
        special: names of the special tokens by id.
        exact: whether every text is known to come back as it was, so that nobody has to look.
        losses: what of a text does not come back, for people; empty where nothing is known.
        chat_template: how conversations become text (`llm.tokenizer.chat_template`); None if it names no template, or
            is ours, whose conversations are made of ids (`llm.chat`).
    """

    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    unk_id: int | None
    prefix_ids: tuple[int, ...]
    stop_ids: tuple[int, ...]
    special: dict[int, str]
    exact: bool
    losses: tuple[str, ...] = ()
    chat_template: Any = None
    leading_space = False  # whether a text's first token has a space before it that the text has not

    _bytes: list[bytes]  # of each id; of special tokens none

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """One more than the largest id that a model has to know."""

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """SHA-256, in hex, of what decides the ids of a text."""

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str | bytes], num_threads: int) -> list[list[int]]:
        """`encode` of each text, on several threads; the result does not depend on their number."""

    @abc.abstractmethod
    def save_in(self, folder: str | pathlib.Path) -> None:
        """Puts what `llm.tokenizer.open_workdir` opens into a run's folder, as a whole or not at all."""

    def encode_rendered(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of what a chat template wrote, where special tokens are meant, and the characters of each.

        Raises:
            UserError: if it is not UTF-8.
        """
        raise NotImplementedError('our own conversations are made of ids')

    def special_in(self, text: str) -> str | None:
        """A special token that a text spells, if it does."""
        return next((name for name in self.special.values() if name in text), None)

    @property
    def start_id(self) -> int:
        """What the first token of a document follows: <bos>, or <eos> where there is none, as between documents.

        Raises:
            UserError: if there is neither.
        """
        if self.bos_id is not None:
            return self.bos_id
        if self.eos_id is not None:
            return self.eos_id
        raise UserError(
            'the tokenizer names neither a bos_token nor an eos_token, and a text needs one to start from; name one in '
            'its tokenizer_config.json'
        )

    @property
    def end_id(self) -> int:
        """What ends a document and an answer.

        Raises:
            UserError: if there is none.
        """
        if self.eos_id is None:
            raise UserError(
                'the tokenizer names no eos_token, so nothing would teach a model to stop; name one in its '
                'tokenizer_config.json'
            )
        return self.eos_id

    def encode(self, text: str | bytes) -> list[int]:
        """The ids of a text, without special tokens.

        Raises:
            UserError: if it has bytes that are not UTF-8, and the tokenizer cannot carry them.
        """
        return self.encode_batch([text], num_threads=1)[0]

    def encode_text(self, text: str | bytes) -> list[int]:
        """A plain prompt: what the tokenizer puts before a text, and its ids; an empty one is the start of a text."""
        return [*self.prefix_ids, *self.encode(text)] or [self.start_id]

    def decode_bytes(self, ids: Iterable[SupportsIndex], continued: bool = False) -> bytes:
        """The bytes of some ids. Special tokens, and ids past the vocabulary, stand for none.

        Args:
            ids: of a text from its beginning.
            continued: they follow other ids instead, so that a space before the first is text.
        """
        table, size = self._bytes, len(self._bytes)
        found = b''.join(table[i] for i in ids if i < size)
        return found.removeprefix(b' ') if self.leading_space and not continued else found

    def decode(self, ids: Iterable[SupportsIndex], continued: bool = False) -> str:
        """The text of some ids; bytes that are not UTF-8 are shown as U+FFFD. See `decode_bytes`."""
        return self.decode_bytes(ids, continued).decode('utf-8', 'replace')

    def token_bytes(self, token_id: SupportsIndex) -> bytes:
        """The bytes that one id adds to a text; joined, those of several ids are their text."""
        return self.decode_bytes([token_id], continued=True)

    def piece(self, token_id: int) -> str:
        """How to show one id: special tokens by name, control characters escaped, spaces as "·"."""
        if token_id in self.special:
            return self.special[token_id]
        data = self.token_bytes(token_id)
        if not data:
            return f'<unused_{token_id}>'
        try:
            text = data.decode('utf-8')
        except UnicodeDecodeError:  # part of a character
            return ''.join(f'<0x{b:02X}>' for b in data)
        shown = (c if c.isprintable() else c.encode('unicode_escape').decode('ascii') for c in text)
        return ''.join(shown).replace(' ', '·')

    def check_fits(self, vocab_size: int) -> None:
        """Raises UserError if it has ids that a model of so many does not know."""
        if self.vocab_size > vocab_size:
            raise UserError(
                f"the tokenizer's ids go up to {self.vocab_size - 1}, beyond model.vocab_size {vocab_size}; set that "
                f'to at least {self.vocab_size}, or use the tokenizer that the model was trained with'
            )


def utf8(text: str | bytes) -> bytes:
    """The bytes of a text; surrogates stand for bytes that are not UTF-8, as Python reads them."""
    if isinstance(text, bytes):
        return text
    try:
        return text.encode('utf-8', 'surrogateescape')
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise UserError(f'the text has half of a surrogate pair, {half!r}, which is no character; remove it') from error


def require_utf8(text: str) -> None:
    """Raises UserError if a conversation has surrogates, which stand for no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = error.object[error.start]
        raise UserError(f'the conversation has {found!r}, which is not UTF-8; remove it') from error


def string(text: str | bytes) -> str:
    """The same as a string, with surrogates."""
    return text.decode('utf-8', 'surrogateescape') if isinstance(text, bytes) else text
