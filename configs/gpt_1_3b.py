"""1.3 billion parameters in today's fashion: a benchmark for one GPU of 80 GB.

Rotary positions, RMSNorm, SwiGLU, an untied head. All but the matrix products is recomputed in the backward pass, so
that 8 rows of 2,048 tokens fit. The Python standard library does not fill the vocabulary: name a larger corpus with
`--data.corpora`.
"""

from llm.config import (
    AdamW,
    CheckpointConfig,
    Config,
    Cosine,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    NextToken,
    TrainingConfig,
)

STEPS = 100_000


def get_config() -> Config:
    return Config(
        name='gpt_1_3b',
        model=ModelConfig(
            vocab_size=50_304,
            context_length=2048,
            num_layers=24,
            width=2048,
            num_heads=16,
            activation='swiglu',
            tied_embeddings=False,
            remat='dots',
            compute_dtype='bfloat16',
        ),
        data=DataConfig(sequence_length=2048),
        objective=NextToken(vocabulary_chunk=256),
        optimizer=AdamW(learning_rate=2e-4),
        schedule=Cosine(horizon=STEPS, warmup=2000),
        training=TrainingConfig(steps=STEPS, batch_size=8),
        checkpoint=CheckpointConfig(every=1000),
        evaluation=EvaluationConfig(every=1000, batch_size=8),
    )
