"""One run on two processes of two CPU devices each, over loopback, through the command that a user types."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from filelock import FileLock
from xla_flags import xla_flags

from llm import config_json
from llm.errors import UserError
from llm.parallel import launch
from llm.training.loop import train
from llm.workdir import Workdir

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 240  # seconds for anything here, on a busy machine
pytestmark = pytest.mark.skipif(not pathlib.Path('/proc/self/task').exists(), reason='reads children from /proc')


def steps(config, number, **sections):
    training = dataclasses.replace(config.training, steps=number)
    return dataclasses.replace(config, training=training, **sections)


def start(config, folder, *options):
    """The command, on two processes."""
    file = folder / 'config.py'
    file.write_text(
        'from llm.config_json import from_json\n\n\ndef get_config():\n'
        f'    return from_json({config_json.to_json(config)!r})\n'
    )
    environment = os.environ | {'XLA_FLAGS': xla_flags(2)}
    command = [sys.executable, '-m', 'llm', 'train', '--config', str(file), '--workdir', str(folder / 'run')]
    command += ['--distributed.processes', '2', '--no-progress', *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=TIMEOUT)
    return process.returncode, out, err


def wait_for_step(workdir, step):
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if workdir.metrics_file.is_file() and any(row['step'] >= step for row in workdir.rows('train')):
            return
        time.sleep(0.1)
    raise AssertionError(f'no step {step} in {TIMEOUT} s')


def workers(process):
    """The process ids of the children, in the order in which they were started."""
    children = [
        int(pid) for pid in pathlib.Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    ]
    by_number = {}
    for pid in children:
        words = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')
        if b'llm.training.worker' in words:
            by_number[json.loads(pathlib.Path(words[-2].decode()).read_text())['place']['process_id']] = pid
    return by_number


def assert_same_curve(workdir, reference):
    rows, expected = workdir.rows('train'), Workdir(reference).rows('train')
    assert [(row['step'], row['tokens']) for row in rows] == [(row['step'], row['tokens']) for row in expected]
    np.testing.assert_allclose([row['loss'] for row in rows], [row['loss'] for row in expected], rtol=1e-5)


@pytest.mark.slow
def test_stopped_on_two_processes_and_finished_on_one(finished, tiny, one_device, tmp_path):
    path, summary = finished
    code, out, err = finish(start(steps(tiny, 6), tmp_path, '--parallel.fsdp', '2'))
    assert code == 0, err
    assert 'done: step 6' in out and (tmp_path / 'run' / 'report.html').is_file()
    workdir = Workdir(tmp_path / 'run')
    assert workdir.summary()['environment']['devices'] == 4
    assert len({row['attempt'] for row in workdir.rows('train')}) == 1  # one process writes
    again = train(tiny, tmp_path / 'run', progress=False, devices=one_device)
    assert_same_curve(workdir, path)
    np.testing.assert_allclose(again['held_out']['loss'], summary['held_out']['loss'], rtol=1e-5)


@pytest.mark.slow
def test_a_signal_reaches_both_and_both_save(finished, tiny, one_device, tmp_path):
    path, _ = finished
    process = start(steps(tiny, 10**6), tmp_path, '--parallel.wrapper', 'pmap')
    workdir = Workdir(tmp_path / 'run')
    wait_for_step(workdir, 2)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 128 + signal.SIGTERM, err
    assert err.strip().splitlines()[-1].startswith('error: stopped by signal 15'), err
    summary = workdir.summary()
    assert summary['status'] == 'interrupted'
    last = workdir.rows('train')[-1]['step']
    assert summary['step'] == last and (workdir.checkpoints / str(last) / 'manifest.json').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_dead_process_ends_the_run_in_one_line(tiny, tmp_path, victim):
    process = start(steps(tiny, 10**6), tmp_path, '--distributed.timeout', '10')
    workdir = Workdir(tmp_path / 'run')
    wait_for_step(workdir, 5)
    others = workers(process)
    os.kill(others[victim], signal.SIGKILL)
    killed = time.monotonic()
    code, _, err = finish(process)
    assert time.monotonic() - killed < 30
    assert code == 1
    lines = [line for line in err.splitlines() if line.strip()]
    assert lines[-1].startswith(f'error: process {victim} of 2 was killed by signal 9'), err
    assert 'goes on from the last checkpoint' in lines[-1]
    assert not any('Check failure' in line or line.startswith('    @') or 'Traceback' in line for line in lines), err
    for pid in others.values():
        assert not pathlib.Path(f'/proc/{pid}').exists()
    shutil.rmtree(tmp_path / 'run')


def test_what_the_user_gets_wrong_is_said_once(tiny, tmp_path):
    config = dataclasses.replace(tiny, training=dataclasses.replace(tiny.training, batch_size=6))
    code, _, err = finish(start(config, tmp_path))
    assert code == 2
    errors = [line for line in err.splitlines() if line.startswith('error')]
    assert len(errors) == 1 and 'multiple of the 4 devices' in errors[0]


@pytest.mark.slow
def test_a_host_that_loses_another_says_so(tiny, tmp_path):
    """As on two machines: the command is started on each, and the one that is left knows only that a peer is silent."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    options = ('--distributed.coordinator', f'127.0.0.1:{port}', '--distributed.timeout', '10')
    hosts = [start(steps(tiny, 10**6), tmp_path, *options, '--distributed.process-id', str(i)) for i in (0, 1)]
    wait_for_step(Workdir(tmp_path / 'run'), 5)
    for pid in workers(hosts[1]).values():
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    code, _, err = finish(hosts[0])
    assert time.monotonic() - killed < 40
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 1 and lines[-1].startswith('error: another process of this run is'), err
    assert not any(mark in err for mark in ('Check failure', 'Traceback', '    @')), err
    assert finish(hosts[1])[0] == 1


def test_one_that_fails_alone_ends_the_run_with_its_own_words(tiny, tmp_path):
    """Only process 0 takes the lock; the other waits for it in a collective."""
    (tmp_path / 'run').mkdir()
    with FileLock(tmp_path / 'run' / '.lock'):
        began = time.monotonic()
        code, _, err = finish(start(tiny, tmp_path))
    assert code == 2 and time.monotonic() - began < 90
    assert err.strip().splitlines()[-1].startswith('error: another process is training in'), err


def test_the_one_that_says_what_is_wrong_is_believed_though_another_ends_first(tmp_path):
    told = "import sys, time; time.sleep(1); print('error: the lock is taken', file=sys.stderr); sys.exit(2)"
    commands = {'0': [sys.executable, '-c', told], '1': [sys.executable, '-c', 'raise SystemExit(1)']}
    with pytest.raises(UserError, match=r'^the lock is taken$'):
        launch.watch(commands, 10, str(tmp_path / '{}'))
