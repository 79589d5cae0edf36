"""Choices that change bits are made once, stored, and kept."""

import dataclasses
import logging

import jax
import pytest
from xla_flags import xla_flags

from llm import runtime
from llm.config import Config, ModelConfig, ParallelConfig
from llm.errors import UserError
from llm.model import attention_backends, attention_cudnn
from llm.training.loop import train
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
    monkeypatch.setattr(runtime, 'product_seconds', lambda model: measured[model.compute_dtype])
    assert runtime.compute_dtype(automatic()) == chosen


@pytest.mark.parametrize('name, value', [('device_kind', 'TPU v5'), ('host_threads', 7), ('xla_flags', '--xla_other')])
def test_another_machine_is_refused(workdir, name, value):
    workdir.write_runtime(runtime.choose(Config(), workdir, 'data') | {name: value})
    with pytest.raises(UserError, match=f'was started with {name}'):
        runtime.choose(Config(), workdir, 'data')


def test_another_number_of_virtual_devices_is_not_another_machine(workdir, monkeypatch):
    workdir.write_runtime(runtime.choose(Config(), workdir, 'data'))
    monkeypatch.setenv('XLA_FLAGS', xla_flags(3))
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


# ----------------------------------------------------------------------------------------------------------- attention


def asking(**model) -> Config:
    return dataclasses.replace(Config(), model=dataclasses.replace(Config().model, **model))


def running(choices: dict, **model) -> str:
    return runtime.resolve(asking(**model), choices).model.attention_backend


@pytest.fixture
def hopper(monkeypatch):
    """A machine with a GPU, as far as the choice of attention can see."""
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    monkeypatch.setattr(attention_cudnn, '_gpu', lambda: ('cuda', (9, 0)))


def test_the_attention_is_chosen_at_the_first_start_and_kept(workdir, monkeypatch):
    first = runtime.choose(Config(), workdir, 'data')
    assert first['attention_backend'] == attention_backends.choose(Config().model, 'cpu')
    workdir.write_runtime(first | {'attention_backend': 'reference'})
    monkeypatch.setattr(attention_backends, 'choose', lambda model, platform: 'blocks')  # a later version
    assert runtime.choose(Config(), workdir, 'data')['attention_backend'] == 'reference'
    assert running(workdir.runtime()) == 'reference'


def test_a_run_of_before_there_was_a_choice_had_the_reference(workdir, monkeypatch):
    monkeypatch.setattr(attention_backends, 'choose', lambda model, platform: 'blocks')
    workdir.write_config(Config())
    stored = runtime.choose(Config(), workdir, 'data')
    del stored['attention_backend']
    workdir.write_runtime(stored)
    assert runtime.stored_config(workdir).model.attention_backend == 'reference'


def test_the_attention_that_was_asked_for_is_not_replaced():
    assert running({'compute_dtype': 'float32', 'attention_backend': 'blocks'}, attention_backend='reference') == (
        'reference'
    )


def test_on_a_gpu_it_follows_from_the_dtype(workdir, hopper):
    chosen = lambda **model: runtime.choose(asking(**model), workdir, 'data')['attention_backend']
    assert chosen(compute_dtype='auto') == 'cudnn'
    assert chosen(compute_dtype='float32') == 'reference'
    with pytest.raises(UserError, match=r"'cudnn' is not available: .*compute_dtype is float32; choose auto"):
        chosen(compute_dtype='float32', attention_backend='cudnn')


@pytest.mark.parametrize('name', ['cudnn', 'splash'])
def test_what_is_not_here_is_refused_before_anything_is_done(tmp_path, name):
    config = dataclasses.replace(
        asking(attention_backend=name), data=dataclasses.replace(Config().data, corpora=('x',))
    )
    with pytest.raises(UserError, match=f"^model.attention_backend '{name}' is not available: .*choose auto") as error:
        train(config, tmp_path / 'run', progress=False)
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'run').exists()


def test_a_resume_that_lost_its_attention_is_refused(workdir):
    workdir.write_runtime(runtime.choose(Config(), workdir, 'data') | {'attention_backend': 'splash'})
    with pytest.raises(UserError, match="'splash' is not available"):
        runtime.choose(Config(), workdir, 'data')


def test_measuring_on_another_platform_uses_what_is_there_and_says_so(workdir, caplog):
    workdir.write_config(Config())
    workdir.write_runtime({'compute_dtype': 'bfloat16', 'attention_backend': 'cudnn'})
    with caplog.at_level(logging.WARNING):
        model = runtime.usable_config(workdir).model
    assert model.attention_backend == attention_backends.choose(model, 'cpu')
    (record,) = caplog.records
    assert f'{workdir.path} was trained with attention cudnn, which is not available here' in record.getMessage()
    assert runtime.stored_config(workdir).model.attention_backend == 'cudnn'  # a report says what ran


def test_measuring_where_the_run_was_trained_says_nothing(workdir, caplog):
    workdir.write_config(Config())
    workdir.write_runtime({'compute_dtype': 'float32', 'attention_backend': 'reference'})
    assert runtime.usable_config(workdir) == runtime.stored_config(workdir)
    assert not caplog.records


def test_rows_that_are_cut_need_an_attention_that_can_be(monkeypatch):
    """The kernels read whole rows; with a context axis 'auto' is the reference, and another by name is refused."""
    monkeypatch.setattr(attention_backends, 'choose', lambda model, platform: 'blocks')
    cut = Config(parallel=ParallelConfig(context=2))
    assert runtime.resolve(Config()).model.attention_backend == 'blocks'
    assert runtime.resolve(cut).model.attention_backend == 'reference'
    assert runtime.resolve(cut, {'attention_backend': 'blocks'}).model.attention_backend == 'reference'  # resumed so
    asked = dataclasses.replace(cut, model=ModelConfig(attention_backend='splash'))
    with pytest.raises(UserError, match=r'reads whole rows and parallel.context 2 cuts them'):
        runtime.check(asked)
