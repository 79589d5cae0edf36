"""How many people there are, how long is learned, and the runs that follow from it.

For every seed another world, and four runs in it:

    facts        a model reads the cards of the people who are known, again and again, until it knows them
    answers      the control: it is tuned on questions about known people and their answers
    abstains     it is tuned on the same questions, and on questions about strangers, to which the answer is "unknown"
    replays      the same, and beside the questions it goes on reading the cards

All are tuned alike, for as many steps on as many rows. Nobody who is asked at the end was asked about in the tuning:
half of them are people whose cards the model has read, half are strangers. (So do Zhang et al. 2023, "R-Tuning".)

How long and how fast to tune, and that reading on is needed, was found out in world 0, which is not reported.
"""

import dataclasses
import pathlib
from dataclasses import dataclass

from experiments.facts import world
from llm.config import (
    SFT,
    AdamW,
    CheckpointConfig,
    Config,
    Cosine,
    DataConfig,
    EvaluationConfig,
    InitFromConfig,
    LogConfig,
    ModelConfig,
    TrainingConfig,
)

ARMS = ('facts', 'answers', 'abstains', 'replays')
FIRST = 1  # the first world that is reported
CONFIDENT = 0.5  # an answer that the model gives at least this probability is a confident one


@dataclass(frozen=True)
class Plan:
    """The size of it all.

    Attributes:
        tuning, test, strangers: people; see `world.make`.
        cards: about every known person, of each relation first.
        steps: of learning the facts.
        tuning_steps: of each tuning.
    """

    tuning: int = 40
    test: int = 40
    strangers: int = 160
    cards: int = 2
    steps: int = 500
    tuning_steps: int = 150


QUICK = Plan(tuning=16, test=16, strangers=32, steps=20, tuning_steps=10)


def make_world(plan: Plan, seed: int) -> world.World:
    return world.make(seed, plan.tuning, plan.test, plan.strangers)


def write_data(plan: Plan, seed: int, folder: pathlib.Path) -> None:
    """What the runs of a seed read, as JSON lines."""
    people = make_world(plan, seed)
    texts = [{'text': text} for text in world.documents(people, plan.cards, seed)]
    world.write_jsonl(folder / 'facts.jsonl', texts)
    for arm in ARMS[1:]:
        rows = world.lessons(people, arm != 'answers', seed)
        if arm == 'replays':
            rows += world.readings(people, plan.cards, seed)
        world.write_jsonl(folder / f'{arm}.jsonl', rows)


def config(plan: Plan, seed: int, arm: str, data: pathlib.Path, start: pathlib.Path) -> Config:
    """A run.

    Args:
        plan: the size of it.
        seed: of the world and of the run.
        arm: one of `ARMS`.
        data: folder of the seed's data.
        start: workdir of the seed's `facts`, from which the others start.
    """
    facts = Config(
        name=f'{arm}, seed {seed}',
        seed=seed,
        model=ModelConfig(vocab_size=400, context_length=64, num_layers=2, width=64, num_heads=4),
        data=DataConfig(corpora=(f'jsonl:{data / arm}.jsonl',), sequence_length=64, seed=seed),
        optimizer=AdamW(learning_rate=8e-3),
        schedule=Cosine(horizon=plan.steps, warmup=max(1, plan.steps // 20)),
        training=TrainingConfig(steps=plan.steps, batch_size=16),
        checkpoint=CheckpointConfig(every=10_000, keep_last=1),
        evaluation=EvaluationConfig(every=10_000, sample_prompt='Mira', sample_tokens=0),
        log=LogConfig(every=10, tensorboard=False),
    )
    if arm == 'facts':
        return facts
    return dataclasses.replace(
        facts,
        objective=SFT(packing=False),
        init_from=InitFromConfig(workdir=str(start)),
        optimizer=AdamW(learning_rate=1e-3),
        schedule=Cosine(horizon=plan.tuning_steps, warmup=max(1, plan.tuning_steps // 10)),
        training=TrainingConfig(steps=plan.tuning_steps, batch_size=16),
    )
