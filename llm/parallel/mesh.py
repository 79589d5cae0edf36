"""The devices of a run as one mesh, and what is put where on it."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from llm.config import Config, ParallelConfig
from llm.errors import UserError
from llm.parallel import axes
from llm.tree import Tree, named_leaves


def make_mesh(config: ParallelConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Devices along the axes of `llm.parallel.axes`; 'data' takes what the others leave, unless its size is given.

    Args:
        config: sizes of the axes.
        devices: which; None is all of all processes.

    Raises:
        UserError: if the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(config, len(devices))
    shape = tuple(sizes[name] for name in axes.MESH_AXES)
    kinds = (AxisType.Auto,) * len(shape)
    return jax.make_mesh(shape, axes.MESH_AXES, axis_types=kinds, devices=devices)


def one_device() -> Mesh:
    """A mesh of this process's first device."""
    return make_mesh(ParallelConfig(), jax.local_devices()[:1])


def axis_sizes(config: ParallelConfig, devices: int) -> dict[str, int]:
    """How many devices lie along each axis of the mesh.

    Raises:
        UserError: if the sizes do not multiply to `devices`.
    """
    others = config.fsdp * config.tensor * config.context
    data = devices // others if config.data is None else config.data
    if data * others != devices:
        named = ' x '.join(f'{name} {getattr(config, name)}' for name in ('data', 'fsdp', 'context', 'tensor'))
        raise UserError(
            f'parallel asks for {named.replace("data None x ", "")} and there are {devices} devices; '
            f'make the product of its axes {"divide" if config.data is None else "equal"} that'
        )
    return {'data': data, 'fsdp': config.fsdp, 'context': config.context, 'tensor': config.tensor}


def check_divides(config: Config, mesh: Mesh) -> None:
    """Raises UserError, with the numbers and the fix, unless every axis that is cut has equal parts."""
    model, training, sizes = config.model, config.training, dict(mesh.shape)
    rows = training.batch_size // training.accumulation
    replicas = row_parts(mesh)
    cut = [
        (rows, replicas, f'rows of a micro-batch (training.batch_size / accumulation) is {rows}', 'data x fsdp'),
        (config.data.sequence_length, sizes['context'], 'data.sequence_length', 'parallel.context'),
        (model.width, sizes['fsdp'], 'model.width', 'parallel.fsdp'),
        (model.num_heads, sizes['tensor'], 'model.num_heads', 'parallel.tensor'),
        (model.kv_heads, sizes['tensor'], 'model.num_kv_heads', 'parallel.tensor'),
        (model.hidden_width, sizes['tensor'], 'the hidden width of the feed-forward', 'parallel.tensor'),
        (model.vocab_size, sizes['tensor'], 'model.vocab_size', 'parallel.tensor'),
    ]
    for size, parts, name, axis in cut:
        if size % parts:
            shown = name if ' is ' in name else f'{name} is {size}'
            raise UserError(f'{shown}; it must be a multiple of the {parts} devices along {axis}')


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, ndim: int = 2) -> NamedSharding:
    """Of arrays whose first axis is the batch and whose last, if there is another, the length."""
    return NamedSharding(mesh, axes.batch_spec(ndim))


def shardings(mesh: Mesh, tree: Tree, *params: Tree) -> Tree:
    """Where each array of `tree` lives: what is shaped like a parameter and named after it lies as it does.

    So the optimizer's moments and the averaged parameters are cut as the parameters are; the rest (step counts, the
    rows and columns that Adafactor keeps) is whole on every device.

    Args:
        mesh: the devices.
        tree: any tree whose parts repeat the parameters' names, such as a TrainState of shapes.
        *params: shapes of parameters, by their names in `llm.parallel.axes.PARAMETERS`.
    """
    shapes = {name: leaf.shape for some in params for name, leaf in named_leaves(some)}
    specs = {name: axes.parameter_spec(name) for name in shapes}

    def place(name, leaf):
        own = next((n for n in _suffixes(name) if shapes.get(n) == leaf.shape), None)
        return NamedSharding(mesh, PartitionSpec() if own is None else specs[own])

    placed = [place(name, leaf) for name, leaf in named_leaves(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), placed)


def _suffixes(name: str):
    parts = name.split('/')
    return ('/'.join(parts[start:]) for start in range(len(parts)))


def with_shardings(mesh: Mesh, abstract: Tree, *params: Tree) -> Tree:
    """The same tree of shapes, each with its place; arguments as for `shardings`."""
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.tree.map(place, abstract, shardings(mesh, abstract, *params))


def row_parts(mesh: Mesh) -> int:
    """Into how many parts the rows of a batch are cut."""
    return mesh.shape['data'] * mesh.shape['fsdp']


def padded_rows(mesh: Mesh, rows: int) -> int:
    """The least multiple of `row_parts` that holds so many rows."""
    return -(-rows // row_parts(mesh)) * row_parts(mesh)


def local_rows(mesh: Mesh, rows: int) -> tuple[int, int]:
    """The part [start, stop) of a batch's rows that this process's devices hold."""
    parts = NamedSharding(mesh, axes.spec('batch')).addressable_devices_indices_map((rows,)).values()
    spans = [part[0].indices(rows)[:2] for part in parts]
    return min(start for start, _ in spans), max(stop for _, stop in spans)


def place(mesh: Mesh, rows: int, local: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's rows (`local_rows`) of a batch of `rows` rows on its devices, as global arrays."""
    first, _ = local_rows(mesh, rows)

    def put(x):
        def part(index):
            start, stop, _ = index[0].indices(rows)
            return x[start - first : stop - first][(slice(None), *index[1:])]

        return jax.make_array_from_callback((rows, *x.shape[1:]), batch_sharding(mesh, x.ndim), part)

    return {name: put(x) for name, x in local.items()}
