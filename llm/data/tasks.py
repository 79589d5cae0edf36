"""Rows to learn from that come with the program: `data.corpora task:NAME`.

A task is a function that yields rows as a JSONL file would hold them (see docs/chat.md), each with an `identity` that
decides whether it is held out. Rows about Python are made from the installed standard library, so they are there on
every machine, and a row is held out where pretraining on `python_stdlib` holds out the file it comes from.

    python_functions    write the function with this signature, which does this
    python_docstrings   say in a sentence what this function does
    python_bodies       the same functions as plain texts, without roles: go on after signature and docstring
    digit_captions      say which digit this image of a handwritten one is (needs scikit-learn, see `tasks_digits`)
    digit_questions     of two such images: which is larger, are they the same digit, what is the sum
"""

from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]


def _python_functions() -> Iterator[Row]:
    from llm.data import tasks_python

    return tasks_python.functions()


def _python_docstrings() -> Iterator[Row]:
    from llm.data import tasks_python

    return tasks_python.docstrings()


def _python_bodies() -> Iterator[Row]:
    from llm.data import tasks_python

    return tasks_python.bodies()


def _digit_captions() -> Iterator[Row]:
    from llm.data import tasks_digits

    return tasks_digits.captions()


def _digit_questions() -> Iterator[Row]:
    from llm.data import tasks_digits

    return tasks_digits.questions()


TASKS: dict[str, Callable[[], Iterator[Row]]] = {
    'python_functions': _python_functions,
    'python_docstrings': _python_docstrings,
    'python_bodies': _python_bodies,
    'digit_captions': _digit_captions,
    'digit_questions': _digit_questions,
}
