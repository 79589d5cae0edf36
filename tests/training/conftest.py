"""A corpus of a few kilobytes and a model that learns it in seconds."""

import jax
import pytest
from small_corpus import write_corpus

from llm.config import (
    AdamW,
    CheckpointConfig,
    Config,
    Cosine,
    DataConfig,
    DivergenceConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)
from llm.training.loop import train


@pytest.fixture(scope='session')
def corpus(tmp_path_factory) -> str:
    """Forty short files; three of them are held out."""
    return write_corpus(tmp_path_factory.mktemp('corpus'))


@pytest.fixture(scope='session')
def tiny(corpus) -> Config:
    """Twelve steps, a checkpoint every four."""
    return Config(
        name='tiny',
        model=ModelConfig(vocab_size=272, context_length=32, num_layers=2, width=32, num_heads=2),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(corpora=(corpus,), sequence_length=32),
        optimizer=AdamW(learning_rate=1e-2),
        schedule=Cosine(horizon=12, warmup=2),
        training=TrainingConfig(steps=12, batch_size=8, ema_decay=0.9),
        divergence=DivergenceConfig(window=5),
        checkpoint=CheckpointConfig(every=4),
        evaluation=EvaluationConfig(every=6, max_windows=8, batch_size=8, sample_tokens=4),
        log=LogConfig(every=1, tensorboard=False),
    )


@pytest.fixture(scope='session')
def one_device() -> list[jax.Device]:
    return jax.devices()[:1]


@pytest.fixture(scope='session')
def finished(tiny, one_device, tmp_path_factory):
    """The workdir of a run that nothing disturbed, and its summary. Not to be written to."""
    path = tmp_path_factory.mktemp('finished') / 'run'
    return path, train(tiny, path, progress=False, devices=one_device)
