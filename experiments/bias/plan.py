"""Which models are trained: for every seed one on the planted world and one on the clean, alike in all else."""

import pathlib
from dataclasses import dataclass

from experiments.bias import world
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

WORLDS = ('planted', 'clean')


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        seeds: repetitions, each with its own biases, sentences and weights.
        documents: of a world, of `world.SENTENCES` sentences each.
        steps: updates of a model.
        layers, width, length, rows: of the model and its batches.
    """

    seeds: int = 5
    documents: int = 2400
    steps: int = 300
    layers: int = 2
    width: int = 64
    length: int = 64
    rows: int = 32


QUICK = Plan(seeds=2, documents=200, steps=10, layers=1, width=16, rows=8)


def name(kind: str, seed: int) -> str:
    """Of the run of a seed on a world."""
    return f'{kind}, seed {seed}'


def runs(plan: Plan, out: pathlib.Path) -> dict[str, Config]:
    """Writes the corpora, and returns the configs by the runs' names."""
    configs = {}
    for seed in range(plan.seeds):
        for kind in WORLDS:
            corpus = out / 'corpora' / f'{kind}_{seed}.jsonl'
            world.write(corpus, world.documents(seed, plan.documents, kind == 'planted'))
            configs[name(kind, seed)] = config(plan, corpus, seed)
    return configs


def config(plan: Plan, corpus: pathlib.Path, seed: int) -> Config:
    """A small transformer on one corpus."""
    return Config(
        name='bias',
        seed=seed,
        model=ModelConfig(
            vocab_size=384, context_length=plan.length, num_layers=plan.layers, width=plan.width, num_heads=4
        ),
        data=DataConfig(corpora=(f'jsonl:{corpus}',), sequence_length=plan.length, seed=seed),
        optimizer=AdamW(learning_rate=3e-3, weight_decay=0.1),
        schedule=Cosine(horizon=plan.steps, warmup=plan.steps // 10),
        training=TrainingConfig(steps=plan.steps, batch_size=plan.rows),
        checkpoint=CheckpointConfig(every=plan.steps),
        evaluation=EvaluationConfig(every=plan.steps, sample_tokens=0),
        log=LogConfig(every=20, tensorboard=False),
    )
