"""The digits with words: that sides are apart, and that answers are right."""

import collections

import numpy as np
import pytest

pytest.importorskip('sklearn')

from llm.data import tasks_digits as digits
from llm.data.split import is_held_out
from llm.data.tasks import TASKS


def rows_of(task):
    return list(TASKS[task]())


def key(pixels):
    return np.float32(pixels).tobytes()


def test_no_test_image_is_in_a_task_and_sides_share_none():
    labels, sides = digits.digits().labels, ('train', 'held_out', 'test')
    by_side = {side: set(digits.numbers(side)) for side in sides}
    assert sum(map(len, by_side.values())) == len(labels) == len(set.union(*by_side.values())) == 1797
    assert 0.22 < len(by_side['test']) / 1797 < 0.26 and 0.03 < len(by_side['held_out']) / 1797 < 0.07
    pixels = {side: {key(digits.digits().images[i]) for i in numbers} for side, numbers in by_side.items()}
    assert not pixels['train'] & pixels['test']
    seen = {False: set(), True: set()}
    for task in ('digit_captions', 'digit_questions'):
        for row in rows_of(task):
            seen[is_held_out(row['identity'])] |= {key(image) for image in row['images']}
    assert seen[False] == pixels['train'] and seen[True] == pixels['held_out']


def test_answers_are_right():
    """Read back from the rows alone: the label of an image is what its caption says."""
    named = {}
    for row in rows_of('digit_captions'):
        named[key(row['images'][0])] = digits.NUMBERS.index(row['completion'].removeprefix('a handwritten '))
    counts = collections.Counter()
    for row in rows_of('digit_questions'):
        a, b = (named[key(image)] for image in row['images'])
        seen, said = row['completion'].split(': ')
        assert seen == f'{digits.NUMBERS[a]}, {digits.NUMBERS[b]}'
        right = {
            digits.QUESTIONS['larger']: 'equal' if a == b else ['second', 'first'][a > b],
            digits.QUESTIONS['same']: ['no', 'yes'][a == b],
            digits.QUESTIONS['sum']: digits.NUMBERS[a + b],
        }[row['prompt']]
        assert said == right
        counts[row['prompt'], right] += 1
    same = [counts[digits.QUESTIONS['same'], word] for word in ('yes', 'no')]
    assert same[0] == same[1] > 1000
    first, second = (counts[digits.QUESTIONS['larger'], word] for word in ('first', 'second'))
    assert abs(first - second) < 0.1 * (first + second)


def test_pairs_are_of_two_images_and_the_same_every_time():
    for kind in digits.QUESTIONS:
        found = digits.pairs(kind, 'test', each=1)
        assert found == digits.pairs(kind, 'test', each=1)
        assert all(a != b for a, b in found) and len(found) == len(digits.numbers('test'))
