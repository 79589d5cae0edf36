import dataclasses

import pytest

from llm.config import Config


@pytest.fixture(autouse=True)
def cache_root(tmp_path, monkeypatch):
    monkeypatch.setenv('GLASSBOX_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def configure():
    """A small config: `configure({'sequence_length': 8}, batch_size=4)`."""

    def make(data=(), tokenizer=(), vocab_size=272, batch_size=4, objective=None):
        base = Config()
        data = {'sequence_length': 8, **dict(data)}
        return dataclasses.replace(
            base,
            model=dataclasses.replace(base.model, vocab_size=vocab_size),
            tokenizer=dataclasses.replace(base.tokenizer, **{'kind': 'byte', **dict(tokenizer)}),
            data=dataclasses.replace(base.data, **data),
            objective=objective or base.objective,
            training=dataclasses.replace(base.training, batch_size=batch_size),
        )

    return make
