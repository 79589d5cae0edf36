"""Sequences that only their own past can predict.

A document is 62 letters and digits. It begins with 6 to 16 that are drawn anew. In the corpus that repeats itself all
that follows are spans of 6 to 16 characters which stood somewhere before in the document, wherever that was; in the
other corpus every character is drawn anew. Nothing is known of how far back a span comes from, so it is of no use to
look back a fixed distance: a head has to find the place where the present character stood before.
"""

import json
import pathlib
import string

import numpy as np

from experiments.induction.plan import BOS, FIRST_BYTE, LENGTH, corpus_file
from llm.analysis import lens
from llm.workdir import write_atomically

ALPHABET = string.ascii_letters + string.digits
SPANS = (6, 16)  # characters of the shortest and of the longest span
_TOKENS = np.array([FIRST_BYTE + ord(character) for character in ALPHABET], np.int32)


def write_corpora(folder: pathlib.Path, documents: int) -> None:
    """Writes both corpora, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for repeats in (True, False):
        path, random = corpus_file(folder, repeats), np.random.default_rng(int(repeats))
        if path.is_file() and path.read_bytes().count(b'\n') == documents:
            continue
        texts = (''.join(ALPHABET[index] for index in document(random, repeats)[0]) for _ in range(documents))
        write_atomically(path, '\n'.join(json.dumps({'text': text}) for text in texts) + '\n')


def document(random: np.random.Generator, repeats: bool) -> tuple[np.ndarray, np.ndarray]:
    """One document: its characters, as places in the alphabet, and which of them go on with a span that stood before.

    The first character of a span does not: nothing tells that one begins.
    """
    text, goes_on = random.integers(len(ALPHABET), size=LENGTH), np.zeros(LENGTH, bool)
    place = random.integers(SPANS[0], SPANS[1] + 1)
    while repeats and place < LENGTH:
        length = min(random.integers(SPANS[0], SPANS[1] + 1), place, LENGTH - place)
        start = random.integers(place - length + 1)
        text[place : place + length] = text[start : start + length]
        goes_on[place + 1 : place + length] = True
        place += length
    return text, goes_on


def measured_documents(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Documents that repeat themselves, as tokens, (rows, 63) int32 with a beginning of sequence, and which go on."""
    random = np.random.default_rng((seed, 2))
    texts, goes_on = zip(*(document(random, repeats=True) for _ in range(rows)))
    return _begun(_TOKENS[np.stack(texts)]), np.pad(np.stack(goes_on), ((0, 0), (1, 0)))


def measured_blocks(rows: int, period: int, seed: int) -> np.ndarray:
    """(rows, 1 + 2 period) int32: a beginning of sequence, a block of different characters, and the block again."""
    return _begun(_TOKENS[lens.repeated_tokens(LENGTH, rows, period, seed=seed)])


def _begun(tokens: np.ndarray) -> np.ndarray:
    return np.pad(tokens, ((0, 0), (1, 0)), constant_values=BOS)
