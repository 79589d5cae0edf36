"""Sweeps through the command and through real processes: done, killed, shared, stopped."""

import contextlib
import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from llm.config_json import to_json
from llm.sweep import registry, space
from llm.sweep.launchers import InProcess, Job, LocalProcesses
from llm.sweep.options import RayOptions, SlurmOptions
from llm.sweep.scheduler import run_all

ROOT = pathlib.Path(__file__).parents[2]
SAME = ('name', 'status', 'step', 'tokens', 'train_loss', 'held_out.loss', 'params_sha256')  # not times


@pytest.fixture
def question(small, tmp_path) -> pathlib.Path:
    """A config file with a space: four learning rates x three seeds."""
    file = tmp_path / 'question.py'
    file.write_text(
        'from llm.config_json import from_json\nfrom llm.sweep import space\n'
        f'def get_config(): return from_json({to_json(small)!r})\n'
        "def get_space(): return space.axis('optimizer.learning_rate', 1e-2, 3e-3, 1e-3, 3e-4)\n"
    )
    return file


def start(question, out, *arguments):
    command = [sys.executable, '-m', 'llm', 'sweep', '--config', str(question), '--seeds', '3', '--out', str(out)]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    return subprocess.Popen([*command, *arguments], cwd=ROOT, start_new_session=True, **pipes)


def table(out):
    with open(out / 'table.csv') as file:
        return [{name: row[name] for name in SAME} for row in csv.DictReader(file)]


def processes(words):
    """Those whose command line has these words."""
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        with contextlib.suppress(OSError):
            if words in path.read_bytes().replace(b'\0', b' ').decode(errors='replace'):
                found.append(int(path.parent.name))
    return found


def rows_logged(out):
    return sum(len(path.read_bytes().splitlines()) for path in out.glob('runs/*/metrics.jsonl'))


@pytest.mark.slow
@pytest.mark.parametrize('population', ['off', 'on'])
def test_twelve_runs_killed_anywhere_end_with_the_same_table(population, question, tmp_path, one_core):
    how = ('--population', population)
    alone = start(question, tmp_path / 'alone', *how)
    said, errors = alone.communicate(timeout=300)
    assert alone.returncode == 0, errors
    assert said.count(' done ') == 12
    page = (tmp_path / 'alone/sweep.html').read_text()
    assert 'held-out loss by optimizer.learning_rate' in page and page.count('status done') == 12
    out = tmp_path / 'killed'
    for rows in (30, 100):  # early, and near the end
        process = start(question, out, *how)
        while rows_logged(out) < rows and process.poll() is None:
            time.sleep(0.01)
        assert process.poll() is None, 'the kill came too late to mean anything'
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = start(question, out, *how)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert table(out) == table(tmp_path / 'alone') and len(table(out)) == 12
    attempts = [registry.Workdir(path).last_attempt() for path in out.glob('runs/*')]
    assert max(attempts) > 1
    if population == 'off':
        assert attempts.count(1) >= 8, 'done runs are not run again'


@pytest.mark.slow
def test_two_launchers_and_killed_workers_do_each_run_once(question, tmp_path, one_core):
    """Both use processes; a worker of the first is killed, which is one failure, retried."""
    out = tmp_path / 'shared'
    both = [start(question, out, '--launcher', 'local', '--jobs', '1', '--population', 'off') for _ in range(2)]
    while not (logs := list(out.glob('runs/*/metrics.jsonl'))) or not logs[0].stat().st_size:
        time.sleep(0.02)
    os.kill(processes(f'llm.sweep.worker {out}')[0], signal.SIGKILL)
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    runs = registry.open_sweep(out)
    rows = registry.rows(runs)
    assert [row['status'] for row in rows] == ['done'] * 12
    assert sum(row['failures'] for row in rows) == 1
    assert sorted(run.workdir.last_attempt() for run in runs)[-2:] in ([1, 1], [1, 2])
    for run in runs:
        logged = map(json.loads, run.workdir.metrics_file.read_text().splitlines())
        steps = [row['step'] for row in logged if row['kind'] == 'train']
        assert len(steps) - len(set(steps)) <= 2, 'only what was lost since the last checkpoint was done again'


@pytest.mark.slow
def test_ctrl_c_saves_what_is_running(question, tmp_path, one_core):
    out = tmp_path / 'stopped'
    process = start(
        question, out, '--launcher', 'local', '--jobs', '2', '--population', 'off', '--training.steps', '2000'
    )
    while rows_logged(out) < 20:
        time.sleep(0.02)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and errors.strip().splitlines()[-1].startswith('error: stopped by signal 2'), (
        errors
    )
    assert 'interrupted' in said and 'planned' in said
    with open(out / 'table.csv') as file:
        assert len(list(csv.DictReader(file))) == 12
    standing = [run.workdir.summary().get('status') for run in registry.open_sweep(out)]
    assert standing.count('interrupted') >= 1 and 'running' not in standing


def configs(small, count):
    return space.configs(small, space.seeds(count))


def test_processes_end_with_their_launcher(small, tmp_path, one_core):
    (run,) = registry.create(
        tmp_path, {'long': space.configs(small, space.point('x', {'training.steps': 100_000}))['x']}
    )
    running = LocalProcesses(1).start(Job((run.workdir,)))
    while not registry.last_row(run.workdir):
        time.sleep(0.02)
        assert running.outcome() is None
    running._process.stdin.close()  # as the system does when the launcher is killed
    running._process.wait(timeout=60)
    assert run.workdir.summary()['status'] == 'interrupted'


@pytest.mark.slow
def test_slurm_through_submitits_local_executor(small, tmp_path, one_core):
    from llm.sweep.slurm import Slurm

    runs = registry.create(tmp_path, configs(small, 2))
    launcher = Slurm(tmp_path, 2, SlurmOptions(cluster='local', cpus=1, memory=2, minutes=5))
    assert run_all(runs, [[run] for run in runs], launcher, progress=False) == {}
    assert [row['status'] for row in registry.rows(runs)] == ['done', 'done']


def test_a_slurm_job_that_is_taken_away_saves_and_asks_to_be_queued_again(small, tmp_path, one_core):
    """submitit calls `checkpoint` from a signal handler, while the main thread waits for the worker."""
    from llm.sweep.slurm import _Work

    long = space.configs(small, space.point('long', {'training.steps': 100_000}))['long']
    (run,) = registry.create(tmp_path, {'long': long})
    work, again = _Work([str(run.workdir.path)]), []
    previous = signal.signal(signal.SIGUSR2, lambda *_: again.append(work.checkpoint()))
    try:

        def take_away():
            while not registry.last_row(run.workdir):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGUSR2)

        threading.Thread(target=take_away, daemon=True).start()
        assert work().code == 143
    finally:
        signal.signal(signal.SIGUSR2, previous)
    assert run.workdir.summary()['status'] == 'interrupted'
    assert again[0].function.paths == [str(run.workdir.path)]


@pytest.mark.slow
def test_a_run_begun_with_another_number_of_threads_goes_on_with_that(small, tmp_path, one_core, monkeypatch):
    (run,) = registry.create(tmp_path, configs(small, 1))
    LocalProcesses(1).start(Job((run.workdir,))).finish()
    stored = run.workdir.runtime()
    run.workdir.write_summary(run.workdir.summary() | {'status': 'interrupted'})
    monkeypatch.setenv('NPROC', str(stored['host_threads'] + 1))
    assert run_all([run], [[run]], InProcess(), progress=False) == {}
    assert registry.status(run.workdir) == 'done' and run.workdir.runtime() == stored


def test_local_processes_share_cores_and_have_a_gpu_each():
    assert LocalProcesses(4).slots == 4
    assert LocalProcesses(4, ['0', '2']).slots == 2


def test_a_slurm_job_that_fails_says_why(small, tmp_path, one_core):
    from llm.sweep.slurm import Slurm

    bad = {'bad': space.configs(small, space.point('bad', {'data.corpora': ['text:/nowhere/*']}))['bad']}
    runs = registry.create(tmp_path, bad)
    given_up = run_all(runs, [runs], Slurm(tmp_path, 1, SlurmOptions(cluster='local')), progress=False)
    assert given_up[runs[0]].code == 2 and '/nowhere' in given_up[runs[0]].message


@pytest.fixture
def two_nodes(one_core):
    """A Ray cluster of a head that takes no work and two nodes, on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0, 'include_dashboard': False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_run_goes_on_at_another_ray_node_when_its_own_dies(small, tmp_path, two_nodes):
    from llm.sweep.ray_cluster import Ray

    cluster, nodes = two_nodes
    long = space.configs(small, space.point('long', {'training.steps': 300, 'schedule.horizon': 300}))
    runs = registry.create(tmp_path, long)
    launcher = Ray(1, RayOptions(address=cluster.address))
    lost = []

    class Killing:
        """Takes the first node away once the run has got somewhere."""

        slots, close = launcher.slots, launcher.close

        def start(self, job):
            task = launcher.start(job)
            while not lost and registry.last_row(runs[0].workdir).get('step', 0) < 20:
                time.sleep(0.05)
            if not lost:
                (worker,) = processes('ray::_work')
                parent = int(pathlib.Path(f'/proc/{worker}/stat').read_text().rsplit(')', 1)[1].split()[1])
                lost.extend(node for node in nodes if node.all_processes['raylet'][0].process.pid == parent)
                cluster.remove_node(lost[0], allow_graceful=False)
            return task

    assert run_all(runs, [runs], Killing(), retries=1, progress=False) == {}
    (row,) = registry.rows(runs)
    assert len(lost) == 1 and (row['status'], row['step'], row['failures']) == ('done', 300, 1)
    assert 'Ray lost the job' in registry.failures(runs)[runs[0].key][0]['message']
    attempts = {row['attempt']: row['step'] for row in runs[0].workdir.rows('event') if row['event'] == 'start'}
    assert attempts[2] >= 10, 'it went on from its checkpoint'
