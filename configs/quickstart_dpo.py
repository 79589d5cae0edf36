"""The quickstart's assistant, taught what can be checked: that a function parses and has the signature asked for.

Its preferences are the assistant's own answers, ranked by `llm rank`; docs/assistant.md says how it was chosen.
"""

import dataclasses
import pathlib

from llm.config import DPO, AdamW, Config, DataConfig, InitFromConfig, Linear, TrainingConfig
from llm.config_file import load_config

STEPS = 100


def get_config() -> Config:
    base = load_config(str(pathlib.Path(__file__).with_name('quickstart_sft.py')))
    return dataclasses.replace(
        base,
        name='quickstart_dpo',
        data=DataConfig(corpora=('jsonl:runs/quickstart_sft/preferences.jsonl',), sequence_length=192),
        objective=DPO(beta=0.1),
        optimizer=AdamW(learning_rate=3e-5, weight_decay=0.0),
        schedule=Linear(horizon=STEPS, warmup=10),
        init_from=InitFromConfig(workdir='runs/quickstart_sft'),
        training=TrainingConfig(steps=STEPS, batch_size=8),
        evaluation=dataclasses.replace(base.evaluation, every=50),
        checkpoint=dataclasses.replace(base.checkpoint, every=STEPS),
    )
