"""What is computed once and kept between runs: corpora, tokenizers, token stores, what teachers predict, programs.

    <root>/<kind>/<key>/          one entry, complete or absent
    <root>/<kind>/<key>.tmp/      the same while it is being built, or left over from a build that was killed
    <root>/<kind>/<key>.lock      held while an entry is built or removed

The root is $GLASSBOX_CACHE, or `glassbox` in the user's cache folder. Deleting any of it is safe: it is built again.
"""

import contextlib
import errno
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import filelock

from llm.errors import MachineError, UserError
from llm.workdir import write_atomically

KINDS = ('corpora', 'tokenizers', 'token_stores', 'teachers', 'compiled')
_DESCRIPTION = 'description.txt'


@dataclass(frozen=True)
class Entry:
    """One cached thing."""

    kind: str  # one of KINDS
    key: str  # a hash of everything it was made from
    path: pathlib.Path
    bytes: int  # size on disk
    description: str  # for people
    used: float  # when it was last opened, in seconds since 1970


def root() -> pathlib.Path:
    """The cache folder, whether it exists or not."""
    if chosen := os.environ.get('GLASSBOX_CACHE'):
        return pathlib.Path(chosen).expanduser().absolute()
    return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'glassbox'


def entry(kind: str, key: str, build: Callable[[pathlib.Path], None], description: str) -> pathlib.Path:
    """The folder of an entry, built first if it is absent. Of several processes that ask at once, one builds.

    Args:
        kind: one of KINDS.
        key: a hash of everything the content depends on; a file name.
        build: fills the empty folder it is given. If it raises, nothing is kept.
        description: one line for `python -m llm cache`.

    Raises:
        UserError: if the cache folder cannot be written.
        MachineError: if the disk is full.
    """
    path = root() / kind / key
    if not path.is_dir():
        with _io_errors(), _lock(path):
            if not path.is_dir():
                temporary = _temporary(path)
                shutil.rmtree(temporary, ignore_errors=True)  # we hold the lock: it is a dead process's
                temporary.mkdir()
                try:
                    build(temporary)
                    write_atomically(temporary / _DESCRIPTION, description + '\n')
                    os.replace(temporary, path)
                except BaseException:
                    shutil.rmtree(temporary, ignore_errors=True)
                    raise
    with contextlib.suppress(OSError):  # a cache shared read-only works, it only forgets when it was used
        os.utime(path)
    return path


def folder(kind: str, key: str) -> pathlib.Path:
    """A folder that its user fills bit by bit and keeps whole by itself, as JAX does with its compiled programs."""
    path = root() / kind / key
    with _io_errors():
        path.mkdir(parents=True, exist_ok=True)
        os.utime(path)
    return path


def entries() -> list[Entry]:
    """Everything in the cache, largest first; what killed builds left over included."""
    found = []
    for kind in KINDS:
        base = root() / kind
        for path in base.iterdir() if base.is_dir() else ():
            if path.is_dir():
                size = sum(_size(file) for file in path.rglob('*'))
                description = 'an unfinished build' if path.suffix == '.tmp' else _read(path / _DESCRIPTION)
                found.append(Entry(kind, path.name, path, size, description, path.stat().st_mtime))
    return sorted(found, key=lambda e: -e.bytes)


def remove(kind: str, key: str) -> bool:
    """Removes one entry. Returns False, and removes nothing, while another process is building it."""
    path = root() / kind / key.removesuffix('.tmp')
    with _io_errors():
        try:
            with _lock(path, timeout=0.0):
                shutil.rmtree(_temporary(path), ignore_errors=True)
                if path.is_dir() and not key.endswith('.tmp'):
                    os.replace(path, _temporary(path))  # vanishes at once, so nobody opens half of it
                    shutil.rmtree(_temporary(path))
        except filelock.Timeout:
            return False
    return True


def _lock(path: pathlib.Path, timeout: float = -1.0) -> filelock.FileLock:
    path.parent.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(f'{path}.lock', timeout=timeout)


def _temporary(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f'{path.name}.tmp')


def _size(file: pathlib.Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # removed by another process meanwhile
        return 0


def _read(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding='utf-8').strip()
    except OSError:
        return ''


@contextlib.contextmanager
def _io_errors() -> Iterator[None]:
    """Turns what the file system says into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MachineError(f'no space left for the cache in {root()}; free some or set GLASSBOX_CACHE') from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f'cannot write in the cache folder {root()} ({error}); set GLASSBOX_CACHE') from error
        raise
