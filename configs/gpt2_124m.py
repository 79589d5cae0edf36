"""GPT-2's smallest model (Radford et al. 2019), 124 million parameters: a benchmark for one GPU of 80 GB.

The vocabulary is rounded up to a multiple of 128, as is usual, for the sake of the matrix units. The Python standard
library does not fill it: name a larger corpus with `--data.corpora`.
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

STEPS = 20_000


def get_config() -> Config:
    return Config(
        name='gpt2_124m',
        model=ModelConfig(
            vocab_size=50_304,
            context_length=1024,
            num_layers=12,
            width=768,
            num_heads=12,
            activation='gelu',
            position='learned',
            norm='layernorm',
            biases=('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm'),
            init_kernel='normal',
            compute_dtype='bfloat16',
        ),
        data=DataConfig(sequence_length=1024),
        objective=NextToken(vocabulary_chunk=128),
        optimizer=AdamW(learning_rate=6e-4),
        schedule=Cosine(horizon=STEPS, warmup=700),
        training=TrainingConfig(steps=STEPS, batch_size=32),
        checkpoint=CheckpointConfig(every=1000),
        evaluation=EvaluationConfig(every=1000, batch_size=32),
    )
