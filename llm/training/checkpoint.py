"""Checkpoints: written in the background by Orbax, believed only with a manifest whose SHA-256 sums match.

    checkpoints/STEP/params/ opt_state/ ...    arrays, each readable alone
    checkpoints/STEP/manifest.json             written last: the sums of all files, and the run's record at that step
    frozen/0/                                  of the same kind: what the run uses and does not train

A checkpoint without a manifest was never finished. One whose files do not match their sums is passed over, loudly, for
the newest that does: Orbax itself restores flipped bits without a word.
"""

import hashlib
import json
import pathlib
import shutil
import time
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.sharding import Mesh

from llm import runtime
from llm.config import CheckpointConfig
from llm.errors import MachineError, UserError
from llm.model import lora
from llm.parallel import distributed
from llm.parallel import mesh as mesh_lib
from llm.training.train_state import placed_state
from llm.workdir import Workdir, write_atomically

MANIFEST = 'manifest.json'


class Checkpoints:
    """The checkpoints in one folder, oldest to newest."""

    def __init__(self, directory: pathlib.Path):
        self._directory = directory.absolute()
        self._manager = None
        self._unfinished: tuple[int, dict] | None = None  # being written: its step and record

    def steps(self) -> list[int]:
        """Steps with a manifest."""
        names = [path.parent.name for path in self._directory.glob(f'*/{MANIFEST}')]
        return sorted(int(name) for name in names if name.isdigit())

    def record(self, step: int) -> dict[str, Any]:
        """The run's record stored with a checkpoint: data position, accounting, recent losses."""
        return json.loads((self._directory / str(step) / MANIFEST).read_text())['record']

    def save(self, step: int, items: dict[str, Any], record: dict[str, Any], keep: CheckpointConfig) -> None:
        """Starts writing a checkpoint in the background, after finishing the one before.

        Args:
            step: its name.
            items: trees of arrays, each readable alone.
            record: what the manifest keeps beside the sums.
            keep: which older checkpoints stay.
        """
        self.finish(keep)
        self._check_space(step, items)
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        self._open().save(step, args=ocp.args.Composite(**args), force=True)
        self._unfinished = (step, record)

    def _check_space(self, step: int, items: dict[str, Any]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise MachineError(
                f'no space left for checkpoint {step} in {self._directory}: it takes up to {needed / 2**20:.1f} MiB '
                f'and {free / 2**20:.1f} MiB are free; free some, then run the same command again'
            )

    def poll(self, keep: CheckpointConfig) -> float:
        """Finishes the checkpoint being written if its files are all there; never waits for them.

        Returns the seconds it took.
        """
        start = time.perf_counter()
        if self._unfinished is not None and not self._open().is_saving_in_progress():
            self.finish(keep)
        return time.perf_counter() - start

    def finish(self, keep: CheckpointConfig) -> None:
        """Waits until everything is on disk, writes the manifest, and deletes what `keep` does not ask for."""
        if self._unfinished is None:
            return
        (step, record), self._unfinished = self._unfinished, None
        try:
            self._open().wait_until_finished()
        except Exception as error:
            raise MachineError(f'cannot write checkpoint {step} in {self._directory}: {_reason(error)}') from error
        if distributed.is_main():
            self.write_record(step, record)
            for old in sorted(set(self.steps()) - self._kept(keep)):
                self.delete(old)

    def _kept(self, keep: CheckpointConfig) -> set[int]:
        steps = self.steps()
        kept = set(steps[-keep.keep_last :])
        if keep.keep_every is not None:
            kept |= {step for step in steps if step % keep.keep_every == 0}
        if keep.keep_best:
            losses = {step: self._held_out_loss(step) for step in steps}
            kept |= set(sorted((s for s in steps if losses[s] is not None), key=losses.get)[:1])
        return kept

    def _held_out_loss(self, step: int) -> float | None:
        try:
            return self.record(step).get('held_out_loss')
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None  # damaged, so never the best

    def write_record(self, step: int, record: dict[str, Any]) -> None:
        """Writes the manifest of a checkpoint, or replaces the record in it, as one atomic act.

        A record that is replaced keeps the sums beside it: summing the files again would vouch for damage since.
        """
        folder = self._directory / str(step)
        manifest = folder / MANIFEST
        sums = json.loads(manifest.read_text())['files'] if manifest.is_file() else _sums(folder)
        body = {'step': step, 'record': record, 'files': sums}
        write_atomically(manifest, json.dumps(body | {'sha256': _digest(body)}, indent=1))

    def delete(self, step: int) -> None:
        """Removes a checkpoint, its manifest first: what is half removed does not count."""
        folder = self._directory / str(step)
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        if self._manager is not None:
            self._manager.reload()  # it remembers which steps there were

    def delete_after(self, step: int) -> None:
        """Removes all checkpoints past a step. All processes must ask."""
        if distributed.is_main():
            for later in self.steps():
                if later > step:
                    self.delete(later)
        distributed.barrier('delete_after')
        if self._manager is not None:
            self._manager.reload()

    def delete_unfinished(self) -> None:
        """Removes what a crash left half written. All processes must ask."""
        if distributed.is_main():
            self._delete_unfinished()
        distributed.barrier('delete_unfinished')

    def _delete_unfinished(self) -> None:
        for folder in self._directory.glob('[0-9]*'):
            ours = folder.name.isdigit() or '.orbax-checkpoint-tmp' in folder.name
            if ours and not (folder / MANIFEST).is_file():
                shutil.rmtree(folder, ignore_errors=True)

    def newest_good(self, at_most: int | None = None) -> int | None:
        """The newest checkpoint that verifies, or None; warns of each one that does not. All processes must ask."""
        return distributed.agree(self._newest_good(at_most) if distributed.is_main() else None)

    def _newest_good(self, at_most: int | None) -> int | None:
        for step in reversed(self.steps()):
            if at_most is not None and step > at_most:
                continue
            problem = self.problem(step)
            if problem is None:
                return step
            logging.warning('checkpoint %d is damaged (%s); falling back to an earlier one', step, problem)
        return None

    def digest(self, step: int) -> str:
        """SHA-256, in hex, over the files of a checkpoint that verifies."""
        return _digest(json.loads((self._directory / str(step) / MANIFEST).read_text())['files'])

    def problem(self, step: int) -> str | None:
        """What is wrong with a checkpoint's files, or None."""
        folder = self._directory / str(step)
        try:
            body = json.loads((folder / MANIFEST).read_text())
            expected = body.pop('sha256')
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f'{MANIFEST} cannot be read'
        if expected != _digest(body):
            return f'{MANIFEST} does not match its own sum'
        found = _sums(folder)
        for name, digest in body['files'].items():
            if name not in found:
                return f'{name} is missing'
            if found[name] != digest:
                return f'{name} does not match its sum'
        return None

    def restore(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        """Reads some of a checkpoint's items.

        Args:
            step: one of `steps()`, verified.
            wanted: of each item its shapes, dtypes and (optionally) shardings.
        """
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()})
        restored = self._open().restore(step, args=args)
        return {name: restored[name] for name in wanted}

    def close(self) -> None:
        if self._manager is not None:
            self._manager.close()

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            # No clean-up here: a reader would remove what a training process is writing (see `delete_unfinished`).
            options = ocp.CheckpointManagerOptions(max_to_keep=None)
            self._manager = ocp.CheckpointManager(self._directory, options=options)
        return self._manager


def load_params(
    workdir: Workdir, step: int | None = None, ema: bool = False, mesh: Mesh | None = None
) -> tuple[int, Any]:
    """Opens the parameters of a run: the model's whole tree (adapters already added to what they adapt), and heads.

    Args:
        workdir: the run's.
        step: which checkpoint; None is the newest good one.
        ema: the averaged parameters instead of the raw ones.
        mesh: the devices to put them on; None is whole, on this process's first device.

    Returns:
        The step and the parameter tree.

    Raises:
        UserError: if the workdir has no such checkpoint, or it is damaged.
    """
    config = runtime.stored_config(workdir)
    checkpoints = Checkpoints(workdir.checkpoints)
    step = checked_step(workdir, checkpoints, step)
    placed = placed_state(config, mesh or mesh_lib.one_device())
    if ema and placed.ema is None:
        raise UserError(f'{workdir.path} keeps no averaged parameters; it was trained with training.ema_decay None')
    item = 'ema' if ema else 'params'
    try:
        params = checkpoints.restore(step, {item: getattr(placed, item)})[item]
    finally:
        checkpoints.close()
    if not config.lora.rank:
        return step, params
    base = load_frozen(workdir, placed.frozen)['base']
    return step, jax.jit(lambda base, params: lora.combine(base, params, config.lora))(base, params)


def checked_step(workdir: Workdir, checkpoints: Checkpoints, step: int | None) -> int:
    """The step asked for, or the newest good one.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f'{workdir.path} has no checkpoint yet; train it first')
    if step is None:
        step = checkpoints.newest_good()
        if step is None:
            raise UserError(f'every checkpoint in {workdir.checkpoints} is damaged; train again, or restore a copy')
    elif step not in steps:
        raise UserError(f'{workdir.path} has no checkpoint {step}; it has {", ".join(map(str, steps))}')
    elif problem := checkpoints.problem(step):
        raise UserError(f'checkpoint {step} of {workdir.path} is damaged: {problem}')
    return step


def save_frozen(workdir: Workdir, frozen: Any) -> None:
    """Writes what a run uses and does not train: once, before its first checkpoint."""
    store = Checkpoints(workdir.frozen)
    store.delete_unfinished()
    if distributed.is_main():
        for step in store.steps():  # of a start that was killed before its first checkpoint
            store.delete(step)
    distributed.barrier('save_frozen')
    try:
        store.save(0, frozen, {}, CheckpointConfig())
        store.finish(CheckpointConfig())
    finally:
        store.close()


def load_frozen(workdir: Workdir, placed: Any) -> Any:
    """Reads what `save_frozen` wrote.

    Raises:
        UserError: if it is missing or damaged.
    """
    store = Checkpoints(workdir.frozen)
    if store.newest_good() is None:
        raise UserError(f'{workdir.frozen} is missing or damaged, and the run cannot do without; restore a copy')
    try:
        return store.restore(0, placed)
    finally:
        store.close()


def params_sha256(params: Any) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of all parameters. All processes must ask."""
    digest = hashlib.sha256()
    for path, value in jax.tree_util.tree_flatten_with_path(params)[0]:
        value = distributed.whole(value)
        digest.update(f'{jax.tree_util.keystr(path)} {value.dtype} {value.shape}'.encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _sums(folder: pathlib.Path) -> dict[str, str]:
    sums = {}
    for path in sorted(folder.rglob('*')):
        if path.is_file() and not path.name.startswith(MANIFEST):
            with open(path, 'rb') as file:
                sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, 'sha256').hexdigest()
    return sums


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _reason(error: BaseException) -> str:
    """The first line of what went wrong."""
    return str(error).strip().split('\n')[0][:200] or type(error).__name__
