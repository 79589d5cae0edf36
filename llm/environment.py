"""What a run runs on: versions, hardware, the code's own version. Written down so that a number can be traced."""

import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).parent


@functools.cache
def code_version() -> str:
    """The commit, with a hash of uncommitted changes if there are any; for an installed copy, a hash of its sources."""
    git = lambda *args: subprocess.run(('git', *args), cwd=PACKAGE, capture_output=True, timeout=30)
    try:
        tracked = git('ls-files', '--error-unmatch', '__init__.py')
        if tracked.returncode == 0:
            commit = git('rev-parse', '--short=12', 'HEAD').stdout.decode().strip()
            return commit if not git('status', '--porcelain', '.').stdout else f'{commit}+{sources_hash()}'
    except (OSError, subprocess.TimeoutExpired):
        pass
    return f'sources-{sources_hash()}'


@functools.cache
def sources_hash() -> str:
    """Twelve hex digits of SHA-256 over the package's source files, whatever commit they are of."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob('*.py')):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b'\0' + path.read_bytes())
    return digest.hexdigest()[:12]


def processors() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def environment() -> dict[str, str | int]:
    """Versions and hardware. Imports jax."""
    import flax
    import jax
    import optax
    import orbax.checkpoint

    return {
        'python': platform.python_version(),
        'jax': jax.__version__,
        'flax': flax.__version__,
        'optax': optax.__version__,
        'orbax': orbax.checkpoint.__version__,
        'device': jax.devices()[0].device_kind,
        'devices': jax.device_count(),
        'cpu': cpu_model(),
        'cores': processors(),
        'system': f'{platform.system()} {platform.release()}',
    }


def cpu_model() -> str:
    """What the processor calls itself."""
    try:
        for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def prepare_process(threads: int | None = None) -> None:
    """What has to be settled before jax is imported: the number of host threads, C++ notes off, freed memory kept.

    Args:
        threads: for XLA to compute with; None is one per core. NPROC in the environment goes before.
    """
    os.environ.setdefault('NPROC', str(threads or processors()))
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # unless asked for
    keep_memory()


def keep_memory() -> None:
    """Tells glibc to keep the memory that is freed, for the life of the process; elsewhere nothing happens.

    A compiled step on a CPU asks for its scratch memory anew at every call, hundreds of megabytes that glibc would map
    and give back each time: a page fault per 4 KiB, measured at 12 to 18% of a small model's step. The process holds up
    to half as much memory again. Nothing happens once jax is imported, either: its threads have their arenas by then.
    """
    if 'jax' in sys.modules:
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library or system
        return
    arenas, mapped_chunks, trim_above, grow_by = -8, -4, -1, -2  # malloc.h
    mallopt(arenas, 1)
    mallopt(mapped_chunks, 0)
    mallopt(trim_above, 2**31 - 1)
    mallopt(grow_by, 2**26)
