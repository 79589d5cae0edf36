"""One train step for one device, for a mesh or under `pmap`: the same body in different wrappers."""

import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from llm.config import Config
from llm.parallel import mesh as mesh_lib
from llm.parallel.row_programs import RowPrograms
from llm.training.train_state import TrainState
from llm.training.train_step import Metrics, make_train_step, static


@functools.lru_cache(maxsize=8)
def _program(config: Config, mesh: Mesh, tree: Any, places: tuple[Any, ...]) -> Any:
    """The step as the devices run it. Runs in one process that differ in numbers only share it, compiled."""
    programs = RowPrograms(mesh, config.parallel.wrapper == 'pmap')
    step = make_train_step(config, config.log.per_layer, programs.axis)
    shardings = (jax.tree.unflatten(tree, places), mesh_lib.replicated(mesh))
    return programs.wrap(step, (None, 0, None), (None, None), shardings=shardings, donate=(0,))


class TrainStep:
    """A compiled step, and where its batches go. The old state's memory is reused.

    With `parallel.wrapper='jit'` the compiler cuts the step over the mesh, which may be one device; with 'pmap' every
    device runs a copy on its own rows, and the sums of gradients are added up.
    """

    def __init__(self, config: Config, mesh: Mesh, placed: TrainState):
        """
        Args:
            config: the run's.
            mesh: the devices.
            placed: the state's shapes with their shardings, which every new state keeps.
        """
        self._programs = RowPrograms(mesh, config.parallel.wrapper == 'pmap')
        self.local_rows = mesh_lib.local_rows(mesh, config.training.batch_size)  # of a batch, what this process loads
        places, tree = jax.tree.flatten(jax.tree.map(lambda leaf: leaf.sharding, placed))
        self.program = _program(static(config), mesh, tree, tuple(places))

    def place(self, local: dict[str, np.ndarray]) -> dict[str, Any]:
        """Puts this process's rows of a batch where the step wants them."""
        return self._programs.place(local)

    def __call__(self, state: TrainState, batch: dict[str, Any], hyper: dict[str, Any]) -> tuple[TrainState, Metrics]:
        """One update; see `llm.training.train_step.make_train_step`."""
        with self._programs.context():
            return self._programs.whole(self.program(state, batch, hyper))

    def lower(self, state: Any, batch: Any, hyper: Any) -> jax.stages.Lowered:
        """The program before it is compiled, for arrays or their shapes."""
        with self._programs.context():
            return self.program.lower(state, batch, hyper)
