"""A process that trains runs of a sweep: `python -m llm.sweep.worker WORKDIR...`, started by a launcher.

It claims its runs, trains what of them is not done, and ends when the process that started it is gone. Its exit code is
that of `python -m llm train`; 75 means that another process has one of the runs.
"""

import os
import signal
import sys
from collections.abc import Sequence

from llm import runtime
from llm.command_line import guarded
from llm.sweep.registry import claimed
from llm.training.signals import end_with_parent
from llm.workdir import Workdir


def work(workdirs: Sequence[Workdir]) -> None:
    """Trains claimed runs to their ends: several together, as a population, what is left of it one by one."""
    with claimed(workdirs, timeout=2):
        if len(workdirs) > 1:
            from llm.sweep.population import train_population

            train_population([workdir.path for workdir in workdirs], progress=False)
        from llm.training.loop import train

        for workdir in workdirs:
            train(workdir.config(), workdir.path, progress=False)


def main(paths: Sequence[str]) -> None:
    if hasattr(signal, 'SIGUSR2'):
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning reaches all processes; who started us saves us
    workdirs = [Workdir.open(path) for path in paths]
    if threads := workdirs[0].runtime().get('host_threads'):
        os.environ['NPROC'] = str(threads)  # what it was started with goes before this launch's share of the cores
    runtime.prepare_host(workdirs[0])
    end_with_parent()
    work(workdirs)


if __name__ == '__main__':
    sys.exit(guarded(lambda: main(sys.argv[1:]), debug=False))
