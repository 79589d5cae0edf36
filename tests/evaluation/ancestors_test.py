"""What the runs that a run started from were trained on."""

import dataclasses

import pytest

from llm.config import Config, DataConfig, Distillation, InitFromConfig
from llm.evaluation import run
from llm.evaluation.run import corpora_of, evaluate_tasks
from llm.evaluation.tasks import Settings
from llm.workdir import Workdir


@pytest.fixture
def tuned(tmp_path):
    """A run in runs/tuned that started from runs/base, as somebody in the folder above gave it."""
    for name, source in (('base', ''), ('tuned', 'runs/base')):
        path = tmp_path / 'home' / 'runs' / name
        path.mkdir(parents=True)
        config = Config(data=DataConfig(corpora=(f'text:{name}/*',)), init_from=InitFromConfig(workdir=source))
        Workdir(path).write_config(config)
    return Workdir(path)


@pytest.mark.parametrize('start', ['home', 'home/runs', 'elsewhere'])
def test_a_base_is_found_from_anywhere(tuned, tmp_path, monkeypatch, caplog, start):
    (tmp_path / start).mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / start)
    assert corpora_of(tuned) == ({'text:tuned/*', 'text:base/*'}, None)
    assert not caplog.records


def test_a_base_that_is_gone_is_said(tuned, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'home/runs/base').rename(tmp_path / 'moved')
    assert corpora_of(tuned) == ({'text:tuned/*'}, 'runs/base')
    assert 'started from runs/base, which is not here' in caplog.text


def test_no_run_is_its_own_base(tuned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / 'home')
    Workdir('runs/base').path.rename(tmp_path / 'moved')
    tuned.path.rename(tmp_path / 'home/runs/base')
    assert corpora_of(Workdir('runs/base')) == ({'text:tuned/*'}, 'runs/base')


def test_the_result_says_that_a_base_is_gone(tuned, tmp_path, monkeypatch, subject):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.subject, 'load', lambda *args: dataclasses.replace(subject))
    (tmp_path / 'text.txt').write_text('A text.')
    facts = lambda: evaluate_tasks(tuned, ['text.txt'], Settings())[0][0].facts
    assert 'runs/base' not in facts().values()
    (tmp_path / 'home/runs/base').rename(tmp_path / 'moved')
    assert 'runs/base' in facts().values()  # and it is measured anew


def test_what_a_teacher_learned_from_counts_too(tuned, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path / 'home')
    student = tmp_path / 'home/runs/student'
    student.mkdir()
    config = Config(data=DataConfig(corpora=('text:own/*',)), objective=Distillation(teacher='runs/tuned'))
    Workdir(student).write_config(config)
    assert corpora_of(Workdir(student)) == ({'text:own/*', 'text:tuned/*', 'text:base/*'}, None)
    tuned.path.rename(tmp_path / 'moved')
    assert corpora_of(Workdir(student)) == ({'text:own/*'}, 'runs/tuned')
    assert 'learned from runs/tuned, which is not here' in caplog.text
