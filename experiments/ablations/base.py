"""What every question starts from: a model of today's fashion, small enough to be asked 15 times in five minutes."""

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

STEPS = 500

BASE = Config(
    name='base',
    model=ModelConfig(vocab_size=512, context_length=64, num_layers=2, width=64, num_heads=4, embedding_norm=True),
    data=DataConfig(sequence_length=64),
    optimizer=AdamW(learning_rate=1e-2),
    schedule=Cosine(horizon=STEPS, warmup=30),
    training=TrainingConfig(steps=STEPS, batch_size=8),
    checkpoint=CheckpointConfig(every=10 * STEPS, keep_last=1),  # the last one only
    evaluation=EvaluationConfig(every=50, max_windows=64, batch_size=64, sample_tokens=0),
    log=LogConfig(every=10, tensorboard=False),
)
