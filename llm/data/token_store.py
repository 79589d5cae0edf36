"""Tokens on disk: one flat stream that any sequence length can be cut from.

    tokens.bin        BOS document EOS BOS document EOS ..., as uint16, or uint32 for large vocabularies
    offsets.bin       where in the stream each document's BOS is, and the length of the stream (int64)
    bytes.bin         UTF-8 bytes of each document (int64)
    identities.json   each document's identity
    meta.json         where it comes from, and the SHA-256 of the other files

A store holds one side, train or held-out, of one corpus. BOS is the tokenizer's `start_id`, EOS its `end_id`. They may
be one token, so a document's start is told by the offsets alone.
"""

import functools
import hashlib
import itertools
import json
import os
import pathlib
import platform
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt

from llm.data.corpora import Document
from llm.errors import UserError
from llm.tokenizer import Tokenizer
from llm.workdir import write_atomically

_INDEX = np.dtype('<i8')
_BATCH = 1 << 20  # bytes of text that are tokenised at once


class TokenStore:
    """Reads a store; the tokens stay on disk until they are looked at."""

    tokens: UInt[np.ndarray, 'tokens']  # the stream
    offsets: Int64[np.ndarray, 'documents+1']  # of each document's BOS
    document_bytes: Int64[np.ndarray, 'documents']  # UTF-8 bytes of each

    def __init__(self, path: pathlib.Path, meta: dict):
        self.path = path
        self.meta = meta
        self.tokens = np.memmap(path / 'tokens.bin', meta['dtype'], mode='r')
        self.offsets = np.fromfile(path / 'offsets.bin', _INDEX)
        self.document_bytes = np.fromfile(path / 'bytes.bin', _INDEX)

    @classmethod
    def open(cls, path: str | os.PathLike, verify: bool = True) -> 'TokenStore':
        """Opens a store.

        Args:
            path: its folder.
            verify: compare every file with its SHA-256 (about a second per gigabyte).

        Raises:
            UserError: if a file is missing or damaged.
        """
        path = pathlib.Path(path)
        name = 'meta.json'
        try:
            meta = json.loads((path / name).read_text(encoding='utf-8'))
            if verify:
                for name, expected in meta['sha256'].items():
                    if _sha256(path / name) != expected:
                        raise ValueError('its SHA-256 is not the one it was written with')
            return cls(path, meta)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f'the token store file {path / name} is damaged ({error}); delete the folder {path.parent}, or clean '
                'the cache with `python -m llm cache --clean token_stores --yes`, and run again'
            ) from error

    @property
    def source(self) -> str:
        return self.meta['source']

    @property
    def num_documents(self) -> int:
        return len(self.document_bytes)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return int(self.document_bytes.sum())

    @property
    def num_tokens(self) -> int:
        """Tokens that a model predicts: the documents' and an EOS each, but no BOS."""
        return len(self.tokens) - self.num_documents

    @functools.cached_property
    def identities(self) -> list[str]:
        return json.loads((self.path / 'identities.json').read_text(encoding='utf-8'))

    def is_start(self, places: Integer[np.ndarray, '*shape']) -> Bool[np.ndarray, '*shape']:
        """Whether a document begins at each of these places of the stream."""
        return self.offsets[np.searchsorted(self.offsets, places, side='right') - 1] == places

    def document(self, index: int) -> UInt[np.ndarray, '_']:
        """The tokens of one document, without BOS and EOS."""
        return self.tokens[self.offsets[index] + 1 : self.offsets[index + 1] - 1]


class StoreWriter:
    """Writes a store, document by document."""

    def __init__(self, path: pathlib.Path, source: str, tokenizer: Tokenizer):
        path.mkdir()
        self._path, self._source, self._tokenizer = path, source, tokenizer
        self._start, self._end = tokenizer.start_id, tokenizer.end_id
        self._dtype = np.dtype('<u2' if tokenizer.vocab_size <= 1 << 16 else '<u4')
        self._file = open(path / 'tokens.bin', 'wb')  # noqa: SIM115 - closed by finish
        self._offsets, self._bytes, self._identities = [0], [], []

    def add(self, document: Document, ids: Sequence[int]) -> None:
        # Not np.tofile and np.save, which do not say why when the disk is full.
        self._file.write(np.array([self._start, *ids, self._end], self._dtype).tobytes())
        self._offsets.append(self._offsets[-1] + len(ids) + 2)
        self._bytes.append(len(document.text))
        self._identities.append(document.identity)

    def finish(self) -> None:
        self._file.close()
        (self._path / 'offsets.bin').write_bytes(np.array(self._offsets, _INDEX).tobytes())
        (self._path / 'bytes.bin').write_bytes(np.array(self._bytes, _INDEX).tobytes())
        write_atomically(self._path / 'identities.json', json.dumps(self._identities))
        files = ('tokens.bin', 'offsets.bin', 'bytes.bin', 'identities.json')
        meta = {
            'source': self._source,
            'tokenizer_sha256': self._tokenizer.digest,
            'vocab_size': self._tokenizer.vocab_size,
            'dtype': self._dtype.str,
            'documents': len(self._bytes),
            'bytes': sum(self._bytes),
            'tokens': self._offsets[-1],
            'versions': {'python': platform.python_version(), 'numpy': np.__version__},
            'sha256': {name: _sha256(self._path / name) for name in files},
        }
        write_atomically(self._path / 'meta.json', json.dumps(meta, indent=2) + '\n')


def tokenize(
    documents: Iterable[tuple[Any, Document]], tokenizer: Tokenizer
) -> Iterator[tuple[Any, Document, list[int]]]:
    """Adds the ids to labelled documents, in order, on all CPUs (SentencePiece lets go of Python's lock)."""
    threads = len(os.sched_getaffinity(0))
    batch, size = [], 0
    for label, document in itertools.chain(documents, [(None, None)]):
        if document is None or size >= _BATCH:
            encoded = tokenizer.encode_batch([d.text for _, d in batch], threads)
            yield from ((*pair, ids) for pair, ids in zip(batch, encoded))
            batch, size = [], 0
        if document is not None:
            batch.append((label, document))
            size += len(document.text)


def _sha256(path: pathlib.Path) -> str:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
