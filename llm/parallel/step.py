"""One train step for one device, for a mesh or under `pmap`: the same body in different wrappers."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from llm.config import Config
from llm.parallel import mesh as mesh_lib
from llm.training.train_state import TrainState
from llm.training.train_step import Metrics, make_train_step

AXIS = 'devices'  # of pmap
# Communication runs beside computation where it can. On TPU that is the compiler's default.
COMPILER_OPTIONS = {'gpu': {'xla_gpu_enable_latency_hiding_scheduler': True}}


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
        self._mesh, self._rows, self._pmap = mesh, config.training.batch_size, config.parallel.wrapper == 'pmap'
        self.local_rows = mesh_lib.local_rows(mesh, self._rows)  # the part of a batch that this process loads
        step = make_train_step(config, config.log.per_layer, AXIS if self._pmap else None)
        if self._pmap:
            devices = mesh.devices.flatten().tolist()
            axes = {'in_axes': (None, 0, None), 'out_axes': (None, None)}
            self.program = jax.pmap(step, AXIS, **axes, devices=devices, donate_argnums=0)
        else:
            out = (jax.tree.map(lambda leaf: leaf.sharding, placed), mesh_lib.replicated(mesh))
            options = COMPILER_OPTIONS.get(jax.default_backend())
            self.program = jax.jit(step, donate_argnums=0, out_shardings=out, compiler_options=options)

    def place(self, local: dict[str, np.ndarray]) -> dict[str, Any]:
        """Puts this process's rows of a batch where the step wants them."""
        if self._pmap:
            return {name: x.reshape(len(self._mesh.local_devices), -1, *x.shape[1:]) for name, x in local.items()}
        return mesh_lib.place(self._mesh, self._rows, local)

    def __call__(self, state: TrainState, batch: dict[str, Any], hyper: dict[str, Any]) -> tuple[TrainState, Metrics]:
        """One update; see `llm.training.train_step.make_train_step`."""
        if not self._pmap:
            with jax.set_mesh(self._mesh):
                return self.program(state, batch, hyper)
        results = self.program(state, batch, hyper)
        return results if jax.process_count() == 1 else jax.tree.map(self._global, results)

    def _global(self, x: jax.Array) -> jax.Array:
        """What pmap returned, an array of this process's devices, as one of all processes' devices. Copies nothing."""
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, mesh_lib.replicated(self._mesh), parts)

    def lower(self, state: Any, batch: Any, hyper: Any) -> jax.stages.Lowered:
        """The program before it is compiled, for arrays or their shapes."""
        if self._pmap:
            return self.program.lower(state, batch, hyper)
        with jax.set_mesh(self._mesh):
            return self.program.lower(state, batch, hyper)
