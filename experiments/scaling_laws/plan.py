"""Which runs to make: IsoFLOP profiles, a few sizes at each budget, and one dial for the size.

The dial is the width; depth, heads and learning rate follow from it, tokens from the budget. Batch, sequence and
everything else stay as they are, so that runs differ in what the law is about.
"""

import functools
from dataclasses import dataclass

import numpy as np

from llm.analysis import flops, memory
from llm.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    Linear,
    LogConfig,
    ModelConfig,
    Muon,
    TokenizerConfig,
    TrainingConfig,
)
from llm.errors import UserError

NEVER = 1_000_000  # steps between what is not wanted


@dataclass(frozen=True)
class Plan:
    """The question.

    Attributes:
        budgets: FLOPs of each profile.
        sizes: how many in each profile, spread over the widths that the budget gives enough steps to.
        widths: that there are, smallest first.
        beyond: the held-out run's budget over the largest of `budgets`.
    """

    budgets: tuple[float, ...] = (2e11, 4e11, 8e11, 16e11)
    sizes: int = 6
    widths: tuple[int, ...] = (24, 32, 40, 48, 64, 80, 96, 112, 136, 160, 192)
    least_steps: int = 100  # a run of fewer is more warm-up than training
    beyond: float = 4.0
    vocab_size: int = 512  # small, so that the head is not most of a small model
    tokenizer: str = 'bpe'
    sequence_length: int = 128
    batch_size: int = 8  # rows: small models want many steps more than long ones (McCandlish et al. 2018)
    corpora: tuple[str, ...] = ('python_stdlib',)
    seed: int = 0


def optimizer(width: int) -> Muon:
    """The learning rates of a width, for every length of run: the same for all, which orthogonal updates allow.
    docs/scaling_laws.md has the runs that chose them."""
    return Muon(learning_rate=0.04, adam_learning_rate=0.06)


def model(plan: Plan, width: int) -> ModelConfig:
    """One dial: a layer and a head for every 16 of width, at least two layers."""
    return ModelConfig(
        vocab_size=plan.vocab_size,
        context_length=plan.sequence_length,
        num_layers=max(2, (width + 8) // 16),
        width=width,
        num_heads=-(-width // 16),
        head_dim=16,
        activation='relu2',
        qk_norm=True,
        embedding_norm=True,
    )


@functools.cache
def parameters(plan: Plan, width: int) -> int:
    """All of them, embeddings too."""
    return memory.parameter_count(model(plan, width))


def cost(plan: Plan, width: int) -> float:
    """Training FLOPs of a token."""
    return flops.training_flops_per_token(model(plan, width), plan.sequence_length)


def config(plan: Plan, width: int, budget: float) -> Config:
    """A run of one size that spends a budget, its learning rate down to 0 at its last step.

    Raises:
        UserError: if the budget is too small for the size.
    """
    count = steps(plan, width, budget)
    if count < plan.least_steps:
        raise UserError(
            f'{budget:.3g} FLOPs are {count} steps of width {width}; take a larger budget or a smaller model'
        )
    return Config(
        name=name(width, budget),
        seed=plan.seed,
        model=model(plan, width),
        tokenizer=TokenizerConfig(kind=plan.tokenizer),
        data=DataConfig(corpora=plan.corpora, sequence_length=plan.sequence_length, seed=plan.seed),
        optimizer=optimizer(width),
        schedule=Linear(horizon=count, warmup=max(1, count // 10)),
        training=TrainingConfig(steps=count, batch_size=plan.batch_size),
        checkpoint=CheckpointConfig(every=max(200, count // 4), keep_last=1, keep_best=False),
        evaluation=EvaluationConfig(every=NEVER, batch_size=64, sample_tokens=0),
        log=LogConfig(every=5, tensorboard=False),
    )


def name(width: int, budget: float) -> str:
    return f'{budget:.2g}-width{width}'.replace('e+', 'e')


def profile(plan: Plan, budget: float) -> tuple[int, ...]:
    """The widths of a budget, from the smallest to the largest that it gives `least_steps`."""
    usable = [width for width in plan.widths if steps(plan, width, budget) >= plan.least_steps]
    if not usable:
        raise UserError(
            f'{budget:.3g} FLOPs are less than {plan.least_steps} steps of the smallest model; take a larger --scale'
        )
    places = np.linspace(0, len(usable) - 1, min(plan.sizes, len(usable)))
    return tuple(usable[round(place)] for place in places)


def steps(plan: Plan, width: int, budget: float) -> int:
    """Updates that spend the budget."""
    return round(budget / (cost(plan, width) * plan.batch_size * plan.sequence_length))


def configs(plan: Plan) -> dict[str, Config]:
    """Every run but the held-out one."""
    runs = [config(plan, width, budget) for budget in plan.budgets for width in profile(plan, budget)]
    return {run.name: run for run in runs}
