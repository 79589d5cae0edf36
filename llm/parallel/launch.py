"""Starting the processes of one run, and watching over them.

A process that loses another one dies inside the runtime with a long stack. So the work is done in child processes, and
the one that the user started stays outside: it passes on what process 0 says, hands on signals, ends the others when
one dies, and says in one line what happened.
"""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Literal

from llm.errors import Interrupted, MachineError, UserError

KEPT = 1 << 18  # bytes of what a child says
_GRACE = 5  # seconds that the others get to end once one has failed
_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)  # exit codes of a run that was asked to stop, and saved
_NOTE = re.compile(rb'^([IWE]\d{4} \d\d:|WARNING: All log)')  # of the C++ runtime
_LAST_WORDS = re.compile(rb'^(F\d{4} \d\d:|\*\*\* |Fatal Python error)')  # and what follows


@dataclasses.dataclass(frozen=True)
class Distributed:
    """One run on several processes. All must see the same workdir; every device of every process takes part."""

    processes: int | None = None  # how many in all; without a coordinator, all are started on this machine
    coordinator: str | None = None  # HOST:PORT on the host of process 0; then start the command on every host
    process_id: int | None = None  # which process this host starts, from 0
    cluster: Literal['auto', 'slurm', 'ompi', 'k8s'] | None = None  # let the environment tell the three above
    timeout: int = 60  # seconds without a sign of life after which a process counts as dead

    def __post_init__(self):
        if self.processes is not None and self.processes < 1:
            raise ValueError(f'distributed.processes is {self.processes}; it must be at least 1')
        if self.timeout < 1:
            raise ValueError(f'distributed.timeout is {self.timeout}; it must be at least 1 second')
        if self.coordinator is not None:
            if not re.fullmatch(r'.+:\d+', self.coordinator):
                raise ValueError(f'distributed.coordinator is {self.coordinator!r}; it must be HOST:PORT')
            if self.processes is None or self.process_id is None:
                raise ValueError('distributed.coordinator needs distributed.processes and distributed.process-id')
            if not 0 <= self.process_id < self.processes:
                raise ValueError(
                    f'distributed.process_id is {self.process_id}; it must be in [0, {self.processes}) '
                    '(distributed.processes)'
                )
        elif self.process_id is not None:
            raise ValueError('distributed.process_id needs distributed.coordinator')

    @property
    def asked(self) -> bool:
        """Whether there are processes to start."""
        return self.cluster is not None or self.coordinator is not None or (self.processes or 1) > 1

    def started_here(self) -> list['Distributed']:
        """The processes that this machine starts, each with its own number."""
        if self.cluster is not None or self.coordinator is not None:
            return [self]
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            address = f'127.0.0.1:{probe.getsockname()[1]}'
        return [
            dataclasses.replace(self, coordinator=address, process_id=number) for number in range(self.processes or 1)
        ]


def join(place: Distributed, alone_on_host: bool) -> None:
    """Meets the other processes; called once in each, before any device is used.

    Raises:
        MachineError: if they do not all come in time.
    """
    import jax

    named = {}
    if place.cluster is None:
        named = {
            'coordinator_address': place.coordinator,
            'num_processes': place.processes,
            'process_id': place.process_id,
            'cluster_detection_method': 'deactivate',
        }
        if not alone_on_host:
            named['local_device_ids'] = [place.process_id]  # of GPUs; CPU devices are each process's own
    elif place.cluster != 'auto':
        named = {'cluster_detection_method': place.cluster}
    jax.config.update('jax_enable_preemption_service', False)  # it would take SIGTERM for itself; the loop handles that
    try:
        jax.distributed.initialize(
            **named, initialization_timeout=place.timeout, heartbeat_timeout_seconds=place.timeout
        )
    except ValueError as error:
        raise UserError(f'distributed.cluster {place.cluster} does not say where the others are: {error}') from error
    except RuntimeError as error:
        raise MachineError(
            f'not all {place.processes or ""} processes met at {place.coordinator or "the coordinator"} '
            f'within {place.timeout} s; start them all, and look whether the port can be reached'
        ) from error


class _Child:
    """One process, with the last of what it said."""

    def __init__(self, command: list[str], name: str, aloud: bool):
        self.name, self._aloud = name, aloud
        self._tail = b''
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        """Passes on what the child says, line by line (a progress bar ends them with a carriage return)."""
        rest = b''
        while chunk := os.read(self.process.stderr.fileno(), 1 << 16):
            self._tail = (self._tail + chunk)[-KEPT:]
            *lines, rest = re.split(rb'(?<=[\n\r])', rest + chunk)
            for line in lines:
                self._aloud = self._aloud and not _LAST_WORDS.match(line)
                if self._aloud and not _NOTE.match(line) and not line.startswith(b'error: '):
                    sys.stderr.buffer.write(line)
            sys.stderr.flush()

    def code(self) -> int | None:
        return self.process.poll()

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def said(self) -> bytes:
        """The last of its words."""
        self._reader.join(timeout=5)
        return self._tail

    def complaint(self) -> str:
        """The line in which it said what is wrong, or ''."""
        lines = [line for line in self.said().decode(errors='replace').splitlines() if line.startswith('error: ')]
        return lines[-1].removeprefix('error: ') if lines else ''


def watch(commands: dict[str, list[str]], timeout: int, log: str) -> None:
    """Runs one child per command until all are done.

    Args:
        commands: of the processes to start here, by their number; the first speaks aloud.
        timeout: seconds without a sign of life after which the processes give each other up.
        log: where to leave what a dead process said; `{}` is its number.

    Raises:
        UserError, MachineError, Interrupted: as the first child to fail, or because of how it died.
    """
    children = [_Child(command, name, aloud=i == 0) for i, (name, command) in enumerate(commands.items())]
    previous = {}

    def hand_on(number, _):
        for child in children:
            child.send(number)

    with contextlib.suppress(ValueError):  # not the main thread: whoever owns that one decides
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, hand_on)
    try:
        first = _first_failure(children)
        if first is not None:
            saving = first.code() in _STOPPED
            _end(children, timeout if saving else min(timeout, _GRACE))
            _explain(first if saving else _to_blame(first, children), len(children), timeout, log)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _end(children, 0)


def _first_failure(children: list[_Child]) -> _Child | None:
    """Waits for the first child to fail; of several, one that was killed rather than one that noticed."""
    while any(child.code() is None for child in children):
        if failed := [child for child in children if child.code()]:
            return min(failed, key=lambda child: child.code())
        time.sleep(0.05)
    return min((child for child in children if child.code()), key=lambda child: child.code(), default=None)


def _to_blame(first: _Child, children: list[_Child]) -> _Child:
    """One that says what the user did wrong, even where one that waited for it was sooner to end; else the first."""
    return next((child for child in children if child.code() == 2), first)


def _end(children: list[_Child], seconds: int) -> None:
    """Waits until all have ended, and makes them."""
    deadline = time.monotonic() + seconds
    while any(child.code() is None for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    for child in children:
        if child.code() is None:
            child.send(signal.SIGKILL)
            child.process.wait()


def _explain(child: _Child, count: int, timeout: int, log: str) -> None:
    code = child.code()
    if code in _STOPPED:
        raise Interrupted(code - 128)
    complaint = child.complaint()
    if code == 2:
        raise UserError(complaint or 'a process was given wrong options')
    if complaint:
        raise MachineError(complaint)
    file = log.format(child.name)
    with contextlib.suppress(OSError), open(file, 'wb') as out:
        out.write(child.said())
    how = f'was killed by signal {-code}' if code < 0 else f'ended with exit code {code}'
    if count == 1 and code in (-signal.SIGABRT, 128 + signal.SIGABRT):
        raise MachineError(
            f'another process of this run is gone (or {timeout} s without a sign of life), so this one ended; start '
            f'all of them again to go on from the last checkpoint. What it said is in {file}'
        )
    of = f' of {count}' if count > 1 else ''
    raise MachineError(
        f'process {child.name}{of} {how} and the others were ended; the same command goes on from the last checkpoint. '
        f'What it said is in {file}'
    )
