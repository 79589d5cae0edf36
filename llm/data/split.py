"""Which documents are held out, and how much of them the rest repeats.

The rule is pinned: a document is held out by the hash of its identity, so it stays on its side when the corpus grows,
on every machine. Documents that are equal byte for byte are kept once, the first of them, before the split.
"""

import collections
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Bool, Integer, UInt64

from llm.data.corpora import Document
from llm.tokenizer import BOS

HELD_OUT_ONE_IN = 20
RUN_LENGTH = 64  # tokens; a run that is shared by this many is copied, not coincidence
_CHUNK = 1 << 22  # tokens of the training stream that are hashed at once (8 bytes each, a few times over)


def is_held_out(identity: str) -> bool:
    """Whether a document is never trained on: one in 20, by the SHA-1 of its identity."""
    return int(hashlib.sha1(identity.encode('utf-8', 'surrogateescape')).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


class Deduplicator:
    """Passes on the documents whose text has not been seen before, in whatever corpus."""

    def __init__(self):
        self.dropped: collections.Counter[str] = collections.Counter()  # documents, by the source they came from
        self._seen: set[bytes] = set()

    def unique(self, source: str, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            digest = hashlib.sha256(document.text).digest()[:16]
            if digest in self._seen:
                self.dropped[source] += 1
            else:
                self._seen.add(digest)
                yield document


def copied_tokens(
    held_out: Integer[np.ndarray, 'held_out'],
    train: Iterable[Integer[np.ndarray, '_']],
    run_length: int = RUN_LENGTH,
    start_id: int = BOS,
) -> Bool[np.ndarray, 'held_out']:
    """Marks the held-out tokens that lie in a run of at least `run_length` tokens that occurs in a training stream.

    A run stays within a document: windows over the token that starts one are left out. Runs are compared by a 64-bit
    polynomial hash, so a wrong match is possible and never seen.

    Args:
        held_out: token ids of held-out documents, one after the other.
        train: streams of training documents.
        run_length: a power of two.
        start_id: the token that starts a document.
    """
    marks = np.zeros(len(held_out), bool)
    wanted, has_window = _window_hashes(held_out, start_id, run_length)
    starts = np.flatnonzero(has_window)
    unique, inverse = np.unique(wanted[starts], return_inverse=True)
    if not len(unique):
        return marks
    found = np.zeros(len(unique), bool)
    for stream in train:
        for start in range(0, len(stream), _CHUNK):
            hashes, has_window = _window_hashes(stream[start : start + _CHUNK + run_length - 1], start_id, run_length)
            place = np.minimum(np.searchsorted(unique, hashes), len(unique) - 1)
            found[place[(unique[place] == hashes) & has_window]] = True
    # A window marks all its tokens: count windows opened minus windows closed.
    depth = np.zeros(len(held_out) + 1, np.int64)
    opened = starts[found[inverse]]
    np.add.at(depth, opened, 1)
    np.add.at(depth, opened + run_length, -1)
    return np.cumsum(depth)[:-1] > 0


def _window_hashes(
    tokens: Integer[np.ndarray, 'n'], start_id: int, length: int
) -> tuple[UInt64[np.ndarray, 'windows'], Bool[np.ndarray, 'windows']]:
    """The hash of each window of `length` tokens, and whether the window stays within a document.

    The hash of 2k tokens is that of the first k times base^k plus that of the next k, so log2(length) passes do.
    """
    tokens = np.asarray(tokens)
    if len(tokens) < length:
        return np.zeros(0, np.uint64), np.zeros(0, bool)
    base = np.uint64(0x9E3779B97F4A7C15)  # odd, else arbitrary
    with np.errstate(over='ignore'):
        hashes = _spread(tokens.astype(np.uint64))
        size = 1
        while size < length:
            hashes = hashes[:-size] * base + hashes[size:]
            base, size = base * base, 2 * size
    breaks = np.concatenate([[0], np.cumsum(tokens == start_id)])
    return hashes, breaks[length:] == breaks[:-length]


def _spread(x: UInt64[np.ndarray, 'n']) -> UInt64[np.ndarray, 'n']:
    """Spreads small numbers over 64 bits (SplitMix64; Steele et al. 2014)."""
    x = (x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
