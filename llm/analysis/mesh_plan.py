"""A training step on a mesh: where each parameter lies, and its memory as predicted and as compiled."""

from typing import Any

import jax

from llm.analysis import step_memory, units
from llm.config import Config
from llm.errors import UserError
from llm.parallel import mesh as mesh_lib


def mesh_plan(config: Config, devices: list[jax.Device] | None = None) -> dict[str, Any]:
    """Compiles a config's training step for a mesh, without running it or making its arrays.

    Args:
        config: the run's, resolved.
        devices: the mesh's; None is all there are.

    Returns:
        `mesh` (size by axis), `device` (its kind), `parameters` (`parameter`, `shape`, `sharding`, `bytes_per_device`
        of each), and, in bytes on one device, `predicted` and `compiled` (`arguments`, `outputs`, `donated`,
        `temporaries`, `peak`) with `ratio` of the one to the other, and `worst_moment`: what the largest temporary
        arrays are when there are most (`bytes`, `operation`, `shape` before it is cut, `dtype`, `where`).

    Raises:
        UserError: if the config does not fit the mesh, or is for `pmap`, whose copies of the step are not on one.
    """
    if config.parallel.wrapper == 'pmap':
        raise UserError(
            'parallel.wrapper is pmap, which copies the whole step to every device; --mesh shows how jit cuts it: '
            'leave out --mesh, or make the wrapper jit'
        )
    mesh = mesh_lib.make_mesh(config.parallel, devices)
    mesh_lib.check_divides(config, mesh)
    step = step_memory.abstract_step(config, mesh)
    predicted, worst = step_memory.predict(step)
    predicted, compiled = predicted.to_dict(), step_memory.compiled(step).to_dict()
    return {
        'mesh': {name: int(size) for name, size in mesh.shape.items()},
        'device': mesh.devices.flat[0].device_kind,
        'parameters': step_memory.parameter_rows(step),
        'predicted': predicted,
        'compiled': compiled,
        'ratio': {name: predicted[name] / compiled[name] if compiled[name] else None for name in predicted},
        'worst_moment': [
            {'bytes': s.bytes, 'operation': s.what, 'shape': list(s.shape), 'dtype': s.dtype, 'where': s.where}
            for s in worst[:MOST]
        ],
    }


MOST = 12  # arrays of the worst moment that are listed


def text(plan: dict[str, Any]) -> str:
    """`mesh_plan`'s result for a terminal."""
    count = 1
    for size in plan['mesh'].values():
        count *= size
    axes = ' x '.join(f'{name} {size}' for name, size in plan['mesh'].items())
    parameters = [
        [
            row['parameter'],
            ' x '.join(map(str, row['shape'])),
            _sharding(row['sharding']),
            units.size(row['bytes_per_device']),
        ]
        for row in plan['parameters']
    ]
    total = sum(row['bytes_per_device'] for row in plan['parameters'])
    memory = [
        [name, units.size(plan['predicted'][name]), units.size(plan['compiled'][name]), _ratio(plan['ratio'][name])]
        for name in plan['predicted']
    ]
    worst = [
        [
            units.size(row['bytes']),
            f'{row["dtype"]} {" x ".join(map(str, row["shape"]))}',
            row['operation'],
            row['where'],
        ]
        for row in plan['worst_moment']
    ]
    return '\n\n'.join(
        [
            f'Mesh: {axes} = {count} devices ({plan["device"]})',
            units.table(
                ['Parameter', 'shape', 'cut over', 'per device'], [*parameters, ['total', '', '', units.size(total)]]
            ),
            units.table(['Memory of a step, per device', 'predicted', 'compiled', 'ratio'], memory),
            units.table(['Alive at the worst moment', 'whole shape', 'operation', 'where'], worst),
        ]
    )


def _sharding(axes: list) -> str:
    names = ['+'.join(axis) if isinstance(axis, list) else axis or '-' for axis in axes]
    return ', '.join(names) if any(axes) else 'whole'


def _ratio(ratio: float | None) -> str:
    return '' if ratio is None else f'{ratio:.3f}'
