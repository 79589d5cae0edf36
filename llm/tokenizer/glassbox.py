"""Our own tokenizer: text to ids and back, exactly.

Whatever the kind, the ids start the same:

    0 <pad>   1 <bos>   2 <eos>   3 <unk>   4 <|system|>   5 <|user|>   6 <|assistant|>   7 <|end|>
    8 ... 15 <|reserved_0|> ... <|reserved_7|>
    16 + b    the single byte b
    272 ...   what was learned from text

Learned pieces come from SentencePiece (Kudo & Richardson 2018), as byte-pair merges (Sennrich et al. 2016) or a unigram
model (Kudo 2018). Three things it does to text are undone here, so that any bytes survive the round trip:

- It writes a space as "▁", so a "▁" in the text would come back as a space: such characters become byte tokens.
- It skips training text with a tab in it: a tab travels as a private character, and is learned like any other.
- Its decoder drops what it finds odd. Ours is a table from id to bytes.

Special tokens never come from text, however it spells them: only code that asks for an id gets one.
"""

import hashlib
import io
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from llm.config import TokenizerConfig
from llm.errors import UserError
from llm.tokenizer.interface import Tokenizer, string, utf8

MODEL_FILE = 'tokenizer.model'  # in a run's folder
SPECIAL_TOKENS = (
    *('<pad>', '<bos>', '<eos>', '<unk>', '<|system|>', '<|user|>', '<|assistant|>', '<|end|>'),
    *(f'<|reserved_{i}|>' for i in range(8)),
)
PAD, BOS, EOS, UNK = range(4)
FIRST_BYTE = len(SPECIAL_TOKENS)
SMALLEST_VOCABULARY = FIRST_BYTE + 256

_TAB = '\uf009'  # stands for a tab inside SentencePiece: U+F000 + the code of the tab
_SPACE = '\u2581'  # stands for a space inside SentencePiece
_BOUNDARY = '\u2585'  # SentencePiece's own mark between words, while it trains
# What SentencePiece cannot carry: its own marks, ours, and surrogates, as which Python reads bytes that are not UTF-8.
_FOREIGN = re.compile(f'([{_SPACE}{_BOUNDARY}{_TAB}\ud800-\udfff]+)')

_CHUNK = 2000  # characters of one training sentence
_THREADS = 16  # the model depends on how the text is dealt out to threads, so their number is not the machine's
_BYTE_MODEL = b'Glassbox byte tokenizer: 16 special tokens, then byte b as id 16 + b.\n'
# The SHA-256 ends the model file, as a protocol-buffer field (1000, bytes) that SentencePiece passes over.
_DIGEST_FIELD = b'\xc2\x3e\x20'


class GlassboxTokenizer(Tokenizer):
    """Reads and writes ids. Make one with `train` or `GlassboxTokenizer.load`."""

    pad_id, bos_id, eos_id, unk_id = PAD, BOS, EOS, UNK
    prefix_ids, stop_ids = (BOS,), (EOS,)
    special = dict(enumerate(SPECIAL_TOKENS))
    exact = True

    def __init__(self, model: bytes):
        """Opens the content of a model file.

        Raises:
            UserError: if it is damaged, or not a model of ours.
        """
        self._model = model
        self._bytes = [b''] * FIRST_BYTE + [bytes([b]) for b in range(256)]
        self._sentencepiece = None
        if model != _BYTE_MODEL:
            self._sentencepiece = _open_sentencepiece(model)
            pieces = map(self._sentencepiece.id_to_piece, range(SMALLEST_VOCABULARY, self._sentencepiece.vocab_size()))
            self._bytes += [p.replace(_SPACE, ' ').replace(_TAB, '\t').encode() for p in pieces]

    @classmethod
    def load(cls, path: str | pathlib.Path) -> 'GlassboxTokenizer':
        """Opens a model file.

        Raises:
            UserError: if it is missing, damaged, or not a model of ours.
        """
        try:
            model = pathlib.Path(path).read_bytes()
        except OSError as error:
            raise UserError(f'cannot read the tokenizer {path} ({error.strerror})') from error
        try:
            return cls(model)
        except UserError as error:
            raise UserError(f'{path}: {error}') from error

    @staticmethod
    def is_ours(model: bytes) -> bool:
        """Whether the content of a model file is one of ours, as far as its end shows."""
        return model == _BYTE_MODEL or model[-32 - len(_DIGEST_FIELD) : -32] == _DIGEST_FIELD

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the model file, as a whole or not at all."""
        path = pathlib.Path(path)
        temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
        temporary.write_bytes(self._model)
        os.replace(temporary, path)

    def save_in(self, folder: str | pathlib.Path) -> None:
        self.save(pathlib.Path(folder) / MODEL_FILE)

    @property
    def kind(self) -> str:
        """'bpe', 'unigram' or 'byte', as `tokenizer.kind` has it."""
        if self._sentencepiece is None:
            return 'byte'
        # Merges are scored by their rank, unigram pieces by a log-probability, which is no whole number.
        scores = map(self._sentencepiece.get_score, range(SMALLEST_VOCABULARY, self.vocab_size))
        return 'bpe' if all(score == round(score) for score in scores) else 'unigram'

    def pieces(self) -> list[tuple[str, float]]:
        """Each id's text, as SentencePiece writes it, and score."""
        if self._sentencepiece is None:
            return [*((name, 0.0) for name in SPECIAL_TOKENS), *((f'<0x{b:02X}>', 0.0) for b in range(256))]
        model = self._sentencepiece
        return [(model.id_to_piece(i), model.get_score(i)) for i in range(model.vocab_size())]

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self._model).hexdigest()

    def encode_batch(self, texts: Sequence[str | bytes], num_threads: int) -> list[list[int]]:
        if self._sentencepiece is None:
            return [[FIRST_BYTE + b for b in utf8(text)] for text in texts]
        # Each text is cut into stretches that alternate: ordinary, foreign, ordinary, ... ordinary.
        stretches = [_FOREIGN.split(string(text)) for text in texts]
        ordinary = [stretch.replace('\t', _TAB) for parts in stretches for stretch in parts[::2]]
        encoded = iter(self._sentencepiece.encode(ordinary, num_threads=num_threads))
        result = []
        for parts in stretches:
            ids = next(encoded)
            for foreign in parts[1::2]:
                ids += [FIRST_BYTE + b for b in utf8(foreign)]
                ids += next(encoded)
            result.append(ids)
        return result


def train(config: TokenizerConfig, vocab_size: int, texts: Iterable[str]) -> GlassboxTokenizer:
    """Learns a vocabulary. The same texts and settings give the same model file.

    Args:
        config: which kind, and how.
        vocab_size: tokens in all, special and byte tokens included. The byte tokenizer has 272 whatever this says.
        texts: documents, or parts of documents.

    Raises:
        UserError: if the texts cannot fill the vocabulary, or the vocabulary cannot hold what it has to.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise UserError(
            f'model.vocab_size is {vocab_size}; it must be at least {SMALLEST_VOCABULARY}, '
            f'for {FIRST_BYTE} special tokens and 256 bytes'
        )
    if config.kind == 'byte':
        return GlassboxTokenizer(_BYTE_MODEL)
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(chunk for text in texts for chunk in _sentences(text)),
            model_writer=model,
            model_type=config.kind,
            vocab_size=vocab_size,
            # Every token's place: the special ones, then the bytes.
            **{f'{name}_id': i for i, name in enumerate(('pad', 'bos', 'eos', 'unk'))},
            **{f'{name}_piece': f'<{name}>' for name in ('pad', 'bos', 'eos', 'unk')},
            control_symbols=list(SPECIAL_TOKENS[4:]),
            byte_fallback=True,
            # Text is kept as it is.
            normalization_rule_name='identity',
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            # What may be a piece: indentation, a line's end with what precedes it, but never two digits if so chosen.
            allow_whitespace_only_pieces=True,
            split_by_unicode_script=False,
            split_digits=config.split_digits,
            max_sentencepiece_length=32,  # characters; with the default 16, 3.27 instead of 3.29 bytes a token
            character_coverage=0.9995,  # share of characters that get a piece; the rest are spelled in bytes
            required_chars=_TAB,  # a tab spelled in bytes would be the private character's three bytes
            max_sentence_length=4 * _CHUNK + 4,  # bytes, so no chunk of ours is passed over
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(error, vocab_size) from error
    proto = model.getvalue()
    return GlassboxTokenizer(proto + _DIGEST_FIELD + hashlib.sha256(proto).digest())


def training_chunks(text: str) -> Iterator[str]:
    """Cuts a text where lines end into stretches that SentencePiece learns from.

    Lines stay together, because a sentence that ends with each line would keep "\\n" out of all longer pieces: over the
    standard library 4,096 pieces then carry 2.93 bytes each, and like this 3.27.
    """
    buffer = ''
    for line in text.splitlines(keepends=True):
        if buffer and len(buffer) + len(line) > _CHUNK:
            yield buffer
            buffer = ''
        buffer += line
        while len(buffer) > _CHUNK:  # a line that is too long by itself
            yield buffer[:_CHUNK]
            buffer = buffer[_CHUNK:]
    if buffer:
        yield buffer


def _sentences(text: str) -> Iterator[str]:
    """What SentencePiece reads: chunks without the characters that it cannot carry."""
    for stretch in _FOREIGN.split(text)[::2]:
        for chunk in training_chunks(stretch):
            yield chunk.replace('\t', _TAB)


def _explain(error: RuntimeError, vocab_size: int) -> Exception:
    """SentencePiece's complaint about the vocabulary, as one line with the way out."""
    message = str(error)
    if found := re.search(r'set it to a value <= (\d+)', message):
        return UserError(f'model.vocab_size is {vocab_size}; this corpus can fill at most {found[1]}')
    if found := re.search(r'smaller than required_chars\. \d+ vs (\d+)', message):
        return UserError(
            f'model.vocab_size is {vocab_size}; it must be at least {found[1]}, for special tokens, bytes and the '
            "corpus's characters, or set tokenizer.kind to byte"
        )
    return UserError(f'no vocabulary can be learned from this corpus ({message}); give it more text')


def _open_sentencepiece(model: bytes):
    import sentencepiece

    damaged = UserError('not a tokenizer of ours, or damaged; restore it from a copy, or train it again')
    end = len(model) - len(_DIGEST_FIELD) - hashlib.sha256().digest_size
    if end < 0 or model[end:] != _DIGEST_FIELD + hashlib.sha256(model[:end]).digest():
        raise damaged
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise damaged from error
