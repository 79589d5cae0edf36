"""What the checks say of answers whose quality is plain to see."""

import pytest

from llm.data import task_checks

PROMPT = 'Write a Python function `mean(values, start=0)`: Return `sum(values)` divided by their number.'


def score(check, answer, prompt=PROMPT):
    (value,) = getattr(task_checks, check)([prompt], [answer])
    assert isinstance(value, float)
    return value


@pytest.mark.parametrize(
    'answer, parses, right',
    [
        ('def mean(values, start=0):\n    return 1', 1, 3),
        ('def mean(values, start = (0)):\n    return 1\n\n', 1, 3),  # spelled otherwise, means the same
        ('def mean(values, start=1):\n    return 1', 1, 2),
        ('def mean(values, *, start=0):\n    return 1', 1, 2),
        ('def mean(start=0, values=0):\n    return 1', 1, 2),
        ('def average(values, start=0):\n    return 1', 1, 2),
        ('def average():\n    return 1', 1, 1),
        ('def mean(values, start=0):\n    return (1', 0, 0),
        ('def mean(values, start=0):', 0, 0),
        ('def mean(values, start=0):\n    return 1\nmean([])', 0, 0),
        ('def mean(values, start=0):\n    return 1\ndef other():\n    pass', 0, 0),
        ('mean = 1', 0, 0),
        ('', 0, 0),
        ('\0', 0, 0),
        ('(' * 5000, 0, 0),
    ],
)
def test_what_is_asked_for(answer, parses, right):
    assert score('parses', answer) == parses
    assert score('as_asked', answer) == (right == 3)
    assert score('signature', answer) == pytest.approx(right / 3)
    shares = score('uses_arguments', answer) + score('known_names', answer)
    assert score('sound', answer) == pytest.approx((right + shares) / 5)


def test_the_first_call_in_backquotes_is_what_is_asked_for():
    assert task_checks.asked_for(PROMPT) == ('mean', 'values, start=0')
    assert task_checks.asked_for('Write `f(a=(1, 2), *, b: str=")")`.') == ('f', "a=(1, 2), *, b: str=')'")
    assert task_checks.asked_for('With `x` and `y z`, write `f()`.') == ('f', '')
    talk = [{'role': 'user', 'content': 'Hi `x()`'}, {'role': 'user', 'content': PROMPT}]
    assert task_checks.asked_for(talk) == ('mean', 'values, start=0')
    with pytest.raises(ValueError, match='Tell me a joke'):
        task_checks.asked_for('Tell me a joke about `pass`')


@pytest.mark.parametrize(
    'body, expected',
    [
        ('pass', 0),
        ('...', 0),
        ('"words"\n    return None', 0),
        ('return', 0),
        ('return 3', 0),
        ('return values', 1),
        ('raise NotImplementedError', 1),
        ('x = 1', 1),
    ],
)
def test_does_something(body, expected):
    assert score('does_something', f'def mean(values, start=0):\n    {body}') == expected


@pytest.mark.parametrize(
    'body, used, known',
    [
        ('return sum(values) + start', 1, 1),
        ('return sum(values)', 1 / 2, 1),
        ('values = 1', 0, 1),
        ('return total / len(values)', 1 / 2, 2 / 3),
        ('total = 0\n    return total / len(values)', 1 / 2, 1),
        ('import os\n    return os.path', 0, 1),
        ('return [v for v in values if re.match(v)]', 1 / 2, 2 / 3),
        ('try:\n        pass\n    except OSError as error:\n        return error', 0, 1),
        ('return sorted(values, key=lambda v: v[start])', 1, 1),
    ],
)
def test_names(body, used, known):
    answer = f'def mean(values, start=0):\n    {body}'
    assert score('uses_arguments', answer) == pytest.approx(used)
    assert score('known_names', answer) == pytest.approx(known)


def test_what_is_no_function_uses_nothing():
    for check in ('does_something', 'uses_arguments', 'known_names'):
        assert score(check, 'garbage (') == 0
    assert score('uses_arguments', 'def f():\n    return x', 'Write `f()`.') == 1


@pytest.mark.parametrize(
    'given, wanted, expected',
    [
        ('Return the sum.', 'return the sum', 1),
        ('the the the', 'the sum', 2 / 5),
        ('sum', 'the sum of x', 2 / 5),
        ('', 'the sum', 0),
        ('other', 'the sum', 0),
    ],
)
def test_word_overlap(given, wanted, expected):
    for form in (wanted, [{'role': 'assistant', 'content': wanted}]):
        assert task_checks.word_overlap(['?'], [given], completion=[form]) == [pytest.approx(expected)]
