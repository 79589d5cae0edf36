"""Which runs: five ways to learn from the same windows, with as many parameters each."""

import dataclasses
from dataclasses import dataclass

from llm.analysis.memory import parameter_count
from llm.config import (
    AdamW,
    CheckpointConfig,
    Config,
    Cosine,
    DataConfig,
    EvaluationConfig,
    LogConfig,
    Masked,
    ModelConfig,
    NextToken,
    PrefixLM,
    SpanCorruption,
    TrainingConfig,
)

CAUSAL = 'causal'
ARMS = {  # what each is called, and how it learns
    CAUSAL: 'next token, left to right',
    'masked': 'masked tokens, everything seen',
    'prefix': 'next token behind a prefix that sees itself',
    'span, one stack': 'blanks, read as a prefix',
    'span, encoder': 'blanks, read by an encoder',
}


@dataclass(frozen=True)
class Plan:
    """What is trained and measured.

    Attributes:
        seeds: runs of each arm.
        steps: updates of a run.
        width, layers, heads, length, rows, vocabulary: of the models and their batches.
        gaps: of held-out text.
        gap_length: tokens missing in each.
        choices: spans to choose from, the right one among them.
    """

    seeds: int = 3
    steps: int = 200
    width: int = 96
    layers: int = 4
    heads: int = 4
    length: int = 64
    rows: int = 16
    vocabulary: int = 1024
    gaps: int = 256
    gap_length: int = 3
    choices: int = 8


QUICK = Plan(steps=4, width=16, layers=2, heads=2, length=32, rows=4, vocabulary=384)


def runs(plan: Plan) -> dict[str, Config]:
    """The configs by their runs' names, arm and seed; the seed is that of the weights and of the text's order."""
    found = {}
    for arm, config in arms(plan).items():
        for seed in range(plan.seeds):
            data = dataclasses.replace(config.data, seed=seed)
            found[f'{arm}/seed={seed}'] = dataclasses.replace(config, seed=seed, data=data)
    return found


def arms(plan: Plan) -> dict[str, Config]:
    base = Config(
        model=ModelConfig(
            vocab_size=plan.vocabulary,
            context_length=2 * plan.length,
            num_layers=plan.layers,
            width=plan.width,
            num_heads=plan.heads,
        ),
        data=DataConfig(sequence_length=plan.length),
        optimizer=AdamW(learning_rate=3e-3),
        schedule=Cosine(horizon=plan.steps, warmup=max(1, plan.steps // 10)),
        training=TrainingConfig(steps=plan.steps, batch_size=plan.rows),
        checkpoint=CheckpointConfig(every=10**6, keep_last=1, keep_best=False),
        evaluation=EvaluationConfig(every=10**6, batch_size=64, sample_tokens=0),
        log=LogConfig(every=10, tensorboard=False),
    )
    objectives = (NextToken(), Masked(), PrefixLM(), SpanCorruption(), SpanCorruption())
    found = {
        arm: dataclasses.replace(base, name=arm, objective=objective)
        for arm, objective in zip(ARMS, objectives, strict=True)
    }
    found['span, encoder'] = dataclasses.replace(found['span, encoder'], model=with_encoder(base.model))
    return found


def with_encoder(model: ModelConfig) -> ModelConfig:
    """Half of the layers read and half write; what cross-attention adds is taken from the feed-forward networks."""
    halves = dataclasses.replace(
        model, num_layers=model.num_layers - model.num_layers // 2, encoder_layers=model.num_layers // 2
    )
    wide = lambda hidden: dataclasses.replace(halves, feed_forward_width=hidden)
    few, more = parameter_count(wide(8)), parameter_count(wide(16))  # parameters grow by the same with every 8
    return wide(8 + 8 * max(0, round((parameter_count(model) - few) / (more - few))))
