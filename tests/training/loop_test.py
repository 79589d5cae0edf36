"""The loop: exact counts, exact resumption, divergence and what is refused."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from training.crash import Crash, crash_at
from xla_flags import xla_flags

from llm import config_json
from llm.analysis import flops
from llm.config import InitFromConfig
from llm.data.batches import TrainBatches
from llm.data.prepare import prepare
from llm.errors import Interrupted, MachineError, UserError
from llm.parallel import step as parallel_step
from llm.training.attempt import Attempt
from llm.training.checkpoint import Checkpoints, load_params, params_sha256
from llm.training.ledger import Ledger
from llm.training.loop import train
from llm.training.metrics import MetricsWriter
from llm.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[2]


def change(config, section, **values):
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **values)})


def curve(path):
    """What must not depend on interruptions."""
    return [(row['step'], row['loss'], row['grad_norm'], row['tokens']) for row in Workdir(path).rows('train')]


def test_makes_exactly_n_updates_and_keeps_the_last(finished, tiny):
    path, summary = finished
    assert [row['step'] for row in Workdir(path).rows('train')] == list(range(1, 13))
    assert summary['status'] == 'done' and summary['step'] == 12
    step, params = load_params(Workdir(path))
    assert step == 12 and params_sha256(params) == summary['params_sha256']


def test_tokens_and_flops_are_exact(finished, tiny):
    path, summary = finished
    rows = Workdir(path).rows('train')
    prepared = prepare(tiny)
    batches = TrainBatches(tiny, prepared.train)
    counted = sum(batches.batch(i)['loss_weights'].sum() for i in range(12))
    assert rows[-1]['tokens'] == summary['tokens'] == counted < 12 * 8 * 32
    assert summary['flops'] == counted * flops.training_flops_per_token(tiny.model, 32)


@pytest.mark.parametrize('step', [pytest.param(1, marks=pytest.mark.slow), 5, 8, 12])
def test_resumes_to_the_bit_wherever_it_died(finished, tiny, one_device, tmp_path, monkeypatch, step):
    path, summary = finished
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    again = train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert curve(tmp_path / 'run') == curve(path)
    assert again['params_sha256'] == summary['params_sha256']
    assert again['held_out'] == summary['held_out']
    assert again['tokens'] == summary['tokens']


def test_a_killed_process_resumes_to_the_bit(tiny, tmp_path):
    """SIGKILL through the command line, against a process that was left alone."""
    config = tmp_path / 'config.py'
    text = config_json.to_json(change(change(tiny, 'training', steps=30), 'checkpoint', every=5))
    config.write_text(f'from llm.config_json import from_json\n\ndef get_config():\n    return from_json({text!r})\n')
    environment = os.environ | {'NPROC': '2', 'XLA_FLAGS': xla_flags(1)}

    def start(name):
        command = [sys.executable, '-m', 'llm', 'train', '--config', str(config), '--workdir', str(tmp_path / name)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    alone, killed = start('alone'), start('killed')
    metrics = tmp_path / 'killed' / 'metrics.jsonl'
    while killed.poll() is None and not (metrics.exists() and metrics.read_text().count('"train"') >= 8):
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    again = start('killed')
    for process in (alone, again):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()
    assert curve(tmp_path / 'killed') == curve(tmp_path / 'alone')
    assert Workdir(tmp_path / 'killed').last_attempt() == 2, 'the kill came too late to mean anything'
    hashes = [Workdir(tmp_path / name).summary()['params_sha256'] for name in ('killed', 'alone')]
    assert hashes[0] == hashes[1]


def dies(monkeypatch, owner, name, after=True, at=None):
    """The process dies in a method, before or after it does its work, when called with `at` (or first of all)."""
    method = getattr(owner, name)

    def dying(self, *args):
        if at is not None and args[0] != at:
            return method(self, *args)
        if after:
            method(self, *args)
        raise Crash

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize(
    'name, after, at',
    [
        pytest.param('save', False, 8, marks=pytest.mark.slow),  # nothing of checkpoint 8 is there
        ('save', True, 8),  # it is being written
        ('write_record', False, 8),  # its files are there, its manifest is not
        ('write_record', True, 8),  # it is there; older ones are not deleted yet
        ('delete', True, 0),  # an old one has just been deleted
    ],
)
def test_dying_in_the_middle_of_a_checkpoint_loses_nothing(
    finished, tiny, one_device, tmp_path, monkeypatch, name, after, at
):
    path, summary = finished
    with monkeypatch.context() as patch:
        dies(patch, Checkpoints, name, after, at)
        with pytest.raises(Crash):
            train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    again = train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert curve(tmp_path / 'run') == curve(path)
    assert again['params_sha256'] == summary['params_sha256']


def test_accounting_goes_on_across_restarts(tiny, one_device, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        crash_at(patch, 9)
        with pytest.raises(Crash):
            train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    rows = Workdir(tmp_path / 'run').rows('train')
    assert {row['attempt'] for row in rows} == {1, 2}
    for name in ('tokens', 'flops', 'seconds'):
        values = [row[name] for row in rows if row['step'] != 9]  # step 9 is compiled again, and not timed
        assert values == sorted(values) and values[0] >= 0


def test_a_longer_run_continues_a_shorter_one(finished, tiny, one_device, tmp_path):
    path, summary = finished
    short = change(tiny, 'training', steps=7)
    assert train(short, tmp_path / 'run', progress=False, devices=one_device)['step'] == 7
    longer = train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert longer['params_sha256'] == summary['params_sha256']
    with pytest.raises(UserError, match=r'past training\.steps 7'):
        train(short, tmp_path / 'run', progress=False, devices=one_device)
    assert Workdir(tmp_path / 'run').config() == tiny, 'a refused start rewrote the config'


def test_a_finished_run_is_left_as_it_is(finished, tiny, one_device, tmp_path):
    path, summary = finished
    shutil.copytree(path, tmp_path / 'run')
    again = train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert again['params_sha256'] == summary['params_sha256'] and again['step'] == 12
    assert curve(tmp_path / 'run') == curve(path)


def test_another_config_is_refused_with_the_difference(finished, tiny, one_device):
    path, _ = finished
    with pytest.raises(UserError, match=r'model\.dropout was 0\.0 and is now 0\.5'):
        train(change(tiny, 'model', dropout=0.5), path, progress=False, devices=one_device)


def test_logging_may_change(finished, tiny, one_device, tmp_path):
    path, summary = finished
    shutil.copytree(path, tmp_path / 'run')
    config = change(change(tiny, 'log', every=7), 'evaluation', every=3)
    assert train(config, tmp_path / 'run', progress=False, devices=one_device)['status'] == 'done'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_so(finished, tiny, one_device, tmp_path, monkeypatch, number):
    path, summary = finished
    read = Ledger.read

    def interrupting(self, step, metrics):
        if step == 5:
            os.kill(os.getpid(), number)
        return read(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, 'read', interrupting)
        with pytest.raises(Interrupted) as stopped:
            train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert stopped.value.exit_code == 128 + number
    stored = Workdir(tmp_path / 'run').summary()
    assert stored['status'] == 'interrupted' and 5 <= stored['step'] <= 7
    assert Checkpoints(Workdir(tmp_path / 'run').checkpoints).steps()[-1] == stored['step']
    assert (
        train(tiny, tmp_path / 'run', progress=False, devices=one_device)['params_sha256'] == summary['params_sha256']
    )


@pytest.mark.slow
def test_many_devices_give_the_curve_of_one(finished, tiny, tmp_path):
    path, _ = finished
    summary = train(tiny, tmp_path / 'run', progress=False, devices=jax.devices())
    np.testing.assert_allclose(
        [loss for _, loss, _, _ in curve(tmp_path / 'run')], [loss for _, loss, _, _ in curve(path)], rtol=1e-5
    )
    assert summary['environment']['devices'] == 8


def test_restores_on_another_number_of_devices(finished, tiny, one_device, tmp_path):
    path, _ = finished
    train(change(tiny, 'training', steps=6), tmp_path / 'run', progress=False, devices=one_device)
    train(tiny, tmp_path / 'run', progress=False, devices=jax.devices()[:4])
    np.testing.assert_allclose(
        [loss for _, loss, _, _ in curve(tmp_path / 'run')], [loss for _, loss, _, _ in curve(path)], rtol=1e-5
    )


def poison(monkeypatch, *indices):
    """Makes the loss of these batches NaN."""
    original = TrainBatches.rows

    def rows(self, index, start, stop):
        batch = original(self, index, start, stop)
        if index in indices:
            batch = batch | {'loss_weights': np.full_like(batch['loss_weights'], np.nan)}
        return batch

    monkeypatch.setattr(TrainBatches, 'rows', rows)


def test_divergence_rolls_back_and_leaves_the_batch_out(tiny, one_device, tmp_path, monkeypatch):
    poison(monkeypatch, 5)  # met at step 6; the checkpoint before is step 4
    summary = train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    rows = Workdir(tmp_path / 'run').rows()
    (event,) = [row for row in rows if row.get('event') == 'rollback']
    assert (
        'step 6' in event['message'] and 'back at step 4' in event['message'] and 'batches 5 to 5' in event['message']
    )
    assert summary['status'] == 'done' and all(np.isfinite(row['loss']) for row in rows if row['kind'] == 'train')
    assert Checkpoints(Workdir(tmp_path / 'run').checkpoints).record(12)['skipped'] == [[5, 6]]


@pytest.mark.parametrize('step', [pytest.param(5, marks=pytest.mark.slow), 7, pytest.param(9, marks=pytest.mark.slow)])
def test_a_run_that_rolled_back_resumes_to_the_bit(tiny, one_device, tmp_path, monkeypatch, step):
    poison(monkeypatch, 5)
    whole = train(tiny, tmp_path / 'whole', progress=False, devices=one_device)
    with monkeypatch.context() as patch:
        crash_at(patch, step)
        with pytest.raises(Crash):
            train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    resumed = train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert resumed['params_sha256'] == whole['params_sha256']
    assert curve(tmp_path / 'run') == curve(tmp_path / 'whole')


def test_what_did_not_help_is_not_gone_back_to_again(tiny, one_device, tmp_path, monkeypatch):
    poison(monkeypatch, 5, 6)
    summary = train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    events = [row['message'] for row in Workdir(tmp_path / 'run').rows() if row.get('event') == 'rollback']
    assert len(events) == 2 and 'back at step 4' in ' '.join(events) and 'back at step 0' in ' '.join(events)
    assert summary['status'] == 'done'
    assert Checkpoints(Workdir(tmp_path / 'run').checkpoints).record(12)['skipped'] == [[5, 7]]


@pytest.mark.parametrize(
    'method, after', [('delete_after', True), pytest.param('write_record', True, marks=pytest.mark.slow)]
)
def test_dying_in_the_middle_of_a_rollback_repeats_it(tiny, one_device, tmp_path, monkeypatch, method, after):
    poison(monkeypatch, 9)  # met at step 10
    whole = train(tiny, tmp_path / 'whole', progress=False, devices=one_device)
    rolling = []
    original = Attempt.roll_back
    with monkeypatch.context() as patch:
        patch.setattr(Attempt, 'roll_back', lambda self, *args: rolling.append(1) or original(self, *args))
        inner = getattr(Checkpoints, method)

        def dying(self, *args):
            inner(self, *args)
            if rolling:
                raise Crash

        patch.setattr(Checkpoints, method, dying)
        with pytest.raises(Crash):
            train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    resumed = train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert resumed['params_sha256'] == whole['params_sha256']
    assert curve(tmp_path / 'run') == curve(tmp_path / 'whole')


def test_an_exploding_loss_counts_as_divergence(tiny, one_device, tmp_path, monkeypatch):
    original = TrainBatches.rows

    def rows(self, index, start, stop):
        batch = original(self, index, start, stop)
        if index == 8:  # nothing like the text: the loss jumps, and stays finite
            batch = batch | {'targets': np.full_like(batch['targets'], 9)}
        return batch

    monkeypatch.setattr(TrainBatches, 'rows', rows)
    train(change(tiny, 'divergence', z_score=4.0), tmp_path / 'run', progress=False, devices=one_device)
    (event,) = [row for row in Workdir(tmp_path / 'run').rows() if row.get('event') == 'rollback']
    assert 'deviations above' in event['message'] and 'step 9' in event['message']


def test_gives_up_with_a_diagnosis(tiny, one_device, tmp_path, monkeypatch):
    poison(monkeypatch, 5, 6, 7)
    config = change(tiny, 'divergence', max_rollbacks=2)
    with pytest.raises(MachineError, match=r'gave up after 2 rollbacks.*batch 7.*loss weights'):
        train(config, tmp_path / 'run', progress=False, devices=one_device)
    assert Workdir(tmp_path / 'run').summary()['status'] == 'failed'


def test_two_processes_cannot_train_in_one_workdir(tiny, one_device, tmp_path):
    from filelock import FileLock

    (tmp_path / 'run').mkdir()
    with FileLock(tmp_path / 'run' / '.lock'), pytest.raises(UserError, match='another process is training'):
        train(tiny, tmp_path / 'run', progress=False, devices=one_device)


def test_rows_must_divide_over_devices(tiny, tmp_path):
    with pytest.raises(UserError, match='multiple of the 4 devices'):
        train(change(tiny, 'training', batch_size=6), tmp_path / 'run', progress=False, devices=jax.devices()[:4])


def test_warm_start_takes_the_weights_only(finished, tiny, one_device, tmp_path):
    path, _ = finished
    config = dataclasses.replace(change(tiny, 'training', steps=1), init_from=InitFromConfig(workdir=str(path)), seed=7)
    train(config, tmp_path / 'run', progress=False, devices=one_device)
    _, parents = load_params(Workdir(path))
    _, start = load_params(Workdir(tmp_path / 'run'), step=0)
    assert params_sha256(start) == params_sha256(parents)


def test_a_fork_with_its_optimizer_goes_on_like_its_parent(finished, tiny, one_device, tmp_path):
    path, summary = finished
    config = dataclasses.replace(
        tiny,
        init_from=InitFromConfig(workdir=str(path), step=8, optimizer_state=True, continue_step=True),
    )
    forked = train(config, tmp_path / 'run', progress=False, devices=one_device)
    assert forked['params_sha256'] == summary['params_sha256'] and forked['tokens'] == summary['tokens']
    assert curve(tmp_path / 'run') == [row for row in curve(path) if row[0] > 8]


def test_another_shape_cannot_be_started_from(finished, tiny, one_device, tmp_path):
    path, _ = finished
    config = dataclasses.replace(
        change(tiny, 'model', width=16, num_heads=2), init_from=InitFromConfig(workdir=str(path))
    )
    with pytest.raises(UserError, match='init_from: parameter'):
        train(config, tmp_path / 'run', progress=False, devices=one_device)
    assert not (tmp_path / 'run' / 'config.json').exists(), 'a refused start left a run behind'


def test_compiles_once(tiny, one_device, tmp_path, monkeypatch):
    """No step after the first traces the train step again."""
    traces = []
    make = parallel_step.make_train_step

    def counting(*args):
        step = make(*args)
        return lambda *inputs: traces.append(1) or step(*inputs)

    parallel_step._program.cache_clear()  # of runs like this one, before
    monkeypatch.setattr(parallel_step, 'make_train_step', counting)
    train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert len(traces) == 1


def test_a_torn_last_line_is_cut_off(finished, tiny, one_device, tmp_path):
    path, _ = finished
    shutil.copytree(path, tmp_path / 'run')
    file = tmp_path / 'run' / 'metrics.jsonl'
    file.write_text(file.read_text() + '{"kind": "train", "step": 1')
    train(change(tiny, 'training', steps=13), tmp_path / 'run', progress=False, devices=one_device)
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_evaluation_of_the_average_stands_beside_the_raw_weights(finished):
    path, summary = finished
    for row in Workdir(path).rows('evaluation'):
        assert row['ema_loss'] != row['loss'] and np.isfinite(row['ema_bits_per_byte'])
    assert summary['held_out']['ema_loss'] > 0


def test_not_finite_numbers_are_null_in_the_file(tmp_path):
    workdir = Workdir(tmp_path)
    writer = MetricsWriter(workdir, 1, tensorboard=False)
    writer.write('train', 1, loss=float('nan'), norms=[1.0, float('inf')])
    writer.close()
    assert workdir.rows() == [{'kind': 'train', 'step': 1, 'attempt': 1, 'loss': None, 'norms': [1.0, None]}]
