"""What the scheduler does with what becomes of jobs, by a launcher that does nothing but say how they ended."""

import collections

import pytest

from llm.errors import Interrupted
from llm.sweep import registry, scheduler, space
from llm.sweep.launchers import BUSY, Ended, Outcome


class Scripted:
    """Ends each run's jobs as its script says, in order; 0 does the run."""

    def __init__(self, slots=1, **scripts):
        self.slots, self._scripts = slots, {name: list(codes) for name, codes in scripts.items()}
        self.started, self.closed = [], False

    def start(self, job):
        names = [workdir.config().name for workdir in job.workdirs]
        self.started.append(names)
        script = self._scripts.get(names[0], [])
        code = script.pop(0) if script else 0
        if isinstance(code, BaseException):
            raise code
        if code == 0:
            for workdir in job.workdirs:
                workdir.write_summary({'status': 'done', 'step': 8})
        return Ended(Outcome(code, f'code {code}', ('last line',)))

    def close(self):
        self.closed = True


@pytest.fixture
def runs(small, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, 'ELSEWHERE', 0.01)
    monkeypatch.setattr(scheduler, 'POLL', 0.01)
    points = space.chain(space.point('a', seed=1), space.point('b', seed=2), space.point('c', seed=3))
    return registry.create(tmp_path, space.configs(small, points))


def schedule(runs, launcher, retries=1, jobs=None):
    given_up = scheduler.run_all(runs, jobs or [[run] for run in runs], launcher, retries, progress=False)
    assert launcher.closed
    return {run.name: outcome.code for run, outcome in given_up.items()}


def times(launcher):
    return collections.Counter(name for job in launcher.started for name in job)


def test_every_run_is_done_once_and_not_again(runs):
    assert schedule(runs, launcher := Scripted(slots=2)) == {}
    assert launcher.started == [['a'], ['b'], ['c']]
    assert schedule(runs, again := Scripted()) == {} and again.started == []


def test_a_failed_run_is_retried_so_many_times_then_reported_with_its_last_lines(runs):
    assert schedule(runs, launcher := Scripted(b=[1, -9, 1]), retries=2) == {'b': 1}
    assert times(launcher) == {'a': 1, 'b': 3, 'c': 1}
    noted = registry.failures(runs)[runs[1].key]
    assert [f['code'] for f in noted] == [1, -9, 1] and noted[0]['log'] == ['last line']
    assert schedule(runs, launcher := Scripted(b=[1]), retries=1) == {}, 'the next launch tries again'
    assert times(launcher) == {'b': 2}


def test_what_the_user_got_wrong_is_not_retried(runs):
    assert schedule(runs, launcher := Scripted(a=[2]), retries=5) == {'a': 2}
    assert times(launcher)['a'] == 1


def test_being_stopped_from_outside_or_busy_elsewhere_is_no_failure(runs):
    assert schedule(runs, launcher := Scripted(a=[143, 143, 143, 0], b=[BUSY, BUSY, BUSY, 0]), retries=0) == {}
    assert times(launcher) == {'a': 4, 'b': 4, 'c': 1}
    assert registry.failures(runs) == {}


def test_a_run_that_another_process_holds_is_waited_for(runs):
    class Other(Scripted):
        def start(self, job):
            if job.workdirs[0].config().name == 'b':
                claim.__exit__(None, None, None)  # meanwhile, the other one ends
            return super().start(job)

    claim = registry.claimed([runs[0].workdir])
    claim.__enter__()
    assert schedule(runs, launcher := Other()) == {}
    assert launcher.started == [['b'], ['c'], ['a']]


def test_runs_that_fail_together_go_on_one_by_one(runs):
    a, b, c = runs
    assert schedule(runs, launcher := Scripted(a=[1, 0]), retries=0, jobs=[[a, b], [c]]) == {}
    assert launcher.started == [['a', 'b'], ['c'], ['a'], ['b']]


def test_of_runs_that_belong_together_only_those_are_started_that_are_not_done(runs):
    runs[1].workdir.write_summary({'status': 'done', 'step': 8})
    assert schedule(runs, launcher := Scripted(), jobs=[runs]) == {}
    assert launcher.started == [['a', 'c']]


def test_a_signal_in_the_middle_ends_the_sweep(runs):
    launcher = Scripted(b=[Interrupted(15)])
    with pytest.raises(Interrupted, match='signal 15'):
        schedule(runs, launcher)
    assert launcher.closed and launcher.started == [['a'], ['b']]
