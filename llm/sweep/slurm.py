"""Jobs of a sweep on a Slurm cluster, through submitit."""

import os
import pathlib
from typing import Any

from llm.errors import UserError, first_line
from llm.sweep.launchers import Ended, Job, Outcome, Running, WorkerProcess
from llm.sweep.options import SlurmOptions
from llm.workdir import Workdir


class Slurm:
    """Queues each job; a job that runs out of time, or whose node is taken away, saves and is queued again.

    Jobs outlive this process: a launcher that is started again waits for those that hold runs.
    """

    def __init__(self, folder: str | os.PathLike, jobs: int, options: SlurmOptions):
        """
        Args:
            folder: of the sweep, on a file system that every node sees.
            jobs: in the queue or running at once.
            options: what each job asks for.

        Raises:
            UserError: if submitit or Slurm is not there.
        """
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                "--launcher slurm needs submitit; install it with pip install 'glassbox-llm[slurm]'"
            ) from error
        self.slots = jobs
        try:
            # However often a job runs into its time limit, it has got on.
            self._executor = submitit.AutoExecutor(
                pathlib.Path(folder) / 'slurm', cluster=options.cluster, slurm_max_num_timeout=10**6
            )
        except RuntimeError as error:  # no sbatch
            raise UserError(
                f'--launcher slurm: {first_line(error)}; start it on a login node of the cluster'
            ) from error
        slurm = {'slurm_partition': options.partition, 'slurm_account': options.account}
        self._executor.update_parameters(
            name='glassbox',
            timeout_min=options.minutes,
            cpus_per_task=options.cpus,
            mem_gb=options.memory,
            gpus_per_node=options.gpus,
            **{name: value for name, value in slurm.items() if value is not None},
        )

    def start(self, job: Job) -> Running:
        work = _Work([str(workdir.path.absolute()) for workdir in job.workdirs])
        try:
            return _Submitted(self._executor.submit(work))
        except Exception as error:  # a partition that there is not, a queue that is full: submitit has many names
            return Ended(Outcome(1, f'Slurm did not take the job: {first_line(error)}'))

    def close(self) -> None: ...


class _Work:
    """What runs on the node: a worker process, and what submitit asks of it when the node is about to be taken away."""

    def __init__(self, paths: list[str]):
        self.paths = paths
        self._worker: WorkerProcess | None = None

    def __call__(self) -> Outcome:
        self._worker = WorkerProcess(Job(tuple(Workdir(path) for path in self.paths)))
        return self._worker.finish()

    def checkpoint(self) -> Any:
        """Saves, and asks to be queued again; submitit calls it on SIGUSR2."""
        import submitit

        if self._worker is not None:
            self._worker.stop()
            self._worker.finish()
        return submitit.helpers.DelayedSubmission(_Work(self.paths))


class _Submitted:
    def __init__(self, job: Any):
        self._job = job

    def outcome(self) -> Outcome | None:
        if not self._job.done():
            return None
        try:
            return self._job.result()
        except Exception as error:  # the node died, or the job was killed: submitit has many names for it
            log = (self._job.stderr() or '').splitlines()
            return Outcome(
                1, f'Slurm job {self._job.job_id} ended without a result: {first_line(error)}', tuple(log[-20:])
            )

    def stop(self) -> None:
        self._job.cancel(check=False)
