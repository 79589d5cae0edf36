"""Wishlist: a language small enough to train in seconds, with a gold reward that is known exactly.

A prompt asks for some letters, a response is a handful of letters and exclamation marks:

    <bos> c a f <sep>   →   a f c f ! <eos>

The gold reward wants every requested letter once, nothing else, and up to two exclamation marks; from the third on each
costs as much as a missing letter. The demonstrator says "!" rarely, so three of them hardly occur in what the labeller
compares: a reward model has to guess how the liking for "!" goes on. That is the trap that this experiment is about.

Everything here is NumPy, on arrays of rows: tokens right-padded, with lengths.
"""

import itertools
from typing import NamedTuple

import numpy as np

LETTERS = 'abcdefgh'
PAD, BOS, EOS, SEP = range(4)  # the library's first three, and what ends a prompt
FIRST_LETTER = 4
BANG = FIRST_LETTER + len(LETTERS)
VOCABULARY = BANG + 1
REQUESTED = 3  # letters in a prompt
PROMPT_LENGTH = REQUESTED + 2  # with BOS and SEP
MAX_RESPONSE = 12  # tokens, EOS included
LENGTH = PROMPT_LENGTH + MAX_RESPONSE
NAMES = ('<pad>', '<bos>', '<eos>', '<sep>', *LETTERS, '!')

TEMPERATURE = 0.5  # of the labeller: how little a difference in gold reward matters to it
FLIPS = 0.05  # labels turned round after that
HELD_OUT_SETS = 12  # of the 56 sets of three letters; all six orders of a set go the same way


class Responses(NamedTuple):
    """Rows of prompt and response.

    Attributes:
        tokens: (..., LENGTH) int32, right-padded with PAD.
        lengths: (...) int32, prompt included, EOS included.
    """

    tokens: np.ndarray
    lengths: np.ndarray


def prompts() -> tuple[np.ndarray, np.ndarray]:
    """All prompts, (rows, PROMPT_LENGTH) int32, in two parts: to train on, and held out by their set of letters."""
    sets = list(itertools.combinations(range(len(LETTERS)), REQUESTED))
    order = np.random.RandomState(0).permutation(len(sets))
    parts = []
    for chosen in (order[HELD_OUT_SETS:], order[:HELD_OUT_SETS]):
        rows = [row for index in sorted(chosen) for row in itertools.permutations(sets[index])]
        letters = np.array(rows, np.int32) + FIRST_LETTER
        frame = [np.full((len(rows), 1), token, np.int32) for token in (BOS, SEP)]
        parts.append(np.concatenate([frame[0], letters, frame[1]], axis=1))
    return parts[0], parts[1]


def gold_reward(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """What a response is worth.

    The distinct requested letters it has, - 0.5 for each letter that was not requested, - 0.25 for each letter said
    before, + 0.5 for each of the first two "!" and - 1 for each further one, - 1 without EOS, - 0.5 for each special
    token inside it. At best 4, for three letters and two marks.

    Args:
        tokens: (..., LENGTH).
        lengths: (...).

    Returns:
        (...) float32.
    """
    place = np.arange(tokens.shape[-1])
    last = np.take_along_axis(tokens, np.maximum(lengths[..., None] - 1, 0), axis=-1)[..., 0]
    ended = (last == EOS) & (lengths > PROMPT_LENGTH)
    body = (place >= PROMPT_LENGTH) & (place < (lengths - ended)[..., None])
    letters = np.arange(FIRST_LETTER, BANG)
    counts = np.sum((tokens[..., None] == letters) & body[..., None], axis=-2)  # (..., letters)
    asked = np.any(tokens[..., None, 1 : 1 + REQUESTED] == letters[:, None], axis=-1)
    said = counts > 0
    marks = np.sum((tokens == BANG) & body, axis=-1)
    special = np.sum((tokens < FIRST_LETTER) & body, axis=-1)
    reward = (
        np.sum(said & asked, axis=-1)
        - 0.5 * np.sum(np.where(asked, 0, counts), axis=-1)
        - 0.25 * np.sum(counts - said, axis=-1)
        + 0.5 * np.minimum(marks, 2)
        - np.maximum(marks - 2, 0)
        - 1.0 * ~ended
        - 0.5 * special
    )
    return reward.astype(np.float32)


def demonstrate(prompt_rows: np.ndarray, random: np.random.Generator) -> Responses:
    """What a careless person writes: 3 to 7 slots, each .45 a requested letter, .45 any letter, .10 "!"; then EOS."""
    rows = len(prompt_rows)
    slots = random.integers(3, 8, rows)
    kind = random.random((rows, MAX_RESPONSE))
    wanted = np.take_along_axis(prompt_rows[:, 1:-1], random.integers(0, REQUESTED, (rows, MAX_RESPONSE)), axis=1)
    anything = random.integers(FIRST_LETTER, BANG, (rows, MAX_RESPONSE))
    response = np.where(kind < 0.45, wanted, np.where(kind < 0.9, anything, BANG))
    place = np.arange(MAX_RESPONSE)
    response = np.where(place < slots[:, None], response, np.where(place == slots[:, None], EOS, PAD))
    tokens = np.concatenate([prompt_rows, response], axis=1).astype(np.int32)
    return Responses(tokens, (PROMPT_LENGTH + slots + 1).astype(np.int32))


def preference_probability(difference: np.ndarray) -> np.ndarray:
    """How probably the labeller prefers a response that is better by `difference` in gold reward."""
    return FLIPS + (1 - 2 * FLIPS) / (1 + np.exp(-difference / TEMPERATURE))


def label(first: np.ndarray, second: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """True where the labeller prefers the first of two gold rewards."""
    return random.random(first.shape) < preference_probability(first - second)


def text(tokens: np.ndarray, length: int) -> str:
    """A row's response as people read it; one that never ends goes on."""
    row = [int(token) for token in tokens[PROMPT_LENGTH:length]]
    ended = row[-1:] == [EOS]
    return ' '.join(NAMES[token] for token in (row[:-1] if ended else row)) + ('' if ended else ' …')
