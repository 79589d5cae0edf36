"""Sixty steps in under a minute on two cores: to try a change, or to see every file that a run leaves."""

from llm.config import (
    AdamW,
    CheckpointConfig,
    Config,
    Cosine,
    DataConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    TrainingConfig,
)


def get_config() -> Config:
    return Config(
        name='tiny',
        model=ModelConfig(vocab_size=512, context_length=64, num_layers=2, width=64, num_heads=2),
        data=DataConfig(sequence_length=64),
        optimizer=AdamW(learning_rate=1e-2),
        schedule=Cosine(horizon=60, warmup=5),
        training=TrainingConfig(steps=60, batch_size=8),
        checkpoint=CheckpointConfig(every=10),
        evaluation=EvaluationConfig(every=20, max_windows=64, batch_size=64, sample_tokens=32),
        log=LogConfig(every=1),
    )
