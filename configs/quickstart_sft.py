"""From the quickstart's model to one that answers, in a minute or two: instructions made from the standard library.

docs/assistant.md says how it was chosen.
"""

import dataclasses
import pathlib

from llm.config import SFT, Config, DataConfig, InitFromConfig, Linear, Muon, TrainingConfig
from llm.config_file import load_config

STEPS = 400


def get_config() -> Config:
    base = load_config(str(pathlib.Path(__file__).with_name('quickstart.py')))
    return dataclasses.replace(
        base,
        name='quickstart_sft',
        data=DataConfig(corpora=('task:python_functions', 'task:python_docstrings'), sequence_length=256),
        objective=SFT(vocabulary_chunk=32),
        optimizer=Muon(learning_rate=0.005, adam_learning_rate=0.001),
        schedule=Linear(horizon=STEPS, warmup=20),
        init_from=InitFromConfig(workdir='runs/quickstart'),
        training=TrainingConfig(steps=STEPS, batch_size=8),
        evaluation=dataclasses.replace(base.evaluation, every=STEPS),
    )
