"""How a sweep is done, as its user chooses it on the command line. Imports nothing heavy."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SweepOptions:
    """How the runs of a sweep are done; changes none of their numbers beyond the last bits."""

    launcher: Literal['here', 'local', 'slurm', 'ray'] = 'here'  # this process, processes here, or a cluster
    jobs: int = 2  # processes at once, for a launcher that is not `here`
    retries: int = 1  # times a run that failed is tried again
    population: Literal['auto', 'on', 'off'] = 'auto'  # train runs that differ only in numbers in one program
    progress: bool = True  # show the runs on stderr while they go

    def __post_init__(self):
        for name, least in (('jobs', 1), ('retries', 0)):
            if getattr(self, name) < least:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be at least {least}')

    def make_launcher(self) -> Any:
        """What `launcher` names, see `llm.sweep.launchers`."""
        from llm.sweep.launchers import InProcess, LocalProcesses, gpus

        if self.launcher == 'here':
            return InProcess(self.progress)
        if self.launcher == 'local':
            return LocalProcesses(self.jobs, gpus())
        raise NotImplementedError(self.launcher)
