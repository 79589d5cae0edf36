"""Where the time goes: one compilation, the first step, waiting for data; and what a process imports on its way."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
from xla_flags import xla_flags

from llm import config_json
from llm.analysis import flops
from llm.data.batches import TrainBatches
from llm.training import attempt
from llm.training.ledger import Ledger
from llm.training.loop import train
from llm.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[2]


def change(config, section, **values):
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


def test_one_compilation_per_start_evaluation_and_resume_included(tiny, one_device, tmp_path, monkeypatch):
    """Twelve steps with evaluations and checkpoints, in two starts: each traces its step and its evaluation once."""
    steps, evaluators = [], []
    for name, made in (('make_step', steps), ('make_evaluator', evaluators)):
        make = getattr(attempt, name)
        monkeypatch.setattr(attempt, name, lambda *args, make=make, made=made: made.append(make(*args)) or made[-1])
    train(change(tiny, 'training', steps=7), tmp_path / 'run', progress=False, devices=one_device)
    train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert [step.program._cache_size() for step in steps] == [1, 1]
    assert [evaluator._likelihoods._cache_size() for evaluator in evaluators] == [1, 1]


def test_nothing_is_compiled_after_the_first_step_but_what_comes_first_later(tiny, one_device, tmp_path, monkeypatch):
    """Counted by jax itself: between evaluations, no step compiles anything."""
    import jax.monitoring

    compiled, at = [], []
    monitored = lambda name, seconds, **_: (
        compiled.append(at[-1]) if at and name.endswith('backend_compile_duration') else None
    )
    jax.monitoring.register_event_duration_secs_listener(monitored)
    read = Ledger.read
    monkeypatch.setattr(Ledger, 'read', lambda self, step, metrics: at.append(step) or read(self, step, metrics))
    config = change(change(tiny, 'evaluation', every=100), 'checkpoint', every=100)
    train(config, tmp_path / 'run', progress=False, devices=one_device)
    assert not [step for step in compiled if 1 <= step < 11]


def test_flops_carry_their_version(finished):
    path, summary = finished
    assert summary['flops_version'] == flops.VERSION
    assert {row['flops_version'] for row in Workdir(path).rows('train')} == {flops.VERSION}


def test_the_first_step_is_told(finished):
    path, summary = finished
    (event,) = [row for row in Workdir(path).rows('event') if row['event'] == 'first_step']
    assert event['seconds'] == summary['first_step_seconds'] > 0 and event['step'] == 1
    later = sum(row['seconds'] for row in Workdir(path).rows('train')[-1:]) / 11
    assert event['seconds'] > later  # it compiles


def test_waiting_for_data_is_measured(tiny, one_device, tmp_path, monkeypatch):
    """A source that takes a twentieth of a second a batch, before a step of a few milliseconds."""

    def slow(self, start_step, skipped, rows=None):
        for step in range(start_step, 10**9):
            time.sleep(0.05)
            yield self.rows(step, *rows)

    config = change(tiny, 'evaluation', every=100)
    fast = train(config, tmp_path / 'fast', progress=False, devices=one_device)
    monkeypatch.setattr(TrainBatches, 'iterate', slow)
    summary = train(config, tmp_path / 'slow', progress=False, devices=one_device)
    # Ten batches are waited for while the clock runs: not those of the first two steps.
    truth = 10 * 0.05 / summary['seconds']
    assert truth <= summary['data_wait_fraction'] <= 1
    assert summary['data_wait_fraction'] == pytest.approx(truth, abs=0.2)
    assert fast['data_wait_fraction'] < summary['data_wait_fraction'] - 0.2
    row = Workdir(tmp_path / 'slow').rows('train')[5]
    assert 0.3 < row['data_wait_fraction'] <= 1


PROBE = """
import json, sys
from llm.command_line import main
from llm.errors import UserError

def first_step():
    from llm.training.ledger import Ledger
    read = Ledger.read
    def told(self, *args):
        print('MODULES' + json.dumps(sorted(sys.modules)), file=sys.stderr)
        return read(self, *args)
    Ledger.read = told

arguments = json.loads(sys.argv[1])
if '--workdir' in arguments:
    from llm.commands import train
    here = train._here
    train._here = lambda *args: first_step() or here(*args)
try:
    main(arguments)
except SystemExit:
    pass
print('MODULES' + json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def modules(*arguments) -> set[str]:
    """The packages that are imported at the first step, or at the end where there is none."""
    command = [sys.executable, '-c', PROBE, json.dumps(arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {'XLA_FLAGS': xla_flags(1)}
    )
    line = next(line for line in done.stderr.splitlines() if line.startswith('MODULES'))
    names = json.loads(line.removeprefix('MODULES'))
    return {name.partition('.')[0] for name in names}


@pytest.mark.parametrize('arguments', [('--help',), ('train', '--help'), ('config', '--help')])
def test_help_imports_nothing_heavy(arguments):
    heavy = {'jax', 'jaxlib', 'numpy', 'flax', 'optax', 'orbax', 'grain', 'tensorflow_datasets', 'sentencepiece'}
    assert not modules(*arguments) & (heavy | {'matplotlib', 'jinja2', 'tensorboardX', 'scipy'})


@pytest.mark.slow
def test_the_first_step_is_reached_without_what_it_does_not_use(finished, tiny, tmp_path):
    """The corpus is in the cache: `finished` has put it there."""
    file = tmp_path / 'config.py'
    text = config_json.to_json(change(tiny, 'training', steps=1))
    file.write_text(f'from llm.config_json import from_json\n\ndef get_config():\n    return from_json({text!r})\n')
    found = modules('train', '--config', str(file), '--workdir', str(tmp_path / 'run'), '--no-progress')
    assert 'jax' in found
    unused = {'matplotlib', 'jinja2', 'tensorflow_datasets', 'tensorboardX', 'sentencepiece', 'pandas'}
    assert not found & unused, found & unused


def test_a_second_process_takes_compiled_programs_from_the_cache_unless_it_is_switched_off(tmp_path):
    code = """
import jax.monitoring, sys
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name) if name.endswith('cache_hits') else None)
from llm import runtime
runtime.prepare_host()
import jax
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.jit(lambda x: (x @ x).sum())(jax.numpy.ones((8, 8))).block_until_ready()
print(len(hits))
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith('JAX_')} | {'JAX_PLATFORMS': 'cpu'}
    environment |= {'GLASSBOX_CACHE': str(tmp_path / 'cache'), 'XLA_FLAGS': '', 'NPROC': '2'}

    def hits(**more):
        done = subprocess.run(
            [sys.executable, '-c', code], cwd=ROOT, env=environment | more, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert hits() == 0
    assert hits() > 0
    assert hits(JAX_ENABLE_COMPILATION_CACHE='false') == 0
