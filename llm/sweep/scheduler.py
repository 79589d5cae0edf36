"""Gets a sweep done: starts jobs as slots fall free, tries failed ones again, and stops cleanly when asked to."""

import collections
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from absl import logging

from llm.errors import Interrupted
from llm.sweep import registry
from llm.sweep.launchers import BUSY, POLL, STOPPED, Job, Launcher, Outcome, Running
from llm.sweep.live import LiveTable
from llm.sweep.registry import Run
from llm.training.signals import StopSignal

ELSEWHERE = 2.0  # seconds until a run that another process has is asked for again
GRACE = 120.0  # seconds that running jobs get to save once the sweep is stopped


@dataclass
class _State:
    queue: collections.deque
    running: dict[Job, Running] = field(default_factory=dict)
    later: dict[Job, float] = field(default_factory=dict)  # when to ask again for what another process has
    failures: collections.Counter = field(default_factory=collections.Counter)
    given_up: dict[Run, Outcome] = field(default_factory=dict)


def run_all(
    runs: Sequence[Run],
    jobs: Sequence[Sequence[Run]],
    launcher: Launcher,
    retries: int = 1,
    progress: bool = True,
) -> dict[Run, Outcome]:
    """Trains every run that is not done.

    Args:
        runs: of the sweep, for the table.
        jobs: the same runs, those together that one process trains.
        launcher: where.
        retries: how often a run that failed is tried again; one that was given a wrong config is not.
        progress: whether to show the table while it goes.

    Returns:
        The runs that were given up, and how each ended last.

    Raises:
        Interrupted: if a signal came; what was running is saved.
    """
    of = {run.workdir.path: run for run in runs}
    state = _State(collections.deque(Job(tuple(run.workdir for run in job)) for job in jobs))
    with StopSignal() as stop, LiveTable(runs, progress) as table:
        try:
            while state.queue or state.running or state.later:
                if stop.signal is not None:
                    raise Interrupted(stop.signal)
                _start(state, launcher)
                for job, outcome in _ended(state):
                    _enter(state, job, outcome, [of[workdir.path] for workdir in job.workdirs], retries)
                table.refresh()
                if len(state.running) >= launcher.slots or not state.queue:
                    time.sleep(POLL if state.running or state.later else 0)
        except (Interrupted, KeyboardInterrupt) as error:
            _stop(state.running)
            table.refresh()
            raise Interrupted(getattr(error, 'exit_code', 130) - 128) from None
        except BaseException:
            _stop(state.running)
            raise
        finally:
            launcher.close()
        table.refresh()
    return state.given_up


def _start(state: _State, launcher: Launcher) -> None:
    for job, when in list(state.later.items()):
        if time.monotonic() >= when:
            del state.later[job]
            state.queue.append(job)
    while state.queue and len(state.running) < launcher.slots:
        job = state.queue.popleft()
        todo = Job(tuple(workdir for workdir in job.workdirs if not workdir.finished(workdir.config())))
        if any(registry.is_claimed(workdir) for workdir in todo.workdirs):
            state.later[todo] = time.monotonic() + ELSEWHERE
        elif todo.workdirs:
            state.running[todo] = launcher.start(todo)


def _ended(state: _State) -> list[tuple[Job, Outcome]]:
    ended = [(job, outcome) for job, running in state.running.items() if (outcome := running.outcome()) is not None]
    for job, _ in ended:
        del state.running[job]
    return ended


def _enter(state: _State, job: Job, outcome: Outcome, runs: list[Run], retries: int) -> None:
    if outcome.code == 0:
        return
    if outcome.code == BUSY:
        state.later[job] = time.monotonic() + ELSEWHERE
        return
    if outcome.code in STOPPED:  # by somebody else, such as a cluster that wants its machine back
        logging.warning('%s was stopped and goes on', ', '.join(run.name for run in runs))
        state.queue.append(job)
        return
    runs = [run for run in runs if not run.workdir.finished(run.workdir.config())]  # some ended well
    if not runs:
        return
    if len(runs) > 1:
        logging.warning('%d runs failed together (%s); now one by one', len(runs), outcome.message)
        state.queue.extend(Job((run.workdir,)) for run in runs)
        return
    registry.note_failure(runs[0], outcome.code, outcome.message, time.time(), outcome.log)
    state.failures[runs[0]] += 1
    if outcome.code == 2 or state.failures[runs[0]] > retries:
        said = ''.join(f'\n    {line}' for line in outcome.log)
        logging.error('%s failed for good: %s%s', runs[0].name, outcome.message, said)
        state.given_up[runs[0]] = outcome
    else:
        logging.warning('%s failed (%s); trying again', runs[0].name, outcome.message)
        state.queue.append(Job((runs[0].workdir,)))


def _stop(running: dict[Job, Running]) -> None:
    """Asks all to save, and waits until they have."""
    for one in running.values():
        one.stop()
    deadline = time.monotonic() + GRACE
    while any(one.outcome() is None for one in running.values()) and time.monotonic() < deadline:
        time.sleep(POLL)
