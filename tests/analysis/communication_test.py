"""What a device holds of a program cut over a mesh, by hand and as the prediction has it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from llm.analysis import communication
from llm.analysis.partition import Partition
from llm.analysis.program import from_jaxpr

MESH = Mesh(np.array(jax.devices()[:4]), ('fsdp',), axis_types=(AxisType.Auto,))
ROWS, KERNEL = PartitionSpec('fsdp'), PartitionSpec('fsdp', None)


def cut(function, arrays, inputs, outputs):
    """The program of a function and where its arrays lie."""
    with jax.set_mesh(MESH):
        traced = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in arrays))
    program = from_jaxpr(traced)
    partition = Partition(program, MESH, inputs, outputs)
    communication.insert(program, partition)
    return program, partition


def names(program):
    return [operation.name for operation in program.operations]


def test_a_parameter_is_gathered_for_the_product_and_its_gradient_added_up():
    program, partition = cut(lambda x, w: x @ w, [(16, 8), (8, 4)], [ROWS, KERNEL], [None])
    assert names(program) == ['all_gather', 'dot_general']
    gather, product = program.operations
    assert partition(program.inputs[1]) == 4 * 2 * 4  # a device keeps its part
    assert partition(gather.results[0]) == 4 * 8 * 4
    assert partition(product.results[0]) == 4 * 4 * 4

    program, partition = cut(lambda x, y: x.T @ y, [(16, 8), (16, 4)], [ROWS, ROWS], [KERNEL])
    assert names(program) == ['transpose', 'dot_general', 'all_reduce']
    _, product, total = program.operations
    assert partition(product.results[0]) == 4 * 8 * 4  # the sum of a device's own rows, whole
    assert partition(total.results[0]) == 4 * 2 * 4
    assert program.outputs == total.results


def test_where_rows_and_parameter_meet_in_the_result_the_parameter_is_gathered():
    pin = lambda x: jax.lax.with_sharding_constraint(x, ROWS)
    program, partition = cut(lambda w, x: pin(x) @ w.T, [(8, 4), (16, 4)], [KERNEL, ROWS], [None])
    gathers = [operation for operation in program.operations if operation.name == 'all_gather']
    assert [operation.results[0].shape for operation in gathers] == [(4, 8)]
    assert partition(program.outputs[0]) == 4 * 4 * 8


def test_what_every_turn_of_a_loop_would_gather_is_gathered_once_before():
    def loop(w, rows):
        return jax.lax.scan(lambda total, x: (total + (x @ jnp.tanh(w)).sum(), None), 0.0, rows)[0]

    rows = PartitionSpec(None, 'fsdp')
    program, partition = cut(loop, [(8, 8), (5, 16, 8)], [KERNEL, rows], [None])
    assert names(program) == ['tanh', 'all_gather', 'scan']
    scan = program.operations[-1]
    assert 'tanh' not in names(scan.bodies[0]) and 'all_gather' not in names(scan.bodies[0])
    assert scan.inputs[0] is program.operations[1].results[0] or scan.inputs[1] is program.operations[1].results[0]
    assert len(scan.inputs) == len(scan.bodies[0].inputs)
    assert scan.params['num_consts'] == 2


@pytest.mark.parametrize('spec', [ROWS, PartitionSpec()], ids=['cut', 'whole'])
def test_what_runs_on_each_device_is_counted_in_that_devices_shapes(spec):
    double = jax.shard_map(lambda x: jnp.sin(x) * 2, mesh=MESH, in_specs=spec, out_specs=spec, check_vma=False)
    program, partition = cut(double, [(16, 8)], [spec], [None])
    assert names(program) == ['full_to_shard', 'sin', 'mul', 'shard_to_full']
    share = 4 * 16 * 8 // (4 if spec == ROWS else 1)
    assert {partition(operation.results[0]) for operation in program.operations} == {share}
    assert partition(program.inputs[0]) == share
