"""What starts the work of a sweep: in this process, or in processes on this machine. One interface for all.

A launcher has a number of `slots` and starts jobs, one or several runs that one process trains; what it returns is
asked for its `outcome`. Launchers know nothing of results: those are read from the workdirs.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llm.environment import processors
from llm.errors import Interrupted, MachineError, UserError, first_line
from llm.sweep.registry import Busy
from llm.workdir import Workdir

BUSY = Busy.exit_code
STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # a run that was asked to stop, and saved
_LINES = 20  # of a log that are kept
POLL = 0.2  # seconds between looks at what is running


@dataclass(frozen=True)
class Job:
    """Runs that one process trains, more than one together as a population."""

    workdirs: tuple[Workdir, ...]

    @property
    def log(self) -> pathlib.Path:
        """Where its process says what it has to say."""
        first = self.workdirs[0].path
        return first.parents[1] / 'logs' / f'{first.name}{f"+{n}" if (n := len(self.workdirs) - 1) else ""}.txt'


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        code: 0 done, 2 the user's mistake, 75 another process has the runs, 143 or 130 stopped and saved; else failed,
            a negative one by a signal.
        message: what was wrong, in one line.
        log: last lines of what it said.
    """

    code: int
    message: str = ''
    log: tuple[str, ...] = ()


class Running(Protocol):
    """A job under way."""

    def outcome(self) -> Outcome | None:
        """How it ended, or None while it goes on."""

    def stop(self) -> None:
        """Asks it to save and stop. Returns at once."""


class Launcher(Protocol):
    """Starts jobs."""

    slots: int  # jobs at once

    def start(self, job: Job) -> Running: ...

    def close(self) -> None:
        """Gives back what the launcher holds."""


class Ended:
    """A job that has ended."""

    def __init__(self, outcome: Outcome):
        self._outcome = outcome

    def outcome(self) -> Outcome:
        return self._outcome

    def stop(self) -> None: ...


class InProcess:
    """Trains in this process, one job after the other; runs that share a program compile it once."""

    slots = 1

    def start(self, job: Job) -> Running:
        from llm.sweep.worker import work

        threads = job.workdirs[0].runtime().get('host_threads')
        if threads and str(threads) != os.environ.get('NPROC', str(processors())):
            return WorkerProcess(job)  # begun with another number of threads, which a process cannot change

        try:
            work(job.workdirs)
        except Interrupted:
            raise  # the signal was for the whole sweep
        except (UserError, MachineError) as error:
            return Ended(Outcome(error.exit_code, str(error)))
        except Exception as error:
            trace = traceback.format_exc().splitlines()[-_LINES:]
            return Ended(Outcome(1, f'{type(error).__name__}: {first_line(error)}', tuple(trace)))
        return Ended(Outcome(0))

    def close(self) -> None: ...


class WorkerProcess:
    """A job in a process of its own, which ends when this one does."""

    def __init__(self, job: Job, environment: dict[str, str] | None = None):
        job.log.parent.mkdir(exist_ok=True)
        self._log = job.log
        with open(job.log, 'ab') as log:
            self._start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'llm.sweep.worker', *(str(workdir.path) for workdir in job.workdirs)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | (environment or {}),
                start_new_session=True,  # Ctrl-C reaches the launcher, which passes it on
            )

    def finish(self) -> Outcome:
        """Waits for its end. If this process is asked to stop meanwhile, the worker is, and still waited for."""
        while (outcome := self.outcome()) is None:
            try:
                time.sleep(POLL)  # not Popen.wait, which a signal handler that asks for the outcome would wait for
            except KeyboardInterrupt:
                self.stop()
        return outcome

    def outcome(self) -> Outcome | None:
        code = self._process.poll()
        if code is None:
            return None
        if self._process.stdin:
            self._process.stdin.close()
        if code == 0:
            return Outcome(0)
        lines = self._said()
        complaints = [line.removeprefix('error: ') for line in lines if line.startswith('error: ')]
        how = f'its process was killed by signal {-code}' if code < 0 else f'its process ended with exit code {code}'
        return Outcome(code, complaints[-1] if complaints else how, tuple(lines[-_LINES:]))

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def _said(self) -> list[str]:
        """The lines of this start, without those of a progress bar."""
        with contextlib.suppress(OSError), open(self._log, 'rb') as log:
            log.seek(max(self._start, log.seek(0, os.SEEK_END) - (1 << 16)))
            return [line for line in log.read().decode(errors='replace').splitlines() if line.strip()]
        return []


class LocalProcesses:
    """Processes on this machine, each with its share of the processor cores and, if there are any, a GPU of its own."""

    def __init__(self, jobs: int, devices: Sequence[str] = ()):
        """
        Args:
            jobs: processes at once; no more than there are GPUs, if there are any.
            devices: GPUs as CUDA_VISIBLE_DEVICES names them; each process has one of its own.
        """
        if jobs < 1:
            raise UserError(f'--jobs is {jobs}; it must be at least 1')
        self._devices = list(devices)
        self.slots = min(jobs, len(devices)) if devices else jobs
        self._free = list(range(self.slots))

    def start(self, job: Job) -> 'WorkerProcess':
        slot = self._free.pop(0)
        environment = {'NPROC': str(max(1, processors() // self.slots))}
        if self._devices:
            environment['CUDA_VISIBLE_DEVICES'] = self._devices[slot]
        return _Slotted(job, environment, slot, self._free)

    def close(self) -> None: ...


class _Slotted(WorkerProcess):
    """A worker that gives its slot back at its end."""

    def __init__(self, job: Job, environment: dict[str, str], slot: int, free: list[int]):
        super().__init__(job, environment)
        self._slot, self._free = slot, free

    def outcome(self) -> Outcome | None:
        outcome = super().outcome()
        if outcome is not None and self._slot is not None:
            self._free.append(self._slot)
            self._slot = None
        return outcome


def gpus() -> list[str]:
    """The GPUs of this machine, as CUDA_VISIBLE_DEVICES names them, found without starting jax."""
    if (chosen := os.environ.get('CUDA_VISIBLE_DEVICES')) is not None:
        return [name for name in chosen.split(',') if name not in ('', '-1')]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(['nvidia-smi', '--list-gpus'], capture_output=True, timeout=20, check=True)
        return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith(b'GPU ')]
    return []
