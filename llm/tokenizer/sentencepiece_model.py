"""Tokenizers in a tokenizer.model that SentencePiece wrote, for directories without a tokenizer.json."""

import pathlib
import re
from collections.abc import Mapping, Sequence

from llm.errors import UserError
from llm.tokenizer.imported import ImportedTokenizer
from llm.tokenizer.interface import require_utf8, string, utf8

FILE = 'tokenizer.model'
_SPACE = '\u2581'
_NOT_UTF8 = re.compile('([\ud800-\udfff]+)')
# A model file is one protocol-buffer message, and what is appended to it is merged into it: this sets
# normalizer_spec.add_dummy_prefix to false.
_NO_PREFIX = b'\x1a\x02\x18\x00'


class SentencePieceTokenizer(ImportedTokenizer):
    """See `llm.tokenizer.open_directory`."""

    def __init__(self, files: Mapping[str, bytes], where: pathlib.Path):
        """
        Args:
            files: by name, tokenizer.model among them.
            where: their folder, for errors.

        Raises:
            UserError: if it cannot be read.
        """
        import sentencepiece

        super().__init__(files, where, FILE)
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=files[FILE])
            self._inside = sentencepiece.SentencePieceProcessor(model_proto=files[FILE] + _NO_PREFIX)
        except RuntimeError as error:
            raise UserError(
                f'{where / FILE} is damaged, or not of SentencePiece; restore it from its source, or convert it to a '
                'tokenizer.json'
            ) from error
        model, added = self._model, self._description.added
        self.leading_space = model.encode_as_pieces('a')[0].startswith(_SPACE)
        self._bytes = [self._bytes_of(i) for i in range(model.vocab_size())]
        ids = {model.id_to_piece(i): i for i in range(model.vocab_size())}
        special = {i: model.id_to_piece(i) for i in range(model.vocab_size()) if model.is_control(i)}
        if model.unk_id() >= 0:
            special[model.unk_id()] = model.id_to_piece(model.unk_id())
        for i, token in sorted(added.items()):
            self._bytes += [b''] * (i + 1 - len(self._bytes))
            self._bytes[i] = token.content.encode()
            ids[token.content] = i
            if token.special:
                special[i] = token.content
        texts = self._description.special_texts | self._description.listed
        special |= {ids[text]: text for text in texts if text in ids and ids[text] not in added}
        for name, i in (('bos', model.bos_id()), ('eos', model.eos_id()), ('unk', model.unk_id())):
            if i >= 0:
                self._description.named.setdefault(name, model.id_to_piece(i))
        self._name_special_tokens(ids, special)
        # What the class that most of these directories name does if they do not say.
        adds = self._description.add_bos is not False
        self.prefix_ids = (self.bos_id,) if adds and self.bos_id is not None else ()
        self._vocab_size = self._count()
        self._byte_ids = {data[0]: i for i, data in enumerate(self._bytes[: model.vocab_size()]) if model.is_byte(i)}
        ordinary = [token.content for i, token in added.items() if i not in self.special]
        self._ordinary = _pattern(ordinary)
        self._apart = re.compile(f'{self._ordinary.pattern}|{_NOT_UTF8.pattern}')  # what SentencePiece is not given
        self._meant = _pattern([*ordinary, *self.special.values()])
        self._ids = ids
        self.losses = tuple(self._losses())

    def encode_batch(self, texts: Sequence[str | bytes], num_threads: int) -> list[list[int]]:
        texts = [string(text) for text in texts]
        if not any(self._apart.search(text) for text in texts):
            return self._model.encode(texts, num_threads=num_threads)
        return [self._encode(text) for text in texts]

    def encode_rendered(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        require_utf8(text)
        ids, spans = [], []
        at = 0
        for i, part in enumerate(self._meant.split(text)):
            if i % 2:
                ids.append(self._ids[part])
                spans.append((at, at + len(part)))
            elif part:
                model = self._model if at == 0 or self._description.legacy else self._inside
                found = model.encode(part)
                ids += found
                spans += self._spans(part, at, found, self.leading_space and model is self._model)
            at += len(part)
        return ids, spans

    def _spans(self, part: str, at: int, ids: Sequence[int], has_space: bool) -> list[tuple[int, int]]:
        """Which characters, counted from `at`, each id has a share in; a space that was put before has none."""
        owner = [at + i for i, character in enumerate(part) for _ in character.encode()]
        spans, done = [], -has_space
        for i in ids:
            first, done = max(done, 0), done + len(self._bytes[i])
            inside = owner[first : max(done, 0)]
            spans.append((inside[0], inside[-1] + 1) if inside else (at, at))
        return spans

    def _encode(self, text: str) -> list[int]:
        ids = []
        for i, part in enumerate(self._ordinary.split(text)):
            if i % 2:
                ids.append(self._ids[part])
                continue
            for j, stretch in enumerate(_NOT_UTF8.split(part)):
                if j % 2:
                    ids += [self._byte_id(b) for b in utf8(stretch)]
                elif stretch:
                    ids += (self._inside if ids and not self._description.legacy else self._model).encode(stretch)
        return ids

    def _byte_id(self, byte: int) -> int:
        if byte not in self._byte_ids:
            raise UserError('the text has bytes that are not UTF-8, and this tokenizer cannot carry them; remove them')
        return self._byte_ids[byte]

    def _bytes_of(self, i: int) -> bytes:
        model = self._model
        if model.is_control(i) or model.is_unknown(i):
            return b''
        piece = model.id_to_piece(i)
        return bytes([int(piece[1:-1], 16)]) if model.is_byte(i) else piece.replace(_SPACE, ' ').encode()

    def _losses(self):
        """What of a text may not come back, for people."""
        if len(self._byte_ids) < 256:
            yield 'has no tokens for some characters, which come back missing'
        probe = ' ﬁ  e\u0301 '
        if self.decode(self.encode(probe)) != probe:
            yield 'normalises texts, so some come back changed'


def _pattern(texts: list[str]) -> re.Pattern:
    """Finds any of some texts, the longest first; splitting by it keeps them."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile('(' + '|'.join(map(re.escape, longest_first)) + ')' if longest_first else '((?!))')
