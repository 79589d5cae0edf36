"""Tokenizers in a tokenizer.json, read by the library `tokenizers`.

Their own decoder gives text, from which the bytes of one token cannot be told. Ours is a table from id to bytes, made
from what the file says about decoding. Two kinds have such a table: byte-level ones, whose pieces spell bytes in
printable characters (GPT-2, Llama 3, Qwen), and those made like SentencePiece, which write a space as "▁" and spell
what they do not know in bytes `<0x41>` (Llama 2, Mistral, Gemma).
"""

import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llm.errors import UserError, first_line
from llm.tokenizer.imported import ImportedTokenizer
from llm.tokenizer.interface import require_utf8, string, utf8
from llm.tokenizer.special_tokens import check_id

FILE = 'tokenizer.json'
_NOT_UTF8 = re.compile('([\ud800-\udfff]+)')
_BYTE = re.compile(r'<0x([0-9A-Fa-f]{2})>')


class HuggingFaceTokenizer(ImportedTokenizer):
    """See `llm.tokenizer.open_directory`."""

    def __init__(self, files: Mapping[str, bytes], where: pathlib.Path):
        """
        Args:
            files: by name, tokenizer.json among them.
            where: their folder, for errors.

        Raises:
            UserError: if it cannot be read, or its tokens have no exact bytes.
        """
        super().__init__(files, where, FILE)
        try:
            self._settings = json.loads(files[FILE])
            self._plain = _open(files[FILE].decode(), self._description)
            ids = self._plain.get_vocab(with_added_tokens=True)
            last = max(ids, key=ids.get)
            check_id(ids[last], last)
        except ImportError as error:
            raise UserError(
                f"{where / FILE} needs the library tokenizers; install it with pip install 'glassbox-llm[huggingface]'"
            ) from error
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f'{where / FILE} is damaged ({first_line(error)}); restore it from its source') from error
        self._plain.encode_special_tokens = True  # a text that spells a special token is text
        added = self._plain.get_added_tokens_decoder()
        bytes_of, self.leading_space = _decoder(self._settings.get('decoder'), where)
        self._bytes = [b''] * (1 + max(ids.values()))
        for piece, i in ids.items():
            self._bytes[i] = bytes_of(piece, i in added)
        special = {i: token.content for i, token in added.items() if token.special}
        special |= {ids[text]: text for text in self._description.special_texts if text in ids}
        self._name_special_tokens(ids, special)
        self.prefix_ids = self._prefix()
        self._vocab_size = self._count()
        self._byte_ids = {self._bytes[i][0]: i for i in range(len(self._bytes)) if len(self._bytes[i]) == 1}
        self.losses = tuple(self._losses())

    def encode_batch(self, texts: Sequence[str | bytes], num_threads: int) -> list[list[int]]:
        # Each text is cut into stretches that alternate: UTF-8, not, UTF-8, ...
        stretches = [_NOT_UTF8.split(string(text)) for text in texts]
        if self.leading_space and any(len(parts) > 1 for parts in stretches):
            raise UserError('the text has bytes that are not UTF-8, and this tokenizer cannot carry them; remove them')
        encoded = iter(self._encode([part for parts in stretches for part in parts[::2]], num_threads))
        result = []
        for parts in stretches:
            ids = next(encoded)
            for bad in parts[1::2]:
                ids += [self._byte_id(b) for b in utf8(bad)]
                ids += next(encoded)
            result.append(ids)
        return result

    def encode_rendered(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        require_utf8(text)
        found = self._meant.encode(text, add_special_tokens=False)
        return found.ids, found.offsets

    @functools.cached_property
    def _meant(self) -> Any:
        """The same where a text that spells a special token means it. Opened when there is a conversation."""
        return _open(self.files[FILE].decode(), self._description)

    def special_in(self, text: str) -> str | None:
        normalizer, text = self._plain.normalizer, _NOT_UTF8.sub('\ufffd', text)  # the library takes no surrogates
        spelled = super().special_in(text)
        return super().special_in(normalizer.normalize_str(text)) if spelled is None and normalizer else spelled

    def _encode(self, texts: list[str], num_threads: int) -> list[list[int]]:
        if num_threads == 1:
            return [self._plain.encode(text, add_special_tokens=False).ids for text in texts]
        os.environ.setdefault('TOKENIZERS_PARALLELISM', 'true')  # else it falls silent once a process has forked
        return [found.ids for found in self._plain.encode_batch_fast(texts, add_special_tokens=False)]

    def _byte_id(self, byte: int) -> int:
        if byte not in self._byte_ids:
            raise UserError(
                f'the text has bytes that are not UTF-8, and this tokenizer has no token for the byte {byte:#04x}; '
                'remove them'
            )
        return self._byte_ids[byte]

    def _prefix(self) -> tuple[int, ...]:
        """What the file's post-processor puts before a text; without one, what tokenizer_config.json says."""
        if self._settings.get('post_processor') is None:
            return (self.bos_id,) if self._description.add_bos and self.bos_id is not None else ()
        bare = self._plain.encode('a', add_special_tokens=False).ids
        whole = self._plain.encode('a', add_special_tokens=True).ids
        at = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
        return tuple(whole[:at])

    def _losses(self):
        """What of a text may not come back, for people."""
        undone = {
            (step['content'], step['pattern'].get('String'))
            for step in _steps(self._settings.get('decoder'), 'decoders')
            if step['type'] == 'Replace'
        }
        for step in _steps(self._settings.get('normalizer'), 'normalizers'):
            replaces = step['type'] == 'Replace' and (step['pattern'].get('String'), step['content']) in undone
            if not (replaces or step['type'] == 'Prepend'):
                yield f'normalises texts ({step["type"]}), so some come back changed'
        model = self._settings.get('model', {})
        if self._spells_bytes():
            return
        yield f'has no tokens for some characters ({model.get("type")} without all bytes), which come back missing'

    def _spells_bytes(self) -> bool:
        model = self._settings.get('model', {})
        steps = _steps(self._settings.get('pre_tokenizer'), 'pretokenizers')
        byte_level = any(step['type'] == 'ByteLevel' for step in steps)
        return (byte_level or bool(model.get('byte_fallback'))) and len(self._byte_ids) >= 243  # all that UTF-8 uses


def _open(text: str, description: Any) -> Any:
    """The library's object, with the special tokens that only the other files name."""
    import tokenizers

    found = tokenizers.Tokenizer.from_str(text)
    found.no_truncation()
    found.no_padding()
    known = {token.content for token in found.get_added_tokens_decoder().values()}
    more = [token for _, token in sorted(description.added.items()) if token.content not in known]
    more = [tokenizers.AddedToken(t.content, special=t.special, normalized=not t.special) for t in more]
    names = sorted((description.special_texts | description.listed) - known - {t.content for t in more})
    found.add_tokens(more)
    found.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in names])
    for i, token in description.added.items():
        if found.token_to_id(token.content) != i:
            raise ValueError(f'its token {token.content!r} is not {i}, as tokenizer_config.json has it')
    return found


def _decoder(settings: Any, where: pathlib.Path) -> tuple[Callable[[str, bool], bytes], bool]:
    """How a piece becomes bytes, and whether a text's first loses a space.

    Returns:
        A function of a piece and whether it was added to the vocabulary; a truth value.

    Raises:
        UserError: if the decoder is of another kind.
    """
    steps = _steps(settings, 'decoders')
    kinds = [step['type'] for step in steps]
    if kinds == ['ByteLevel']:
        alphabet = {character: byte for byte, character in byte_alphabet().items()}

        def byte_level(piece: str, added: bool) -> bytes:
            if added or not all(character in alphabet for character in piece):
                return piece.encode()
            return bytes(alphabet[character] for character in piece)

        return byte_level, False
    if not kinds or set(kinds) - {'Replace', 'ByteFallback', 'Fuse', 'Strip', 'Metaspace'}:
        raise UserError(
            f'{where / FILE}: the pieces of a decoder {"+".join(kinds) or "of no kind"} have no exact bytes; known are '
            'byte-level tokenizers, and those made like SentencePiece'
        )
    strips = False
    replaced: list[tuple[str, str]] = []
    for step in steps:
        if step['type'] == 'Replace' and 'String' in step['pattern']:
            replaced.append((step['pattern']['String'], step['content']))
        elif step['type'] == 'Metaspace':
            replaced.append((step['replacement'], ' '))
            strips = strips or step.get('prepend_scheme', 'always') != 'never'
        elif step['type'] == 'Strip' and step['content'] == ' ' and step['start'] == 1 and step['stop'] == 0:
            strips = True
        elif step['type'] in ('Replace', 'Strip'):
            raise UserError(f'{where / FILE}: the decoder step {json.dumps(step)} is not known')

    def like_sentencepiece(piece: str, added: bool) -> bytes:
        if 'ByteFallback' in kinds and (found := _BYTE.fullmatch(piece)):
            return bytes([int(found[1], 16)])
        for old, new in replaced:
            piece = piece.replace(old, new)
        return piece.encode()

    return like_sentencepiece, strips


def _steps(settings: Any, name: str) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, one inside the other or not."""
    if settings is None:
        return []
    if settings['type'] == 'Sequence':
        return [step for part in settings[name] for step in _steps(part, name)]
    return [settings]


def byte_alphabet() -> dict[int, str]:
    """The printable character that stands for each byte (Radford et al. 2019, GPT-2).

    Printable bytes of Latin-1 stand for themselves, the others in their order for the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (b for b in range(256) if b not in printable)
    return {b: chr(b) for b in printable} | {b: chr(0x100 + i) for i, b in enumerate(others)}
