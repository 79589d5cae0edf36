"""The loop of several runs at once: their states stacked in lanes, moved by one compiled step.

A lane computes what its run would compute alone, up to how a sum is ordered. All else is each run's own: the ledger,
the metrics, evaluations, checkpoints, the summary.
"""

import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from tqdm import tqdm

from llm.config import Config
from llm.errors import Interrupted, MachineError, UserError
from llm.parallel import mesh as mesh_lib
from llm.parallel.row_programs import RowPrograms
from llm.training.attempt import Attempt
from llm.training.signals import StopSignal
from llm.training.train_step import make_train_step, static

LEFT = 'left'  # the event of a run that diverged, and goes on alone


def train_together(members: Sequence[Attempt], lanes: int, progress: bool = True) -> None:
    """Trains attempts to their ends, or until they leave.

    Args:
        members: at the same step, with configs that are equal but for numbers (`llm.training.train_step.static`), on a
            mesh of one device.
        lanes: that the compiled step has, at least one a member. What is left over repeats members, unread: so a
            population that goes on without one of its runs keeps its program, and with it the last bits.
        progress: whether to draw a progress bar on stderr.

    Raises:
        MachineError: if something fails for all, such as a full disk.
        Interrupted: if a signal came; all are saved.
    """
    together = _Together(members, lanes)
    try:
        together.train(progress)
    except (MachineError, UserError) as error:
        for member in together.members.values():
            member.fail(error)
        raise


def lanes_at_once() -> bool:
    """Whether a step is `jax.vmap`ped over the lanes, or loops over them.

    Operations over all lanes fill an accelerator that one small run leaves idle. A CPU has no idle part, and a product
    with an axis of lanes in front is not its fastest: there a lane of the vmapped step takes 1.1 to 1.4 times the
    processor time of a step alone, one of the loop 0.9 to 1.3 times (docs/populations.md).
    """
    return jax.default_backend() != 'cpu'


@functools.lru_cache(maxsize=8)
def _program(config: Config, mesh: Mesh, at_once: bool) -> Any:
    """The step of all lanes; populations of one static config in one process share it."""
    step = make_train_step(config, config.log.per_layer)
    place = mesh_lib.replicated(mesh)

    def all_lanes(states, batches, hyper):
        if next(iter(batches.values())).ndim == 2:  # one batch for every lane
            one_lane, lanes = lambda state, hyper: step(state, batches, hyper), (states, hyper)
        else:
            one_lane, lanes = step, (states, batches, hyper)
        return jax.vmap(one_lane)(*lanes) if at_once else jax.lax.map(lambda lane: one_lane(*lane), lanes)

    return RowPrograms(mesh, False).wrap(all_lanes, (None,) * 3, None, shardings=(place, place), donate=(0,))


@jax.jit
def _stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def _lane(states, lane):
    return jax.tree.map(lambda leaf: leaf[lane], states)


class _Together:
    """Members by lane, and the stacked state. Who leaves is computed on, and no longer looked at."""

    def __init__(self, members: Sequence[Attempt], lanes: int):
        self.members = dict(enumerate(members))
        first = members[0]
        self._config, self._mesh, self._total = first.config, first.mesh, first.config.training.steps
        self._filled = [members[lane % len(members)] for lane in range(lanes)]
        self._place = mesh_lib.replicated(first.mesh)
        self._hyper = jax.device_put(_stacked([member.hyper for member in self._filled]), self._place)
        self._step = _program(static(first.config), first.mesh, lanes_at_once())
        self._states: Any = None

    def train(self, progress: bool) -> None:
        for member in self.members.values():
            member.start()
            member.ledger.sharing = len(self.members)
        self._states = jax.device_put(_stacked([member.state for member in self._filled]), self._place)
        step = self._filled[0].step
        for member in self.members.values():
            member.state = None  # it is in its lane
        batches = self._batches()
        bar = tqdm(total=self._total, initial=step, unit='step', disable=not progress, dynamic_ncols=True)
        with StopSignal() as stop, bar:
            pending = None  # the step whose metrics are on their way
            while step < self._total and self.members:
                batch = self._wait_for(batches)
                with jax.set_mesh(self._mesh):
                    self._states, metrics = self._step(self._states, batch, self._hyper)
                step += 1
                ready, pending = pending, (step, metrics)
                self._read(ready)
                for member in self.members.values():
                    member.step = step
                stopping = stop.signal is not None
                evaluating, saving = self._due()
                saving = saving or stopping
                if evaluating or saving:
                    self._read(pending)
                    pending = None
                bar.set_postfix_str(self._shown(), refresh=False)
                bar.update()
                self._poll()
                if evaluating or saving:
                    self._keep(evaluating, saving)
                if stopping and step < self._total and self.members:
                    stopped = [member.stop(stop.signal) for member in self.members.values()]
                    raise stopped[0]
            if stop.signal is not None and not self.members:
                raise Interrupted(stop.signal)  # all have left; nobody is to go on alone
        # Not until all have their last checkpoint is one of them done: what is killed here goes on with all of them.
        for member in self.members.values():
            member.checkpoints.finish(member.config.checkpoint)
        for lane in list(self.members):
            self._fetch(lane).finish()
            del self.members[lane]

    def _batches(self) -> Iterator[dict[str, np.ndarray]]:
        """For each step the batches of all lanes, stacked; without that axis if all runs read the same data."""
        keys = [(member.config.data.seed, str(member.ledger.record['skipped'])) for member in self._filled]
        readers = {}
        for key, member in zip(keys, self._filled, strict=True):
            if key not in readers:
                rows = member.train_step.local_rows
                readers[key] = member.batches.iterate(member.step, member.ledger.record['skipped'], rows)
        while True:
            read = {key: next(reader) for key, reader in readers.items()}
            if len(read) == 1:
                yield read[keys[0]]
            else:
                yield {name: np.stack([read[key][name] for key in keys]) for name in read[keys[0]]}

    def _wait_for(self, batches: Iterator[dict[str, np.ndarray]]) -> Any:
        asked = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - asked
        for member in self.members.values():
            member.ledger.wait(waited)
        return jax.device_put(batch, self._place)

    def _read(self, pending: tuple[int, Any] | None) -> None:
        """Enters a step's metrics into the ledger of each; who is lost there leaves."""
        if pending is None:
            return
        step, metrics = pending
        metrics = jax.device_get(metrics)
        for lane, member in list(self.members.items()):
            reason = member.ledger.read(step, jax.tree.map(lambda values, lane=lane: values[lane], metrics))
            if reason is not None:
                self._leave(lane, step, reason)

    def _leave(self, lane: int, step: int, reason: str) -> None:
        member = self.members.pop(lane)
        member.checkpoints.finish(member.config.checkpoint)
        message = f'{reason} at step {step}; left the runs that it was trained with, to go on alone'
        logging.warning('%s: %s', member.workdir.path, message)
        member.note(LEFT, message)
        member.write_summary('interrupted', message)
        for other in self.members.values():
            other.ledger.sharing = len(self.members)

    def _due(self) -> tuple[bool, bool]:
        """See `Attempt.due`, which is the same for all."""
        for member in self.members.values():
            return member.due()
        return False, False

    def _poll(self) -> None:
        seconds = sum(member.checkpoints.poll(member.config.checkpoint) for member in self.members.values())
        for member in self.members.values():
            member.ledger.leave_out(seconds)

    def _keep(self, evaluating: bool, saving: bool) -> None:
        for member in self.members.values():
            member.ledger.pause()
        for lane in self.members:
            member = self._fetch(lane)
            member.keep(evaluating, saving)
            member.state = None
        for member in self.members.values():
            member.ledger.resume()

    def _fetch(self, lane: int) -> Attempt:
        """The member of a lane, with its state as it would be alone."""
        member = self.members[lane]
        places = jax.tree.map(lambda leaf: leaf.sharding, member.placed)
        member.state = jax.device_put(_lane(self._states, lane), places)
        return member

    def _shown(self) -> str:
        losses = [m.ledger.record['recent_losses'][-1:] for m in self.members.values()]
        losses = sorted(loss for last in losses for loss in last)
        return f'{len(self.members)} runs' + (f', loss {losses[0]:.3f} to {losses[-1]:.3f}' if losses else '')
