"""What a result must not outlive."""

import copy
import dataclasses
import types

import pytest

from llm.config import Config
from llm.evaluation import run
from llm.evaluation.run import evaluate_tasks
from llm.evaluation.tasks import Settings
from llm.workdir import Workdir


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('chat_template', types.SimpleNamespace(source='{{ messages }}')),
        ('stop_ids', (2, 5)),
        ('_model', b'another'),
    ],
)
def test_a_task_is_measured_again_if_the_tokenizer_changed(tmp_path, monkeypatch, subject, capsys, name, value):
    workdir = Workdir(tmp_path / 'run')
    workdir.path.mkdir()
    workdir.write_config(Config())
    task = tmp_path / 'pairs.jsonl'
    task.write_text('{"first": "a", "second": "b"}')
    tokenizer = copy.copy(subject.tokenizer)
    monkeypatch.setattr(run.subject, 'load', lambda *args: dataclasses.replace(subject, tokenizer=tokenizer))

    def measured():
        evaluate_tasks(workdir, [str(task)], Settings())
        return 'measured already' not in capsys.readouterr().err

    assert measured() and not measured()
    setattr(tokenizer, name, value)
    assert measured() and not measured()
