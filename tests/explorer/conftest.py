"""Workdirs of tiny random models, as training would have left them, and explorers of them."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from llm.config import CheckpointConfig, Config, DataConfig, ModelConfig, TokenizerConfig
from llm.explorer.explorer import Explorer
from llm.explorer.runs import open_runs
from llm.model.transformer import Transformer
from llm.tokenizer import train
from llm.training.checkpoint import Checkpoints
from llm.workdir import Workdir

MODEL = ModelConfig(
    vocab_size=272, context_length=64, num_layers=2, width=16, num_heads=4, num_kv_heads=2, init_std=0.5
)
OTHER = dataclasses.replace(MODEL, position='alibi', windows=(None, 5))
PROMPT = 'an apple, an apple'


def make_run(path, model=MODEL, steps=(1,), seed=0, tokenizer=None):
    """A run with random parameters at each of its checkpoints."""
    workdir = Workdir(path)
    path.mkdir()
    workdir.write_config(Config(name=path.name, model=model, data=DataConfig(sequence_length=64)))
    (tokenizer or train(TokenizerConfig(kind='byte'), 272, [])).save_in(path)
    checkpoints = Checkpoints(workdir.checkpoints)
    for step in steps:
        make = jax.jit(Transformer(model).init)
        params = make(jax.random.key(seed + step), jnp.zeros((1, 1), jnp.int32))['params']
        checkpoints.save(step, {'params': params}, {}, CheckpointConfig(keep_last=99))
        checkpoints.finish(CheckpointConfig(keep_last=99))
    checkpoints.close()
    return path


@pytest.fixture(scope='session')
def runs_folder(tmp_path_factory):
    """`one` (two checkpoints), `other` (ALiBi, a window in its second block) and `empty` (no checkpoint)."""
    folder = tmp_path_factory.mktemp('runs')
    make_run(folder / 'one', steps=(1, 2))
    make_run(folder / 'other', OTHER)
    make_run(folder / 'empty', steps=())
    return folder


@pytest.fixture(scope='session')
def explorer(runs_folder):
    return Explorer(open_runs([runs_folder / 'one', runs_folder / 'other']), 'def ')


@pytest.fixture(scope='session')
def ask(explorer):
    """A function from method, path and fields to the answer."""
    return lambda method, path, **fields: explorer.answer(method, path, fields)


@pytest.fixture(scope='session')
def read(ask):
    """A function from a prompt, a run and edits to a trace."""

    def read(prompt=PROMPT, run=0, edits=(), step=None):
        return ask('POST', 'traces', prompt=prompt, run=run, edits=list(edits), step=step)

    return read
