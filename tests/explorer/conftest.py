"""Explorers of tiny random models."""

import pytest
from tiny_runs import OTHER, make_run

from llm.explorer.explorer import Explorer
from llm.explorer.runs import open_runs

PROMPT = 'an apple, an apple'


@pytest.fixture(scope='session')
def runs_folder(tmp_path_factory):
    """`one` (two checkpoints), `other` (ALiBi, a window in its second block) and `empty` (no checkpoint)."""
    folder = tmp_path_factory.mktemp('runs')
    make_run(folder / 'one', steps=(1, 2))
    make_run(folder / 'other', OTHER)
    make_run(folder / 'empty', steps=())
    return folder


@pytest.fixture(scope='session')
def explorer(runs_folder):
    return Explorer(open_runs([runs_folder / 'one', runs_folder / 'other']), 'def ')


@pytest.fixture(scope='session')
def ask(explorer):
    """A function from method, path and fields to the answer."""
    return lambda method, path, **fields: explorer.answer(method, path, fields)


@pytest.fixture(scope='session')
def read(ask):
    """A function from a prompt, a run and edits to a trace."""

    def read(prompt=PROMPT, run=0, edits=(), step=None):
        return ask('POST', 'traces', prompt=prompt, run=run, edits=list(edits), step=step)

    return read
