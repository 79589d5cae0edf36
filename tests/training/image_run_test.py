"""A run on rows with images: from a text model, stopped and resumed, measured, and with samples along the way."""

import dataclasses
import json

import jax
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import (
    SFT,
    CheckpointConfig,
    Config,
    Constant,
    DataConfig,
    EvaluationConfig,
    InitFromConfig,
    LogConfig,
    LoRAConfig,
    ModelConfig,
    TokenizerConfig,
    TrainingConfig,
)
from llm.errors import UserError
from llm.training.checkpoint import load_params
from llm.training.evaluate import evaluate_checkpoint
from llm.training.loop import train
from llm.training.train_state import initial_model
from llm.workdir import Workdir

TEXT = ModelConfig(vocab_size=272, context_length=48, num_layers=1, width=16, num_heads=2, feed_forward_width=16)
READS = dataclasses.replace(TEXT, image_size=4, patch_size=2)


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
    """Sixty images that are dark or bright, and the word for it."""
    path = tmp_path_factory.mktemp('rows') / 'rows.jsonl'
    draw, lines = np.random.default_rng(0), []
    for number in range(60):
        bright = number % 2
        pixels = np.round(draw.uniform(0.5 * bright, 0.5 + 0.5 * bright, (4, 4)), 3).tolist()
        lines.append({'prompt': f'{number} <image>?', 'completion': ['dark', 'bright'][bright], 'images': [pixels]})
    path.write_text('\n'.join(map(json.dumps, lines)))
    return path


def config(rows, model=READS, steps=4, **more) -> Config:
    return Config(
        model=model,
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(corpora=(f'jsonl:{rows}',), sequence_length=40),
        objective=SFT(),
        schedule=Constant(warmup=0),
        training=TrainingConfig(steps=steps, batch_size=4),
        checkpoint=CheckpointConfig(every=2, keep_last=9),
        evaluation=EvaluationConfig(every=4, batch_size=4, sample_tokens=3),
        log=LogConfig(every=1, tensorboard=False),
        **more,
    )


def run(made: Config, path) -> Workdir:
    train(made, path, progress=False, devices=jax.devices()[:1])
    return Workdir.open(path)


@pytest.mark.slow
def test_a_text_model_goes_on_with_images_and_a_stopped_run_goes_on_to_the_bit(rows, tmp_path):
    words = tmp_path / 'words.jsonl'
    fields = [json.loads(line) for line in rows.read_text().splitlines()]
    words.write_text('\n'.join(json.dumps({name: row[name] for name in ('prompt', 'completion')}) for row in fields))
    text = run(config(words, TEXT, steps=2), tmp_path / 'text')
    begun = InitFromConfig(workdir=str(text.path))

    whole = run(config(rows, init_from=begun), tmp_path / 'whole')
    _, start = load_params(whole, 0)
    _, before = load_params(text)
    npt.assert_allclose(start['patches']['kernel'], initial_model(READS, 0)['patches']['kernel'], rtol=1e-6)
    jax.tree.map(npt.assert_array_equal, {n: x for n, x in start.items() if n != 'patches'}, before)

    run(config(rows, init_from=begun, steps=2), tmp_path / 'stopped')
    stopped = run(config(rows, init_from=begun), tmp_path / 'stopped')
    assert stopped.summary()['params_sha256'] == whole.summary()['params_sha256']
    (sample,) = [row for row in whole.rows('sample') if row['step'] == 4]
    assert '<image>?' in sample['prompt']
    assert evaluate_checkpoint(whole)['loss'] == pytest.approx(whole.summary()['held_out']['loss'], rel=1e-6)
    assert whole.summary()['data']['train']['images'] > 50

    with pytest.raises(UserError, match='adapters do not train one'):
        run(config(rows, init_from=begun, lora=LoRAConfig(rank=2)), tmp_path / 'adapters')
    with pytest.raises(UserError, match=r'set model\.image_size'):
        run(config(rows, TEXT), tmp_path / 'blind')
