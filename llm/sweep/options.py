"""How a sweep is done, as its user chooses it on the command line. Imports nothing heavy."""

import os
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class SlurmOptions:
    """What each job asks Slurm for. Every node has to see the sweep's folder, and this Python environment."""

    partition: str | None = None  # where to queue; None is the cluster's default
    account: str | None = None  # who pays; None is the cluster's default
    gpus: int = 0  # GPUs of a job
    cpus: int = 2  # processor cores of a job
    memory: int = 8  # GiB of a job
    minutes: int = 240  # longest time of a job; one that runs into it is queued again, and goes on
    cluster: Literal['slurm', 'local'] = 'slurm'  # 'local' tries the same without a cluster, on this machine


@dataclass(frozen=True)
class RayOptions:
    """Where Ray is, and what each job takes of it. Every node has to see the sweep's folder."""

    address: str | None = None  # of a cluster, or 'auto'; None starts Ray on this machine
    cpus: float = 1  # processor cores of a job
    gpus: float = 0  # GPUs of a job


@dataclass(frozen=True)
class SweepOptions:
    """How the runs of a sweep are done; changes none of their numbers beyond the last bits."""

    launcher: Literal['here', 'local', 'slurm', 'ray'] = 'here'  # this process, processes here, or a cluster
    jobs: int = 2  # processes at once, for a launcher that is not `here`
    retries: int = 1  # times a run that failed is tried again
    population: Literal['auto', 'on', 'off'] = 'auto'  # train runs that differ only in numbers in one program
    progress: bool = True  # show the runs on stderr while they go
    slurm: SlurmOptions = SlurmOptions()
    ray: RayOptions = RayOptions()

    def __post_init__(self):
        for name, least in (('jobs', 1), ('retries', 0)):
            if getattr(self, name) < least:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be at least {least}')

    def make_launcher(self, folder: str | os.PathLike) -> Any:
        """What `launcher` names, see `llm.sweep.launchers`.

        Args:
            folder: of the sweep.

        Raises:
            UserError: if it is not installed, or not there.
        """
        if self.launcher == 'slurm':
            from llm.sweep.slurm import Slurm

            return Slurm(folder, self.jobs, self.slurm)
        if self.launcher == 'ray':
            from llm.sweep.ray_cluster import Ray

            return Ray(self.jobs, self.ray)
        from llm.sweep.launchers import InProcess, LocalProcesses, gpus

        return InProcess() if self.launcher == 'here' else LocalProcesses(self.jobs, gpus())
