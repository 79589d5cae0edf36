"""The training loop. Dispatches step N, then reads the metrics of step N - 1: the host never holds the device up."""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from filelock import FileLock, Timeout
from tqdm import tqdm

from llm import config_json, runtime
from llm.config import Config, Distillation
from llm.errors import MachineError, UserError
from llm.parallel import distributed
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import Tokenizer, has_tokenizer, open_workdir
from llm.training.attempt import Attempt
from llm.training.signals import StopSignal
from llm.training.stages import load_data, train_batches
from llm.training.teacher import check_teacher, teacher_workdir
from llm.workdir import Workdir


def train(
    config: Config, path: str | os.PathLike, progress: bool = True, devices: list[jax.Device] | None = None
) -> dict[str, Any]:
    """Trains until `config.training.steps` updates are made, going on where the workdir stopped.

    Args:
        config: the run's.
        path: the workdir; made if there is none.
        progress: whether to draw a progress bar on stderr.
        devices: what to train on; None is all there are.

    Returns:
        The summary, as stored in summary.json.

    Raises:
        UserError: if the workdir holds another run, or the config or its data cannot be used.
        MachineError: if the loss diverges for good, or the disk is full.
        Interrupted: if a signal came; the state is saved.
    """
    workdir = Workdir(path)
    _check_stored(config, workdir)
    if summary := workdir.finished(config):
        logging.info('%s is done: %s', workdir.path, summary['message'])
        return summary
    runtime.check(config)
    tokenizer = existing_tokenizer(config, workdir)
    if isinstance(config.objective, Distillation):
        check_teacher(config, tokenizer)
    data = load_data(config, tokenizer)
    batches = train_batches(config, data)
    mesh = mesh_lib.make_mesh(config.parallel, devices)
    mesh_lib.check_divides(config, mesh)
    workdir.path.mkdir(parents=True, exist_ok=True)
    with locked(workdir) if distributed.is_main() else contextlib.nullcontext():
        choices = _agreed_choices(config, workdir, data)
        attempt = Attempt(runtime.resolve(config, choices), workdir, data, batches, mesh)
        attempt.describe(config, choices)
        try:
            return _train(attempt, progress)
        except (MachineError, UserError) as error:  # such as a reward function that fails
            attempt.fail(error)
            raise
        finally:
            attempt.close()


def _train(run: Attempt, progress: bool) -> dict[str, Any]:
    run.start()
    total = run.config.training.steps
    stream = run.stream()
    bar = tqdm(total=total, initial=run.step, unit='step', disable=not progress, dynamic_ncols=True)
    with StopSignal() as stop, bar:
        pending = None  # the step whose metrics are on their way
        while run.step < total:
            run.state, metrics = run.train_step(run.state, run.train_step.place(next(stream)), run.hyper)
            run.step += 1
            ready, pending = pending, (run.step, metrics)
            lost = _read(run, ready)
            stopping = _stopping(run, stop)
            evaluating, saving = run.due()
            saving = saving or stopping
            if lost is None and (evaluating or saving):
                lost, pending = _read(run, pending), None
            if lost is not None:
                run.roll_back(*lost)
                stream, pending = run.stream(), None
                bar.n = run.step
                continue
            bar.set_postfix_str(run.ledger.shown, refresh=False)
            bar.update()
            run.ledger.leave_out(run.checkpoints.poll(run.config.checkpoint))
            if evaluating or saving:
                run.ledger.pause()
                run.keep(evaluating, saving)
                if stopping and run.step < total:
                    raise run.stop(stop.signal or signal.SIGTERM)  # or another process's
                run.ledger.resume()
    return run.finish()


def _read(run: Attempt, pending: tuple[int, Any] | None) -> tuple[int, str] | None:
    """Enters a step's metrics. Returns the step and the reason if the run is lost there."""
    if pending is None:
        return None
    reason = run.ledger.read(*pending)
    return None if reason is None else (pending[0], reason)


def _stopping(run: Attempt, stop: StopSignal) -> bool:
    """Whether to stop after this step. Several processes ask each other at the steps that are logged only."""
    if jax.process_count() > 1 and run.step % run.config.log.every:
        return False
    return distributed.any_process(stop.signal is not None)


def existing_tokenizer(config: Config, workdir: Workdir) -> Tokenizer | None:
    """The tokenizer of this run, or of the run it starts from or learns from; None if one has to be trained."""
    if not has_tokenizer(workdir.path) and config.init_from.workdir:
        workdir = Workdir.open(config.init_from.workdir)
    elif not has_tokenizer(workdir.path) and isinstance(config.objective, Distillation):
        workdir = teacher_workdir(config.objective)
    return open_workdir(workdir.path) if has_tokenizer(workdir.path) else None


@contextlib.contextmanager
def locked(workdir: Workdir) -> Iterator[None]:
    """Holds a workdir.

    Raises:
        UserError: if another process trains in it.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(FileLock(workdir.path / '.lock', timeout=0))
        except Timeout as error:
            raise UserError(
                f'another process is training in {workdir.path}; wait for it, or use another workdir'
            ) from error
        yield


def _agreed_choices(config: Config, workdir: Workdir, data: Any) -> dict[str, Any]:
    """`runtime.choose` as process 0 did, for all."""
    choices = distributed.agree(runtime.choose(config, workdir, data.digest) if distributed.is_main() else None)
    if distributed.any_process(data.digest != choices['data']):
        raise UserError('the corpora differ between processes; give every host the same files')
    return choices


def _check_stored(config: Config, workdir: Workdir) -> None:
    """Refuses a path that is no folder, and to go on with another config than the workdir's."""
    if workdir.path.exists() and not workdir.path.is_dir():
        raise UserError(f'{workdir.path} is a file; choose another --workdir')
    if not (workdir.path / 'config.json').is_file():
        if workdir.checkpoints.exists():
            raise UserError(f'{workdir.path} has checkpoints but no config.json; restore it, or use another workdir')
        return
    differences = config_json.difference(workdir.config(), config, ignore=('run_length', 'logging', 'placement'))
    if differences:
        shown = ', '.join(f'{name} was {a!r} and is now {b!r}' for name, (a, b) in differences.items())
        raise UserError(f'{workdir.path} holds a run with another config: {shown}; use another workdir')
