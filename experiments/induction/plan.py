"""Which models are trained, and on what: sequences that repeat themselves, and for control some that do not."""

import pathlib
from dataclasses import dataclass

from llm.config import (
    AdamW,
    CheckpointConfig,
    Config,
    DataConfig,
    DivergenceConfig,
    EvaluationConfig,
    LogConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
    WarmupStableDecay,
)
from llm.sweep import space

TWO, ONE, RANDOM = 'two layers', 'one layer', 'two layers, nothing repeats'  # the arms; the first is the question
FIRST_BYTE, VOCABULARY = 16, 272  # of the byte tokenizer: byte b is token 16 + b
BOS = 1
LENGTH = 62  # characters of a document: as many as there are letters and digits


@dataclass(frozen=True)
class Plan:
    """What is trained and measured.

    Attributes:
        seeds: of weights and order of data; all arms share them.
        steps: updates of a run.
        every: steps between checkpoints, each of which is measured.
        rows: sequences in a batch.
        width, heads: of every model; layers are the arms' business.
        learning_rate: of AdamW.
        documents: sequences in a corpus; one in twenty is held out.
        rows_measured: sequences that heads and losses are measured on.
        period: tokens of the block that heads are scored on, which is said twice.
    """

    seeds: int = 3
    steps: int = 800
    every: int = 40
    rows: int = 32
    width: int = 64
    heads: int = 4
    learning_rate: float = 3e-3
    documents: int = 40_000
    rows_measured: int = 64
    period: int = 24


QUICK = Plan(seeds=2, steps=20, every=10, rows=8, width=16, heads=2, documents=400, rows_measured=8)


def base(plan: Plan, data: pathlib.Path) -> Config:
    """Two layers of attention alone, on the corpus that repeats itself.

    ALiBi, because its heads lean to what is near from the start: with RoPE there was no induction head after as many
    steps.

    One token a byte and one document a row: <bos>, 62 characters, <eos>. Document and window have one length, so no
    row holds the end of one and the beginning of the next.
    """
    return Config(
        name='induction',
        model=ModelConfig(
            vocab_size=VOCABULARY,
            context_length=LENGTH + 2,
            num_layers=2,
            width=plan.width,
            num_heads=plan.heads,
            feed_forward_width=0,
            position='alibi',
        ),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(corpora=(f'jsonl:{corpus_file(data, repeats=True)}',), sequence_length=LENGTH + 2),
        optimizer=AdamW(plan.learning_rate, weight_decay=0.0),
        schedule=WarmupStableDecay(horizon=plan.steps, warmup=plan.steps // 10, decay=plan.steps // 5),
        training=TrainingConfig(steps=plan.steps, batch_size=plan.rows),
        divergence=DivergenceConfig(z_score=1e6),  # on random characters the loss hardly moves: any bump would count
        checkpoint=CheckpointConfig(every=plan.every, keep_every=plan.every),
        evaluation=EvaluationConfig(every=plan.steps, max_windows=64, batch_size=64, sample_tokens=0),
        log=LogConfig(every=10, tensorboard=False),
    )


def corpus_file(folder: pathlib.Path, repeats: bool) -> pathlib.Path:
    """Where a corpus lies."""
    return folder / ('repeats.jsonl' if repeats else 'random.jsonl')


def runs(plan: Plan, data: pathlib.Path) -> dict[str, Config]:
    """The configs by their runs' names, `arm,seed`."""
    arms = space.chain(
        space.point(TWO),
        space.point(ONE, {'model.num_layers': 1}),
        space.point(RANDOM, {'data.corpora': (f'jsonl:{corpus_file(data, repeats=False)}',)}),
    )
    return space.configs(base(plan, data), space.product(arms, space.seeds(plan.seeds)))
