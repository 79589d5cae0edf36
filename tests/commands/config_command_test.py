import dataclasses
import json

import pytest

from llm import runtime
from llm.analysis import plan
from llm.commands import config as command
from llm.config import Config, DataConfig, ModelConfig
from llm.errors import UserError

CONFIG = Config(
    model=ModelConfig(vocab_size=300, context_length=64, num_layers=1, width=16, num_heads=2),
    data=DataConfig(sequence_length=32),
)


def test_json_is_the_plan_and_nothing_else(capsys):
    command.run(command.Args(json=True), CONFIG)
    assert json.loads(capsys.readouterr().out) == plan.plan(runtime.resolve(CONFIG))


def test_text_is_the_plan_for_people(capsys):
    command.run(command.Args(), CONFIG)
    assert capsys.readouterr().out == plan.text(plan.plan(runtime.resolve(CONFIG))) + '\n'


def test_attention_that_is_not_here_is_refused():
    model = dataclasses.replace(CONFIG.model, attention_backend='cudnn')
    with pytest.raises(UserError, match=r"^model\.attention_backend 'cudnn' is not available: it runs on a gpu"):
        command.run(command.Args(), dataclasses.replace(CONFIG, model=model))
