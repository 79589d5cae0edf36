"""How arrays are cut over devices: the one table of sharding rules.

A tensor's axes have logical names ('batch', 'heads', ...); `RULES` says over which axes of the device mesh each is cut:

    data     devices that share the rows of a batch
    fsdp     devices that share the rows and also the parameters (Zhao et al. 2023; Rajbhandari et al. 2020, ZeRO-3)
    context  devices that share the positions of a row; keys and values are gathered for attention (Dubey et al. 2024)
    tensor   devices that share heads, hidden units and the vocabulary (Shoeybi et al. 2019, Megatron-LM)

`PARAMETERS` names the axes of every parameter by its path. The compiler inserts the communication that follows.
"""

import re
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

MESH_AXES = ('data', 'fsdp', 'context', 'tensor')  # outermost first: neighbours on the last talk most

RULES = {
    'batch': ('data', 'fsdp'),
    'length': 'context',
    'embed': 'fsdp',  # of parameters; activations are whole along their width
    'heads': 'tensor',
    'hidden': 'tensor',
    'vocabulary': 'tensor',
}

# First match wins. Kernels are (layers, in, out); what is not named (layers, norms) is whole on every device.
PARAMETERS = (
    (r'^embedding/table$', ('vocabulary', 'embed')),
    (r'^(encoder/)?positions/table$', (None, 'embed')),
    (r'^patches/(kernel|rows|columns)$', (None, 'embed')),
    (r'^lm_head/kernel$', ('embed', 'vocabulary')),
    (r'^lm_head/bias$', ('vocabulary',)),
    (r'/(query|key|value)/kernel$', (None, 'embed', 'heads')),
    (r'/(query|key|value)/bias$', (None, 'heads')),
    (r'/(cross_)?attention/output/kernel$', (None, 'heads', 'embed')),
    (r'/feed_forward/(gate|up)/kernel$', (None, 'embed', 'hidden')),
    (r'/feed_forward/(gate|up)/bias$', (None, 'hidden')),
    (r'/feed_forward/down/kernel$', (None, 'hidden', 'embed')),
    (r'/(output|down)/bias$', ()),
    (r'norm/(scale|bias)$', ()),
    (r'^(reward|value)_head/kernel$', ('embed', None)),
    (r'/lora_a$', (None, 'embed', None)),
    (r'/lora_b$', ()),
)


def spec(*axes: str | None) -> PartitionSpec:
    """The mesh axes of an array with these logical axes."""
    return PartitionSpec(*(RULES.get(axis) for axis in axes))


def batch_spec(ndim: int) -> PartitionSpec:
    """The mesh axes of an array of a batch: rows first, positions (if it has more than rows) last."""
    return spec('batch', *(None,) * (ndim - 2), *('length',) * (ndim > 1))


def parameter_spec(name: str) -> PartitionSpec:
    """The mesh axes of a parameter, by its path.

    Raises:
        ValueError: for a parameter that the table does not know.
    """
    for pattern, axes in PARAMETERS:
        if re.search(pattern, name):
            return spec(*axes)
    raise ValueError(f'parameter {name} has no sharding; add a pattern to llm.parallel.axes.PARAMETERS')


def partitioned() -> bool:
    """Whether what is being traced will be cut by the compiler over the devices of a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return any(
        size > 1 and kind == AxisType.Auto for size, kind in zip(mesh.axis_sizes, mesh.axis_types or (), strict=True)
    )


def constrain(x: Array, *axes: str | None) -> Array:
    """Pins an activation with these logical axes to its place on the mesh; without a mesh, does nothing."""
    return jax.lax.with_sharding_constraint(x, spec(*axes)) if partitioned() else x


def on_each_device(
    function: Callable, arguments: Sequence[tuple[str | None, ...]], result: tuple[str | None, ...]
) -> Callable:
    """`function` as every device runs it on its own part, for a kernel that the compiler cannot cut by itself.

    Args:
        function: of arrays; returns one.
        arguments: the logical axes of each array; what is not named is gathered.
        result: those of what it returns.

    Returns:
        A function of the whole arrays. Without a mesh that the compiler cuts over, `function` itself.
    """
    if not partitioned():
        return function
    specs = tuple(spec(*axes) for axes in arguments)
    # A kernel does not say which of its results vary over the mesh, so that is not checked.
    return jax.shard_map(function, in_specs=specs, out_specs=spec(*result), check_vma=False)
