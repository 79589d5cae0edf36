"""Which runs: every width at every learning rate, in both parametrisations, which agree at the smallest width."""

import dataclasses
from dataclasses import dataclass

from llm.config import (
    AdamW,
    CheckpointConfig,
    Config,
    DataConfig,
    DivergenceConfig,
    EvaluationConfig,
    Linear,
    LogConfig,
    ModelConfig,
    TrainingConfig,
)
from llm.sweep import space

LABELS = {'standard': 'standard', 'mup': 'μP'}


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        widths: of the models, the first the base width.
        rates: learning rates, each twice the one before.
        seeds: repetitions.
        steps: updates of a run.
        layers, rows, length, vocabulary: of the models and their batches.
    """

    widths: tuple[int, ...] = (32, 64, 128, 256)
    rates: tuple[float, ...] = tuple(2.0**-k for k in range(8, 2, -1))
    seeds: int = 1
    steps: int = 120
    layers: int = 2
    rows: int = 16
    length: int = 64
    vocabulary: int = 1024


QUICK = Plan(widths=(16, 32), rates=(2**-7, 2**-5, 2**-3), steps=10, layers=1, rows=4, length=32, vocabulary=384)


def base(plan: Plan) -> Config:
    """The smallest model.

    Four heads at every width: they grow in size, which is what μP's attention scale is for. Embeddings start at
    deviation 1, as large as what the blocks add, and apart from the head: with GPT-2's tied 0.02 a learning rate that
    suits the blocks overturns the embedding at every step, and that, not the width, decides which rate is best.
    """
    return Config(
        name='base',
        model=ModelConfig(
            vocab_size=plan.vocabulary,
            context_length=plan.length,
            num_layers=plan.layers,
            width=plan.widths[0],
            num_heads=4,
            tied_embeddings=False,
            init_std=1.0,
        ),
        data=DataConfig(sequence_length=plan.length),
        optimizer=AdamW(weight_decay=0.0),
        schedule=Linear(horizon=plan.steps, warmup=plan.steps // 10),
        training=TrainingConfig(steps=plan.steps, batch_size=plan.rows),
        divergence=DivergenceConfig(z_score=1e6),  # a rate that is too high is to be seen, not to be helped
        checkpoint=CheckpointConfig(every=10**6),
        evaluation=EvaluationConfig(every=10**6, batch_size=64, sample_tokens=0),
        log=LogConfig(every=10, tensorboard=False),
    )


def runs(plan: Plan) -> dict[str, Config]:
    """The configs by their runs' names; those of the base width stand for both parametrisations."""
    mup = space.point('mup', {'model.parametrization': 'mup', 'model.base_width': plan.widths[0]})
    narrow, *wide = (space.axis('model.width', width) for width in plan.widths)
    models = space.chain(narrow, *(space.chain(one, space.product(mup, one)) for one in wide))
    rates = space.axis('optimizer.learning_rate', *plan.rates)
    return space.configs(base(plan), space.product(space.seeds(plan.seeds), models, rates))


def checked(plan: Plan, parametrization: str, rate: float) -> Config:
    """What the coordinate check trains: a small model on random tokens, without warm-up.

    The embedding is tied and starts small, so that a few updates outgrow it: what logits owe to the head's random start
    shrinks with the width, and would hide what is learned.
    """
    model = dataclasses.replace(
        base(plan).model,
        vocab_size=64,
        context_length=16,
        num_layers=1,
        tied_embeddings=True,
        init_std=0.005,
        parametrization=parametrization,
        base_width=plan.widths[0] if parametrization == 'mup' else None,
    )
    return Config(
        model=model,
        data=DataConfig(sequence_length=16),
        optimizer=AdamW(rate),
        schedule=Linear(horizon=10**6, warmup=0),
    )
