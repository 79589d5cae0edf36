"""Functions of rows on the devices of a run, whichever way it is cut: by the compiler over a mesh, or with `pmap`."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from llm.parallel import mesh as mesh_lib

AXIS = 'devices'  # of pmap
# Communication runs beside computation where it can. On TPU that is the compiler's default.
COMPILER_OPTIONS = {'gpu': {'xla_gpu_enable_latency_hiding_scheduler': True}}


class RowPrograms:
    """Compiles functions some of whose arguments and results are cut by rows, and moves rows in and out.

    Attributes:
        mapped: whether `pmap` runs the functions: each device its own copy on its own rows, with sums over the axis
            `axis`; rows then have an axis of devices in front.
        axis: the name of that axis, or None.
        compiling: seconds spent on compiling so far, for who measures time.
    """

    def __init__(self, mesh: Mesh, mapped: bool):
        self.mapped, self.axis = mapped, AXIS if mapped else None
        self.compiling = 0.0
        self._mesh = mesh

    def wrap(
        self,
        function: Callable,
        in_axes: tuple[int | None, ...],
        out_axes: Any,
        shardings: Any = None,
        donate: tuple[int, ...] = (),
    ) -> Any:
        """A function as the devices run it, to be called and lowered inside `context`.

        Args:
            function: pure.
            in_axes: for each argument 0 if it is cut by rows, or None.
            out_axes: of the results, a prefix of their tree: 0 if cut by rows, or None if the same everywhere.
            shardings: of the results on a mesh, where not those that follow from `out_axes`.
            donate: arguments whose memory the results take.
        """
        if self.mapped:
            devices = self._mesh.devices.flatten().tolist()
            return jax.pmap(function, AXIS, in_axes=in_axes, out_axes=out_axes, devices=devices, donate_argnums=donate)
        if shardings is None:
            places = {0: mesh_lib.batch_sharding(self._mesh, 1), None: mesh_lib.replicated(self._mesh)}
            shardings = jax.tree.map(places.get, out_axes, is_leaf=lambda x: x is None)
        options = COMPILER_OPTIONS.get(jax.default_backend())
        return jax.jit(function, out_shardings=shardings, donate_argnums=donate, compiler_options=options)

    def context(self) -> contextlib.AbstractContextManager:
        """Where wrapped functions are called and lowered."""
        return contextlib.nullcontext() if self.mapped else jax.set_mesh(self._mesh)

    def compile(self, *arguments: Any, **options: Any) -> Callable:
        """`wrap`, with the time that its first call takes to compile added to `compiling`."""
        program = self.wrap(*arguments, **options)
        first = True

        def call(*arguments):
            nonlocal first
            with self.context():
                if first:
                    start = time.perf_counter()
                    program.lower(*arguments).compile()
                    self.compiling += time.perf_counter() - start
                    first = False
                return program(*arguments)

        return call

    def place(self, local: dict[str, np.ndarray]) -> dict[str, Any]:
        """Puts this process's rows where the programs want them."""
        if self.mapped:
            return {name: x.reshape(len(self._mesh.local_devices), -1, *x.shape[1:]) for name, x in local.items()}
        rows = len(next(iter(local.values())))
        first, last = mesh_lib.local_rows(self._mesh, self._mesh.size)  # of as many rows as there are devices
        return mesh_lib.place(self._mesh, rows * self._mesh.size // (last - first), local)

    def local(self, x: jax.Array) -> np.ndarray:
        """This process's rows of what a program returned, in this process's memory."""
        if self.mapped:
            x = np.asarray(x)
            return x.reshape(-1, *x.shape[2:])
        # Devices along other axes than the rows' hold the same ones.
        parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    def whole(self, tree: Any) -> Any:
        """Results that are the same everywhere, as arrays of all processes' devices. Copies nothing."""
        if not self.mapped or jax.process_count() == 1:
            return tree

        def join(x):
            parts = [shard.data for shard in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape, mesh_lib.replicated(self._mesh), parts)

        return jax.tree.map(join, tree)
