"""A model's own answers to many prompts, with their rewards: what preferences are made from, and measurements.

It is the first half of a step of reinforcement learning, with the same settings and the same rewards, written down
instead of learned from at once.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float
from tqdm import tqdm

from llm import chat, runtime
from llm.chat import Message
from llm.config import GRPO, DataConfig, LoRAConfig, ParallelConfig, RewardConfig, RolloutConfig
from llm.data.examples import prepare_examples
from llm.errors import UserError
from llm.inference.reading import require_causal
from llm.inference.rollout import rollout
from llm.model.transformer import Transformer
from llm.parallel import mesh as mesh_lib
from llm.parallel.row_programs import RowPrograms
from llm.tokenizer import open_workdir
from llm.training.checkpoint import load_params
from llm.training.rewards import RewardSource, completion_ids, completion_texts
from llm.workdir import Workdir

ROWS = 128  # answers drawn together


class Answers(NamedTuple):
    """Prompts, and as many answers to each.

    Attributes:
        prompts: texts or conversations, as their rows have them.
        columns: the further fields of the rows, by name.
        texts: what the model wrote.
        ended: whether it ended by itself; the others were cut at the longest that is allowed.
        scores: their rewards.
    """

    prompts: list[str | list[Message]]
    columns: dict[str, list[Any]]
    texts: list[list[str]]
    ended: Bool[np.ndarray, 'prompts samples']
    scores: Float[np.ndarray, 'prompts samples']


def draw_answers(
    workdir: Workdir,
    source: str,
    rolled: RolloutConfig,
    reward: RewardConfig,
    *,
    held_out: bool = False,
    only_new: bool = False,
    max_prompts: int | None = None,
    max_prompt_tokens: int | None = None,
    seed: int = 0,
    step: int | None = None,
    ema: bool = False,
) -> Answers:
    """Draws `samples_per_prompt` answers to each prompt of a source, and scores them.

    Args:
        workdir: the run whose model answers.
        source: rows of prompts, as an entry of `data.corpora`.
        rolled: how answers are drawn; its epochs and minibatches play no part.
        reward: how they are scored.
        held_out: take the rows that are held out, instead of those that are trained on.
        only_new: leave out held-out prompts that are also among those of training.
        max_prompts: only so many, chosen by the seed; None takes all.
        max_prompt_tokens: leave out longer ones; None leaves out what the context has no room for.
        seed: of that choice and of the answers.
        step: which checkpoint; None is the newest good one.
        ema: with the averaged parameters instead of the raw ones.

    Raises:
        UserError: if the prompts or the rewards cannot be used, or an answer would fill the model's context.
    """
    config = runtime.usable_config(workdir)
    require_causal(config, workdir.path, 'answering prompts')
    if rolled.max_new_tokens >= config.model.context_length:
        raise UserError(
            f"an answer of {rolled.max_new_tokens} tokens fills the model's context of {config.model.context_length}; "
            'ask for shorter ones'
        )
    window = config.model.context_length
    if max_prompt_tokens is not None:
        window = min(window, max_prompt_tokens + rolled.max_new_tokens)
    config = dataclasses.replace(
        config,
        data=DataConfig(corpora=(source,), sequence_length=window),
        objective=GRPO(rollout=dataclasses.replace(rolled, epochs=1, minibatches=1), reward=reward),
        training=dataclasses.replace(config.training, batch_size=1, accumulation=1),
        lora=LoRAConfig(),  # the parameters that are loaded are the whole model's
        parallel=ParallelConfig(),
    )
    tokenizer = open_workdir(workdir.path)
    prepared = prepare_examples(config, tokenizer, needs_held_out=held_out)
    table = prepared.held_out if held_out else prepared.train
    chosen = np.arange(len(table))
    if held_out and only_new:
        trained = set(map(json.dumps, prepared.train.columns(np.arange(len(prepared.train)))['prompts']))
        chosen = np.array(
            [i for i, prompt in enumerate(table.columns(chosen)['prompts']) if json.dumps(prompt) not in trained]
        )
    if not len(chosen):
        raise UserError(f'{source}: no prompt is left; every held-out one is also among those of training')
    if max_prompts is not None and max_prompts < len(chosen):
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, max_prompts, replace=False))
    _, params = load_params(workdir, step, ema)

    samples, new = rolled.samples_per_prompt, rolled.max_new_tokens
    width = int(table.rows(chosen)['prompt_lengths'].max())
    mesh = mesh_lib.one_device()
    programs = RowPrograms(mesh, mapped=False)
    rewards = RewardSource(config, mesh, tokenizer, programs)
    model, ends = Transformer(config.model), chat.end_ids(tokenizer)
    draw = programs.compile(
        lambda params, prompts, lengths, seeds: rollout(
            model, params, prompts, lengths, seeds, new, rolled.temperature, end_ids=ends
        ),
        (None, 0, 0, 0),
        0,
    )
    seeds = np.random.SeedSequence(seed).generate_state(len(chosen) * samples).reshape(-1, samples)
    texts: list[list[str]] = []
    ended, scores = [], []
    with tqdm(total=len(chosen), unit='prompt', disable=None, dynamic_ncols=True, leave=False) as bar:
        for number, (rows, real) in enumerate(_batches(len(chosen), max(1, ROWS // samples))):
            batch = table.rows(chosen[rows])
            drawn = draw(params, batch['prompts'][:, :width], batch['prompt_lengths'], seeds[rows].reshape(-1))
            given = rewards(drawn, lambda rows=rows: table.columns(chosen[rows]), number + 1)
            ids, counts = jax.device_get(completion_ids(drawn, new))
            found = completion_texts(tokenizer, ids, counts, table.columns(chosen[rows])['prompts'])
            texts += [found[i * samples : (i + 1) * samples] for i in range(real)]
            ended.append(np.asarray(drawn.ended).reshape(-1, samples)[:real])
            scores.append(np.asarray(given).reshape(-1, samples)[:real])
            bar.update(real)
    columns = table.columns(chosen)
    return Answers(columns.pop('prompts'), columns, texts, np.concatenate(ended), np.concatenate(scores))


def rankings(answers: Answers) -> list[dict[str, Any]]:
    """The answers to each prompt, best first, as rows that DPO and reward models learn from (see docs/chat.md).

    A text that was drawn twice stands once; one that was cut says so, and is learned from without an <eos>. Prompts
    whose answers all have the same score are left out: they say nothing about which answer is better.
    """
    rows = []
    columns = (answers.prompts, answers.texts, answers.scores.tolist(), answers.ended.tolist())
    for prompt, texts, scores, ended in zip(*columns):
        best: dict[str, tuple[float, bool]] = {}
        for text, score, whole in sorted(zip(texts, scores, ended), key=lambda drawn: -drawn[1]):
            best.setdefault(text, (score, whole))
        scores, ended = map(list, zip(*best.values()))
        if len(set(scores)) < 2:
            continue
        responses = [text if isinstance(prompt, str) else [{'role': 'assistant', 'content': text}] for text in best]
        cut = {} if all(ended) else {'ended': ended}
        rows.append({'prompt': prompt, 'responses': responses, 'scores': scores} | cut)
    return rows


def _batches(total: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Row numbers, `size` at a time, and how many of them are real: the last one is filled up with repeats."""
    for first in range(0, total, size):
        rows = np.arange(first, first + size)
        yield np.minimum(rows, total - 1), min(size, total - first)
