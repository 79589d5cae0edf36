"""The students differ in what they are taught and in nothing else, and what is said of their teacher is so."""

import dataclasses
import pathlib

import pytest

from experiments.distillation import __main__ as command
from experiments.distillation import plan
from llm import config_json
from llm.ablation.plan import arm_configs
from llm.analysis import memory
from llm.config import SFT
from llm.errors import UserError
from llm.workdir import Workdir


def test_arms_differ_in_their_objective_alone():
    question = plan.ablation(plan.STUDENT, pathlib.Path('teacher'), pathlib.Path('untrained'), 'about')
    arms = arm_configs(question)
    for label, config in arms.items():
        changed = config_json.difference(plan.STUDENT, config)
        assert all(name.startswith('objective.') for name in changed), label
        assert config.training.steps == plan.STEPS
    control = arms['untrained teacher'].objective
    assert control.teacher == 'untrained' and arms['forward KL'].objective.teacher == 'teacher'
    assert config_json.difference(arms['forward KL'], arms['untrained teacher']).keys() == {'objective.teacher'}
    assert {arm.objective.divergence for arm in list(arms.values())[1:]} == {'forward', 'reverse', 'jensen_shannon'}


def test_the_teacher_is_larger_and_has_read_more():
    larger = memory.parameter_count(plan.TEACHER.model) / memory.parameter_count(plan.STUDENT.model)
    tokens = [config.training.steps * config.training.batch_size for config in (plan.TEACHER, plan.STUDENT)]
    assert larger > 3 and tokens[0] > 3 * tokens[1]
    assert plan.TEACHER.tokenizer == plan.STUDENT.tokenizer and plan.TEACHER.data == plan.STUDENT.data
    text = plan.about_teacher(plan.STUDENT, plan.TEACHER, 2.5)
    assert '2.5000 bits per byte' in text and 'training FLOPs' in text


def test_a_teacher_whose_text_is_not_known_is_refused(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.write_config(plan.TEACHER)
    with pytest.raises(UserError, match='imported or is not done'):
        command.main(['--teacher', str(tmp_path), '--out', str(tmp_path / 'out')])
    workdir.write_config(dataclasses.replace(plan.TEACHER, objective=SFT()))
    with pytest.raises(UserError, match='learned objective sft'):
        command.main(['--teacher', str(tmp_path), '--out', str(tmp_path / 'out')])
    workdir.write_config(plan.TEACHER)
    workdir.write_summary({'held_out': {'bits_per_byte': 2.0}})
    command.check_teacher(workdir)
    assert not (tmp_path / 'out').exists()
