"""Jobs of a sweep on a Ray cluster."""

from typing import Any

from llm.errors import UserError, first_line
from llm.sweep.launchers import Job, Outcome, WorkerProcess
from llm.sweep.options import RayOptions
from llm.workdir import Workdir


class Ray:
    """Spreads jobs over the nodes. One whose node or worker dies has failed, and goes on elsewhere when tried again."""

    def __init__(self, jobs: int, options: RayOptions):
        """
        Args:
            jobs: at once; Ray queues those that no node has room for.
            options: where, and what each job takes.

        Raises:
            UserError: if Ray is not there.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError("--launcher ray needs Ray; install it with pip install 'glassbox-llm[ray]'") from error
        self.slots = jobs
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(options.address, log_to_driver=False, include_dashboard=False, logging_level='error')
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(f'--ray.address {options.address}: {first_line(error)}; is a cluster there?') from error
        asked = {'CPU': options.cpus, 'GPU': options.gpus}
        nodes = [node['Resources'] for node in ray.nodes() if node['Alive']]
        if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in nodes):
            self.close()
            raise UserError(
                f'no node of the Ray cluster has {options.cpus:g} cores and {options.gpus:g} GPUs; lower --ray.cpus '
                'or --ray.gpus'
            )
        # We try again ourselves, and count.
        self._work = ray.remote(num_cpus=options.cpus, num_gpus=options.gpus, max_retries=0)(_work).options(
            scheduling_strategy='SPREAD'
        )

    def start(self, job: Job) -> '_Task':
        return _Task(self._work.remote([str(workdir.path.absolute()) for workdir in job.workdirs]))

    def close(self) -> None:
        if self._ours:
            import ray

            ray.shutdown()


def _work(paths: list[str]) -> Outcome:
    """What runs on the node."""
    return WorkerProcess(Job(tuple(Workdir(path) for path in paths))).finish()


class _Task:
    def __init__(self, reference: Any):
        self._reference = reference

    def outcome(self) -> Outcome | None:
        import ray

        if not ray.wait([self._reference], timeout=0)[0]:
            return None
        try:
            return ray.get(self._reference)
        except ray.exceptions.TaskCancelledError:
            return Outcome(143, 'stopped')
        except ray.exceptions.RayError as error:
            return Outcome(1, f'Ray lost the job: {first_line(error).split(". ")[0]}')

    def stop(self) -> None:
        import ray

        ray.cancel(self._reference, force=False)
