"""A student's run: its teacher stays as it is, asked or stored; resuming is exact; what cannot be taught is refused."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from training.crash import Crash, crash_at

from llm import cache, config_json, tokenizer
from llm.config import Distillation, InitFromConfig, ParallelConfig, RewardModel, TokenizerConfig
from llm.errors import UserError
from llm.training.evaluate import evaluate_checkpoint
from llm.training.loop import train
from llm.workdir import Workdir


@pytest.fixture(scope='module')
def student(tiny, finished):
    """A smaller model, taught by the run of `finished`."""
    path, _ = finished
    return dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, num_layers=1, width=16),
        objective=Distillation(teacher=str(path), temperature=1.5),
    )


def objective(config, **values):
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, **values))


def losses(path):
    return [(row['step'], row['loss'], row['teacher/divergence']) for row in Workdir(path).rows('train')]


def test_learns_resumes_to_the_bit_and_opens_without_its_teacher(student, finished, one_device, tmp_path, monkeypatch):
    teacher = tmp_path / 'teacher'
    shutil.copytree(finished[0], teacher)
    student = objective(student, teacher=str(teacher))
    whole = train(student, tmp_path / 'whole', progress=False, devices=one_device)
    curve = losses(tmp_path / 'whole')
    assert curve[-1][2] < curve[0][2]  # nearer to the teacher
    assert whole['teacher'] == {'workdir': str(teacher), 'step': 12, 'parameters': finished[1]['parameters']}
    with monkeypatch.context() as patch:
        crash_at(patch, 6)
        with pytest.raises(Crash):
            train(student, tmp_path / 'cut', progress=False, devices=one_device)
    other = teacher / 'checkpoints' / '8'
    shutil.move(teacher / 'checkpoints' / '12', tmp_path / '12')
    shutil.copytree(other, teacher / 'checkpoints' / '12')
    with pytest.raises(UserError, match='has changed at step 12'):
        train(student, tmp_path / 'cut', progress=False, devices=one_device)
    shutil.rmtree(teacher / 'checkpoints' / '12')
    shutil.move(tmp_path / '12', teacher / 'checkpoints' / '12')
    again = train(student, tmp_path / 'cut', progress=False, devices=one_device)
    assert losses(tmp_path / 'cut') == curve
    assert again['params_sha256'] == whole['params_sha256']

    longer = dataclasses.replace(student, training=dataclasses.replace(student.training, steps=13))
    shutil.rmtree(teacher / 'checkpoints' / '12')
    with pytest.raises(UserError, match='no checkpoint 12'):
        train(longer, tmp_path / 'cut', progress=False, devices=one_device)
    shutil.rmtree(teacher)
    with pytest.raises(UserError, match='no workdir'):
        train(longer, tmp_path / 'cut', progress=False, devices=one_device)
    assert evaluate_checkpoint(Workdir(tmp_path / 'whole'))['loss'] == pytest.approx(whole['held_out']['loss'])


@pytest.mark.slow
def test_stored_predictions_are_those_of_the_teacher(student, one_device, tmp_path):
    """Asked at each step and asked once come to the same, up to half precision; a second run asks nobody."""
    kinds = {'asked': {'top_k': 8}, 'stored': {'top_k': 8, 'stored': True}, 'again': {'top_k': 8, 'stored': True}}
    found = {}
    for name, values in kinds.items():
        before = {entry.key: entry.used for entry in cache.entries() if entry.kind == 'teachers'}
        found[name] = train(objective(student, **values), tmp_path / name, progress=False, devices=one_device)
    np.testing.assert_allclose(losses(tmp_path / 'stored'), losses(tmp_path / 'asked'), rtol=2e-3)
    assert losses(tmp_path / 'again') == losses(tmp_path / 'stored')
    assert {entry.key for entry in cache.entries() if entry.kind == 'teachers'} == set(before)
    said = found['stored']['teacher']
    rows = Workdir(tmp_path / 'stored').rows('train')
    assert 0 < said['mean_rest'] < 1 and 0 <= said['mean_rounding_kl'] < 1e-4 and said['top_k'] == 8
    assert min(row['teacher/rest'] for row in rows) < said['mean_rest'] < max(row['teacher/rest'] for row in rows)


@pytest.mark.slow
def test_cut_over_devices_it_is_the_same_step(student, tmp_path):
    found = []
    ways = {
        'one': (ParallelConfig(), 1),
        'fsdp': (ParallelConfig(fsdp=4), 4),
        'pmap': (ParallelConfig(wrapper='pmap'), 4),
    }
    for name, (parallel, devices) in ways.items():
        short = dataclasses.replace(student, parallel=parallel, training=dataclasses.replace(student.training, steps=3))
        train(short, tmp_path / name, progress=False, devices=jax.devices()[:devices])
        found.append(losses(tmp_path / name))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-4)


def test_refusals_are_one_line_and_leave_nothing(student, tiny, finished, one_device, tmp_path):
    def copy(name, **model):
        """The teacher, and with what it is said to be."""
        shutil.copytree(finished[0], tmp_path / name)
        length = min(tiny.data.sequence_length, model.get('context_length', tiny.data.sequence_length))
        values = {'data.sequence_length': length, **{f'model.{field}': value for field, value in model.items()}}
        Workdir(tmp_path / name).write_config(config_json.override(tiny, values))
        return str(tmp_path / name)

    words = copy('words')
    tokenizer.train(TokenizerConfig(), 300, ['def return class import self'] * 9).save(
        tmp_path / 'words/tokenizer.model'
    )
    wrong = {
        'has no teacher': objective(student, teacher=''),
        'no workdir': objective(student, teacher=str(tmp_path / 'nowhere')),
        'has no checkpoint 7': objective(student, teacher_step=7),
        'another tokenizer': dataclasses.replace(student, init_from=InitFromConfig(workdir=words)),
        'predicts 400 tokens and the student 272': objective(student, teacher=copy('large', vocab_size=400)),
        'reads 16 tokens and rows have 32': objective(student, teacher=copy('short', context_length=16)),
    }
    for message, config in wrong.items():
        with pytest.raises(UserError, match=message) as refused:
            train(config, tmp_path / 'run', progress=False, devices=one_device)
        assert '\n' not in str(refused.value)
        assert not (tmp_path / 'run' / 'config.json').exists(), message
    with pytest.raises(ValueError, match='top_k is 272'):
        objective(student, top_k=272)
    with pytest.raises(ValueError, match='stored is True'):
        objective(student, stored=True)


def test_a_reward_model_teaches_nothing(student, finished, one_device, tmp_path):
    judge = tmp_path / 'judge'
    shutil.copytree(finished[0], judge)
    config = Workdir(judge).config()
    Workdir(judge).write_config(dataclasses.replace(config, objective=RewardModel()))
    with pytest.raises(UserError, match='predicts no next token'):
        train(objective(student, teacher=str(judge)), tmp_path / 'run', progress=False, devices=one_device)
