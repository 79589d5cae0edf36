"""What pixels say to a linear model: logistic regression, on one image or on two beside each other.

Each has the images and the answers that the language model learned from. How strongly it is regularised is chosen by
its accuracy on the images that are held out of training, which are not those of the test.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm.data import tasks_digits

STRENGTHS = (0.01, 0.1, 1.0)  # scikit-learn's C, the inverse of the penalty
CAPTION = 'caption'


class Asked(NamedTuple):
    """Questions of one kind."""

    numbers: list[tuple[int, ...]]  # the images that each is about
    prompt: str
    answers: list[str]  # the right ones, without what a model says before


def asked(kind: str, side: tasks_digits.Side, each: int = tasks_digits.PAIRS) -> Asked:
    """All questions of a kind about the images of a side; `each` is pairs for an image."""
    if kind == CAPTION:
        numbers = [(number,) for number in tasks_digits.numbers(side)]
        answers = [tasks_digits.caption(number)[1] for (number,) in numbers]
        return Asked(numbers, tasks_digits.CAPTION, answers)
    pairs, labels = tasks_digits.pairs(kind, side, each), tasks_digits.digits().labels
    answers = [tasks_digits.answer(kind, *(int(labels[number]) for number in pair)) for pair in pairs]
    return Asked(pairs, tasks_digits.QUESTIONS[kind], answers)


def test_of(kind: str) -> Asked:
    """The test: every test image once, in its caption or in a pair. In pairs of 'same', every second digit is."""
    if kind != 'same':
        return asked(kind, 'test', 1)
    both = asked(kind, 'test', 2)  # of every image one pair of different digits, then one of the same
    chosen = [2 * image + image % 2 for image in range(len(both.numbers) // 2)]
    return Asked([both.numbers[i] for i in chosen], both.prompt, [both.answers[i] for i in chosen])


def most_common(kind: str, test: Asked) -> list[str]:
    """What is right most often in training, whatever is asked about."""
    answers = asked(kind, 'train').answers
    return [max(sorted(set(answers)), key=answers.count)] * len(test.answers)


def linear(kind: str, test: Asked) -> list[str]:
    """The answers of a linear probe of all pixels that a question is about."""
    train, held_out = asked(kind, 'train'), asked(kind, 'held_out')
    probe = _fit(_pixels(train.numbers), train.answers, _pixels(held_out.numbers), held_out.answers)
    return probe.predict(_pixels(test.numbers)).tolist()


def composed(kind: str, test: Asked) -> list[str]:
    """The answers that follow from what a linear probe of single images takes each digit for.

    It is told the rule (which digit is larger, what is the sum) that the others have to learn.
    """
    numbers = sorted({number for pair in test.numbers for number in pair})
    read = linear(CAPTION, Asked([(number,) for number in numbers], '', [''] * len(numbers)))
    digit = {number: _digit(text) for number, text in zip(numbers, read)}
    return [tasks_digits.answer(kind, *(digit[number] for number in pair)) for pair in test.numbers]


def _digit(caption: str) -> int:
    return tasks_digits.NUMBERS.index(caption.rpartition(' ')[2])


def _pixels(numbers: Sequence[tuple[int, ...]]) -> np.ndarray:
    images = tasks_digits.digits().images
    return np.stack([np.concatenate([images[number].ravel() for number in some]) for some in numbers])


def _fit(x: np.ndarray, y: list[str], held_x: np.ndarray, held_y: list[str]):
    from sklearn.linear_model import LogisticRegression

    probes = [LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(x, y) for strength in STRENGTHS]
    return max(probes, key=lambda probe: probe.score(held_x, held_y))
