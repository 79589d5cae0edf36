"""Models that transformers saved: tests/fixtures/make_huggingface.py made them."""

import pathlib
import zipfile

import pytest

FIXTURES = pathlib.Path(__file__).parents[1] / 'fixtures' / 'huggingface'


@pytest.fixture(scope='session')
def saved_model(tmp_path_factory):
    """The folder of a saved model, by its name."""
    root = tmp_path_factory.mktemp('huggingface')

    def folder(name):
        target = root / name
        if not target.exists():
            with zipfile.ZipFile(FIXTURES / f'{name}.zip') as archive:
                archive.extractall(target)
        return target

    return folder
