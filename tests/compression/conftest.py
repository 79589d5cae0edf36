"""Runs with tiny random models; what they save on texts, they save because their tokens are whole words."""

import dataclasses
import pathlib

import pytest

pytest.importorskip('constriction')

from llm.config import CheckpointConfig, Config, DataConfig, ModelConfig, TokenizerConfig
from llm.tokenizer import train
from llm.training.checkpoint import Checkpoints
from llm.training.train_state import initial_model
from llm.workdir import Workdir

MODEL = ModelConfig(vocab_size=340, context_length=16, num_layers=1, width=16, num_heads=2, init_std=0.2)
CONFIG = Config(name='tiny', model=MODEL, data=DataConfig(sequence_length=16))
WORDS = 'def return class import self value list dict print open close read write '


def make_run(folder: pathlib.Path, config: Config = CONFIG) -> Workdir:
    """A workdir with a checkpoint of the config's first weights, at step 3."""
    workdir = Workdir(folder)
    folder.mkdir()
    workdir.write_config(config)
    size = config.model.vocab_size
    train(config.tokenizer, size, [WORDS * 20, 'größer\tals\n' * 9]).save(workdir.tokenizer_file)
    checkpoints = Checkpoints(workdir.checkpoints)
    checkpoints.save(3, {'params': initial_model(config.model, config.seed)}, {}, CheckpointConfig())
    checkpoints.finish(CheckpointConfig())
    checkpoints.close()
    return workdir


@pytest.fixture(scope='session')
def run(tmp_path_factory) -> Workdir:
    return make_run(tmp_path_factory.mktemp('compression') / 'run')


@pytest.fixture(scope='session')
def other_run(tmp_path_factory) -> Workdir:
    return make_run(tmp_path_factory.mktemp('compression') / 'other', dataclasses.replace(CONFIG, seed=1))


@pytest.fixture(scope='session')
def byte_run(tmp_path_factory) -> Workdir:
    config = dataclasses.replace(CONFIG, tokenizer=TokenizerConfig(kind='byte'))
    return make_run(tmp_path_factory.mktemp('compression') / 'bytes', config)
