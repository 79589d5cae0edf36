"""Workdirs of tiny random models, as training would have left them."""

import dataclasses

import jax
import jax.numpy as jnp

from llm.config import CheckpointConfig, Config, DataConfig, ModelConfig, TokenizerConfig
from llm.model.transformer import Transformer
from llm.tokenizer import train
from llm.training.checkpoint import Checkpoints
from llm.workdir import Workdir

MODEL = ModelConfig(
    vocab_size=272, context_length=64, num_layers=2, width=16, num_heads=4, num_kv_heads=2, init_std=0.5
)
OTHER = dataclasses.replace(MODEL, position='alibi', windows=(None, 5))


def make_run(path, model=MODEL, steps=(1,), seed=0, tokenizer=None, **settings):
    """A run with random parameters at each of its checkpoints."""
    workdir = Workdir(path)
    path.mkdir()
    workdir.write_config(Config(name=path.name, model=model, data=DataConfig(sequence_length=64), **settings))
    (tokenizer or train(TokenizerConfig(kind='byte'), 272, [])).save_in(path)
    checkpoints = Checkpoints(workdir.checkpoints)
    for step in steps:
        make = jax.jit(Transformer(model).init)
        params = make(jax.random.key(seed + step), jnp.zeros((1, 1), jnp.int32))['params']
        checkpoints.save(step, {'params': params}, {}, CheckpointConfig(keep_last=99))
        checkpoints.finish(CheckpointConfig(keep_last=99))
    checkpoints.close()
    return path
