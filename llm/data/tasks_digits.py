"""Handwritten digits with words: 1,797 real images of 8 x 8 pixels, which scikit-learn brings along.

They are the test part of "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998, UCI): grey from 0 to 16,
written by 13 people. A quarter of the images, chosen by a hash of their numbers, is for tests: no row of a task has
one. Of the others, one in 20 is held out as everywhere (`llm.data.split`). A row with two images has both from one
side.
"""

import functools
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from llm.data.split import is_held_out
from llm.errors import UserError

SIZE = 8  # pixels a side
TEST_ONE_IN = 4
NUMBERS = (
    *('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven', 'twelve'),
    *('thirteen', 'fourteen', 'fifteen', 'sixteen', 'seventeen', 'eighteen'),
)
CAPTION = '<image> What is it?'
QUESTIONS = {
    'larger': '<image><image> Larger?',
    'same': '<image><image> Same?',
    'sum': '<image><image> Sum?',
}
ANSWER = ': '  # between what was seen and what follows from it
PAIRS = 4  # of an image with another, for each question

Side = Literal['train', 'held_out', 'test']


class Digits(NamedTuple):
    """All images."""

    images: Float32[np.ndarray, 'digits 8 8']  # from 0 to 1
    labels: Int64[np.ndarray, 'digits']


@functools.cache
def digits() -> Digits:
    """Reads them.

    Raises:
        UserError: if scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn; install it with pip install 'glassbox-llm[images]'"
        ) from error
    found = load_digits()
    return Digits((found.images / 16).astype(np.float32), found.target.astype(np.int64))


def identity(number: int) -> str:
    """What decides the side of an image."""
    return f'digits#{number}'


def side(number: int) -> Side:
    """Where an image belongs."""
    if is_held_out(identity(number)):
        return 'held_out'
    test = int(hashlib.sha1(f'test {identity(number)}'.encode()).hexdigest(), 16) % TEST_ONE_IN == 0
    return 'test' if test else 'train'


def numbers(of: Side) -> list[int]:
    """The images of a side."""
    return [number for number in range(len(digits().labels)) if side(number) == of]


def caption(number: int) -> tuple[str, str]:
    """What is asked about an image, and the answer."""
    return CAPTION, f'a handwritten {NUMBERS[digits().labels[number]]}'


def question(kind: str, pair: Sequence[int]) -> tuple[str, str]:
    """What is asked about two images, and what is said: both digits, then the answer. `kind` is one of `QUESTIONS`.

    To name the digits first is to learn what they are from every question, and leaves the rule to be learned of words.
    """
    first, second = (int(digits().labels[number]) for number in pair)
    return QUESTIONS[kind], f'{NUMBERS[first]}, {NUMBERS[second]}{ANSWER}{answer(kind, first, second)}'


def answer(kind: str, first: int, second: int) -> str:
    """The answer for two digits."""
    if kind == 'sum':
        return NUMBERS[first + second]
    if kind == 'same':
        return 'yes' if first == second else 'no'
    return 'equal' if first == second else 'first' if first > second else 'second'


def pairs(kind: str, of: Side, each: int = PAIRS) -> list[tuple[int, int]]:
    """Every image of a side `each` times with another of that side, in either order.

    Which other is drawn at random, from a fixed seed; for 'same', every second one of an image is of the same
    digit; else one in ten is, which is how often two digits are equal.
    """
    own, labels = np.array(numbers(of)), digits().labels
    random = np.random.default_rng(zlib.crc32(f'{kind} {of}'.encode()))
    found = []
    for number in own:
        others = own[own != number]
        alike = labels[others] == labels[number]
        for turn in range(each):
            pool = others
            if kind == 'same':
                pool = others[alike] if turn % 2 else others[~alike]
            pair = (int(number), int(random.choice(pool)))
            found.append(pair if random.random() < 0.5 else pair[::-1])
    return found


def captions() -> Iterator[dict[str, Any]]:
    """The task `digit_captions`."""
    for number in range(len(digits().labels)):
        if side(number) != 'test':
            yield _row((number,), *caption(number))


def questions() -> Iterator[dict[str, Any]]:
    """The task `digit_questions`."""
    for kind in QUESTIONS:
        for of in ('train', 'held_out'):
            for pair in pairs(kind, of):
                yield _row(pair, *question(kind, pair))


def _row(images, prompt, completion):
    pixels = [digits().images[number].tolist() for number in images]
    return {'identity': identity(images[0]), 'prompt': prompt, 'completion': completion, 'images': pixels}
