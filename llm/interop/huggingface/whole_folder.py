"""A folder that is there whole or not at all, whatever stops the command that makes it."""

import contextlib
import errno
import os
import pathlib
import re
import shutil
import signal
from collections.abc import Iterator

from llm.errors import Interrupted, UserError


def refuse_existing(target: pathlib.Path) -> None:
    """Raises UserError if there is something of that name, be it a link to nowhere."""
    if os.path.lexists(target):
        raise UserError(f'{target} exists; choose another folder to make')


@contextlib.contextmanager
def whole_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder `NAME.<process id>.tmp` to fill, which gets its name at the end.

    Whatever is raised inside leaves nothing, SIGTERM included. What a killed process left is removed first.

    Args:
        target: the folder to make.

    Raises:
        UserError: if it exists, or cannot be made there.
        Interrupted: if SIGTERM came.
    """
    refuse_existing(target)
    _remove_leftovers(target)
    temporary = target.with_name(f'{target.name}.{os.getpid()}.tmp')
    missing = [parent for parent in temporary.parents if not parent.exists()]  # the innermost first
    with _sigterm_raises():
        try:
            try:
                temporary.mkdir(parents=True)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                raise UserError(f'{target} cannot be made ({error.strerror}); choose another place') from error
            yield temporary
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in missing:
                with contextlib.suppress(OSError):  # it holds something
                    parent.rmdir()


def _remove_leftovers(target: pathlib.Path) -> None:
    pattern = re.compile(rf'{re.escape(target.name)}\.(\d+)\.tmp')
    for path in target.parent.glob('*.tmp'):
        found = pattern.fullmatch(path.name)
        if found and not _alive(int(found[1])):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    """Whether another process has that number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return process != os.getpid()


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM is raised inside as an exception, so that what it interrupts tidies up; a second one acts as usual."""

    stopped = Interrupted(signal.SIGTERM, 'nothing is left behind')
    came = False

    def stop(number, _):
        nonlocal came
        came = True
        signal.signal(number, previous)
        raise stopped

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: whoever owns that one decides
        yield
        return
    try:
        yield
    except Exception as error:
        if came and error is not stopped:  # somebody took it for a failure of his own
            raise stopped from error
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
