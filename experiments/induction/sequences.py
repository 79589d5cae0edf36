"""Sequences that only their own past can predict.

A document is 62 letters and digits. In the corpus that repeats itself it is a block of 10 to 31 different characters,
drawn anew for each document, said again until the document is full; in the other one every character is drawn for
itself. The length of the block differs, so a head that looks back a fixed distance does not predict the next character:
it has to find the place where the present one stood before.
"""

import json
import pathlib
import string

import numpy as np

from experiments.induction.plan import BOS, FIRST_BYTE, LENGTH, corpus_file
from llm.analysis import lens
from llm.workdir import write_atomically

ALPHABET = string.ascii_letters + string.digits
PERIODS = (10, 31)  # shortest and longest block


def write_corpora(folder: pathlib.Path, documents: int) -> None:
    """Writes both corpora, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for repeats in (True, False):
        path, random = corpus_file(folder, repeats), np.random.default_rng(int(repeats))
        if path.is_file() and path.read_bytes().count(b'\n') == documents:
            continue
        lines = (json.dumps({'text': document(random, repeats)}) for _ in range(documents))
        write_atomically(path, '\n'.join(lines) + '\n')


def document(random: np.random.Generator, repeats: bool) -> str:
    """One document."""
    if not repeats:
        return ''.join(random.choice(list(ALPHABET), LENGTH))
    block = random.permutation(list(ALPHABET))[: random.integers(PERIODS[0], PERIODS[1] + 1)]
    return ''.join(np.resize(block, LENGTH))


def measured_tokens(rows: int, period: int, seed: int) -> np.ndarray:
    """(rows, 1 + 2 period) int32: a beginning of sequence, a block of different characters, and the block again."""
    letters = np.array([FIRST_BYTE + ord(character) for character in ALPHABET])
    return np.pad(letters[lens.repeated_tokens(LENGTH, rows, period, seed=seed)], ((0, 0), (1, 0)), constant_values=BOS)
