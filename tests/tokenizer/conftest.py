"""Tokenizers from elsewhere, by family; a test module says in its fixture `family` which."""

import pytest
from imported_families import write

from llm.tokenizer import open_directory


@pytest.fixture(scope='module')
def tokenizer(family, tmp_path_factory):
    return open_directory(write(family, tmp_path_factory.mktemp(family)))


@pytest.fixture
def folder(tmp_path):
    """A function from a family to a folder of its own."""
    return lambda family: write(family, tmp_path / family)
