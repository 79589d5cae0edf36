"""One process of a run on several: `python -m llm.training.worker FILE`, started by `llm.parallel.launch` alone.

FILE is JSON: the config, the workdir, whether to draw a progress bar, and this process's place among the others.
"""

import json
import os
import pathlib
import signal
import sys

from llm import config_json, runtime
from llm.command_line import guarded
from llm.config import Config
from llm.errors import MachineError
from llm.parallel.launch import Distributed, join
from llm.training.signals import end_with_parent
from llm.workdir import Workdir

LOST = ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED', 'Gloo', 'gloo', 'NCCL', 'onnection')  # signs of a dead peer


def command(
    config: Config, workdir: pathlib.Path, progress: bool, place: Distributed, alone_on_host: bool, folder: pathlib.Path
) -> list[str]:
    """The command that starts a process, whose file is written into `folder`."""
    file = folder / f'process-{place.process_id}.json'
    job = {
        'config': config_json.to_json(config),
        'workdir': str(workdir),
        'progress': progress,
        'place': vars(place),
        'alone_on_host': alone_on_host,
    }
    file.write_text(json.dumps(job))
    return [sys.executable, '-m', 'llm.training.worker', str(file)]


def main(file: str) -> None:
    """Trains as one of several processes.

    Raises:
        MachineError: if another process is lost, as far as this one can still tell.
    """
    job = json.loads(pathlib.Path(file).read_text())
    workdir = Workdir(job['workdir'])
    runtime.prepare_host(workdir)
    end_with_parent()
    import jax
    from absl import logging

    join(Distributed(**job['place']), job['alone_on_host'])
    first = jax.process_index() == 0
    if not first:
        logging.set_verbosity(logging.ERROR)
    from llm.training.loop import train

    try:
        train(config_json.from_json(job['config']), workdir.path, progress=job['progress'] and first)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).split('\n')[0][:200]
        if not any(sign in reason for sign in LOST):
            raise
        raise MachineError(
            f'another process of this run is lost ({reason}); the same command goes on from the last checkpoint'
        ) from error
    if first:
        first_on_this_host(pathlib.Path(file).parent).touch()


def first_on_this_host(folder: pathlib.Path) -> pathlib.Path:
    """A file that appears in the folder of `command` if process 0 was one of those, and is done."""
    return folder / 'process-0-is-done'


def _leave(code: int) -> None:
    """Ends the process. One that failed does not wait, as jax would at exit, for others that wait for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code in (0, 128 + signal.SIGTERM, 128 + signal.SIGINT):
        sys.exit(code)
    os._exit(code)


if __name__ == '__main__':
    _leave(guarded(lambda: main(sys.argv[1]), debug=False))
