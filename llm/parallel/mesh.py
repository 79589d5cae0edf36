"""The devices of a run as one mesh: parameters on every device, the rows of a batch spread over them."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llm.errors import UserError


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """All devices (or these) along one axis, 'data'."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ('data',), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The first axis cut over 'data'."""
    return NamedSharding(mesh, PartitionSpec('data'))


def check_divides(mesh: Mesh, rows: int, name: str) -> None:
    """Raises UserError unless `rows` can be spread evenly over the devices."""
    if rows % mesh.size:
        raise UserError(f'{name} is {rows}; it must be a multiple of the number of devices ({mesh.size})')


def local_rows(mesh: Mesh, rows: int) -> tuple[int, int]:
    """The part [start, stop) of a batch's rows that this process's devices hold."""
    parts = by_row(mesh).addressable_devices_indices_map((rows,)).values()
    spans = [part[0].indices(rows)[:2] for part in parts]
    return min(start for start, _ in spans), max(stop for _, stop in spans)


def place(mesh: Mesh, rows: int, local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch of `rows` rows on its devices, as global arrays."""
    sharding = by_row(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:])) for name, x in local.items()
    }
