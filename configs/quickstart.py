"""The main job: the Python standard library in six minutes on two cores. docs/quickstart.md says how it was chosen."""

from llm.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    Linear,
    LogConfig,
    ModelConfig,
    Muon,
    NextToken,
    TrainingConfig,
)

STEPS = 1600


def get_config() -> Config:
    return Config(
        name='quickstart',
        model=ModelConfig(
            vocab_size=4096,
            context_length=256,
            num_layers=4,
            width=192,
            num_heads=3,
            activation='relu2',
            qk_norm=True,
            embedding_norm=True,
            compute_dtype='auto',
        ),
        data=DataConfig(sequence_length=256),
        objective=NextToken(vocabulary_chunk=32),
        optimizer=Muon(learning_rate=0.02, adam_learning_rate=0.03),
        schedule=Linear(horizon=STEPS, warmup=50),
        training=TrainingConfig(steps=STEPS, batch_size=8),
        checkpoint=CheckpointConfig(every=400),
        evaluation=EvaluationConfig(
            every=400, max_windows=64, sample_prompt='def read(self, size=-1):\n', sample_tokens=96
        ),
        log=LogConfig(every=20),
    )
