import json

from llm.analysis import plan
from llm.commands import config as command
from llm.config import Config, DataConfig, ModelConfig

CONFIG = Config(
    model=ModelConfig(vocab_size=300, context_length=64, num_layers=1, width=16, num_heads=2),
    data=DataConfig(sequence_length=32),
)


def test_json_is_the_plan_and_nothing_else(capsys):
    command.run(command.Args(json=True), CONFIG)
    assert json.loads(capsys.readouterr().out) == plan.plan(CONFIG)


def test_text_is_the_plan_for_people(capsys):
    command.run(command.Args(), CONFIG)
    assert capsys.readouterr().out == plan.text(plan.plan(CONFIG)) + '\n'
