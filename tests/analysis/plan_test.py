import json

from llm.analysis import flops, memory, plan
from llm.config import Config, DataConfig, ModelConfig, TrainingConfig
from llm.config_json import from_dict

CONFIG = Config(
    model=ModelConfig(vocab_size=300, context_length=64, num_layers=2, width=16, num_heads=2),
    data=DataConfig(sequence_length=32),
    training=TrainingConfig(steps=100, batch_size=4),
)


def test_the_plan_adds_up():
    prediction = plan.plan(CONFIG)
    assert prediction['tokens_per_step'] == 4 * 32
    assert prediction['total_tokens'] == 100 * 4 * 32
    assert prediction['parameters']['total'] == memory.parameter_count(CONFIG.model)
    for convention in flops.CONVENTIONS:
        per_token = flops.training_flops_per_token(CONFIG.model, 32, convention)  # the data's length, not the model's
        assert prediction['training_flops_per_token'][convention] == per_token
        assert prediction['total_training_flops'][convention] == 12_800 * per_token
    sizes = dict(prediction['memory_bytes'])
    assert sizes.pop('total') == sum(sizes.values())


def test_the_config_in_it_is_the_config():
    prediction = json.loads(json.dumps(plan.plan(CONFIG)))
    assert from_dict(prediction['config']) == CONFIG


def test_the_text_names_every_field_and_part():
    prediction = plan.plan(CONFIG)
    text = plan.text(prediction)
    assert 'model:\n  vocab_size: 300\n  context_length: 64' in text
    assert 'windows: [null]' in text
    assert all(part in text for part in prediction['parameters']['by_part'])
    assert '128 per step x 100 steps = 12,800' in text
