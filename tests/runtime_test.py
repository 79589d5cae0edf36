"""Choices that change bits are made once, stored, and kept."""

import dataclasses
import logging

import jax
import pytest

from llm import runtime
from llm.config import Config
from llm.errors import UserError
from llm.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def automatic() -> Config:
    config = Config()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, compute_dtype='auto'))


def test_the_first_start_stores_what_a_resume_uses(workdir, monkeypatch):
    first = runtime.choose(automatic(), workdir, 'data')
    workdir.write_runtime(first)
    assert first['compute_dtype'] in ('float32', 'bfloat16') and first['host_threads'] == 32
    other = {'float32': 'bfloat16', 'bfloat16': 'float32'}[first['compute_dtype']]
    monkeypatch.setattr(runtime, 'compute_dtype', lambda config: other)  # the machine feels different today
    assert runtime.choose(automatic(), workdir, 'data') == first
    assert runtime.resolve(automatic(), workdir.runtime()).model.compute_dtype == first['compute_dtype']


def test_a_dtype_that_was_asked_for_is_not_replaced():
    assert runtime.resolve(Config(), {'compute_dtype': 'bfloat16'}).model.compute_dtype == 'float32'


@pytest.mark.parametrize(
    'speeds, chosen', [((1.0, 0.5), 'bfloat16'), ((1.0, 0.95), 'float32'), ((1.0, 3.0), 'float32')]
)
def test_bfloat16_is_chosen_where_it_is_a_gain(monkeypatch, speeds, chosen):
    measured = dict(zip(('float32', 'bfloat16'), speeds))
    monkeypatch.setattr(runtime, '_product_seconds', lambda config, dtype: measured[dtype])
    assert runtime.compute_dtype(automatic()) == chosen


@pytest.mark.parametrize('name, value', [('device_kind', 'TPU v5'), ('host_threads', 7), ('xla_flags', '--xla_other')])
def test_another_machine_is_refused(workdir, name, value):
    workdir.write_runtime(runtime.choose(Config(), workdir, 'data') | {name: value})
    with pytest.raises(UserError, match=f'was started with {name}'):
        runtime.choose(Config(), workdir, 'data')


def test_another_number_of_virtual_devices_is_not_another_machine(workdir, monkeypatch):
    workdir.write_runtime(runtime.choose(Config(), workdir, 'data'))
    monkeypatch.setenv('XLA_FLAGS', '--xla_force_host_platform_device_count=3')
    runtime.choose(Config(), workdir, 'data')


def test_another_jax_is_said(workdir, caplog):
    workdir.write_runtime(runtime.choose(Config(), workdir, 'data') | {'jax': '0.0.1'})
    with caplog.at_level(logging.WARNING):
        runtime.choose(Config(), workdir, 'data')
    assert f'jax 0.0.1; with {jax.__version__} it goes on' in caplog.text


def test_changed_corpora_are_refused(workdir):
    workdir.write_runtime(runtime.choose(Config(), workdir, 'data'))
    with pytest.raises(UserError, match=r'corpora .* have changed'):
        runtime.choose(Config(), workdir, 'other data')
