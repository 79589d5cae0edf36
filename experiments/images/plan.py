"""What is trained: one small model of text and images, and what it loses when a part of it is taken away."""

from dataclasses import dataclass

from llm.config import (
    SFT,
    AdamW,
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    Linear,
    LogConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)
from llm.data import tasks_digits
from llm.sweep import space

BASE = 'image tokens'
PATCH = 4  # pixels a side
LENGTH = 40  # two images of 4 patches, the longest question about them and what is said, in bytes
LONG = 64  # the same with 16 patches

# What is changed of the model, by the name of the arm.
ARMS: dict[str, dict[str, object]] = {
    BASE: {},
    'places in the sequence': {'model.image_positions': 'sequence'},
    'one token an image': {'model.patch_size': tasks_digits.SIZE},
    'causal inside images': {'model.image_attention': 'causal'},
    'learned rows and columns': {'model.image_positions': 'learned'},
    '16 tokens an image': {'model.patch_size': 2, 'data.sequence_length': LONG},
}


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Attributes:
        arms: which of `ARMS`, the base among them.
        seeds: repetitions.
        steps: updates of a run.
        rows: examples of an update.
        rate: learning rate at its peak.
        layers, width: of the model.
        tested: most images, and pairs for each question, that are asked about.
    """

    arms: tuple[str, ...] = tuple(ARMS)
    seeds: int = 3
    steps: int = 300
    rows: int = 32
    rate: float = 4e-3
    layers: int = 3
    width: int = 64
    tested: int = 1000


QUICK = Plan(arms=tuple(ARMS)[:2], steps=20, rows=8, layers=1, width=16, tested=24)


def base(plan: Plan) -> Config:
    """The model and its training; an example is a row, so that all arms see the same examples in the same order.

    Chosen on the images that are held out of training, not on those of the test.
    """
    return Config(
        name='base',
        model=ModelConfig(
            vocab_size=272,
            context_length=LONG,
            num_layers=plan.layers,
            width=plan.width,
            num_heads=4,
            rope_base=100.0,  # at 10,000 half of the pairs would hardly turn within a sequence as short as these
            image_size=tasks_digits.SIZE,
            patch_size=PATCH,
        ),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(
            corpora=('task:digit_captions', 'task:digit_questions'), weights=(0.4, 0.6), sequence_length=LENGTH
        ),
        objective=SFT(packing=False),
        optimizer=AdamW(learning_rate=plan.rate, weight_decay=0.1),
        schedule=Linear(horizon=plan.steps, warmup=plan.steps // 10),
        training=TrainingConfig(steps=plan.steps, batch_size=plan.rows),
        checkpoint=CheckpointConfig(every=10**6, keep_best=False),
        evaluation=EvaluationConfig(every=max(1, plan.steps // 4), max_windows=128, batch_size=64, sample_tokens=0),
        log=LogConfig(every=20, tensorboard=False),
    )


def runs(plan: Plan) -> dict[str, Config]:
    """The configs by their runs' names."""
    arms = space.chain(*(space.point(slug(arm), ARMS[arm]) for arm in plan.arms))
    return space.configs(base(plan), space.product(arms, space.seeds(plan.seeds)))


def slug(arm: str) -> str:
    """An arm's name as part of a run's."""
    return arm.replace(' ', '-')


def run_name(arm: str, seed: int) -> str:
    return f'{slug(arm)},seed={seed}'
