"""Runs that take a second, and the environment of processes that do them."""

import os

import pytest
from small_corpus import write_corpus
from xla_flags import xla_flags

from llm.config import (
    AdamW,
    CheckpointConfig,
    Config,
    Cosine,
    DataConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)


@pytest.fixture(scope='session')
def small(tmp_path_factory) -> Config:
    """Eight steps on forty short files, a checkpoint every two."""
    corpus = write_corpus(tmp_path_factory.mktemp('sweep-corpus'))
    return Config(
        name='small',
        model=ModelConfig(vocab_size=272, context_length=16, num_layers=1, width=16, num_heads=2),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(corpora=(corpus,), sequence_length=16),
        optimizer=AdamW(learning_rate=1e-2),
        schedule=Cosine(horizon=8, warmup=1),
        training=TrainingConfig(steps=8, batch_size=8),
        checkpoint=CheckpointConfig(every=2),
        evaluation=EvaluationConfig(every=8, max_windows=8, batch_size=8, sample_tokens=0),
        log=LogConfig(every=1, tensorboard=False),
    )


@pytest.fixture
def one_core(monkeypatch) -> dict[str, str]:
    """Processes that are started see one device and compute with one thread, as a user's would on one core."""
    monkeypatch.setenv('XLA_FLAGS', xla_flags(1))
    monkeypatch.setenv('NPROC', '1')
    return dict(os.environ)
