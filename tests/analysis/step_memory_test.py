"""The predicted memory of a step against the compiler's: arguments and outputs exact, temporaries within 30%.

The bound is the issue's; what is not modelled is the compiler's choice of fusions and copies, one array here and there.
"""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import pytest

from llm.analysis import mesh_plan, step_memory
from llm.analysis.liveness import temporaries
from llm.analysis.program import from_jaxpr
from llm.command_line import load_config
from llm.config import (
    Adafactor,
    Config,
    DataConfig,
    ModelConfig,
    Muon,
    NextToken,
    ParallelConfig,
    TrainingConfig,
)
from llm.data import batches
from llm.errors import UserError
from llm.parallel.mesh import make_mesh

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
MODEL = ModelConfig(vocab_size=512, context_length=64, num_layers=3, width=64, num_heads=4)
SMALL = Config(model=MODEL, data=DataConfig(sequence_length=64), training=TrainingConfig(batch_size=8))


def shipped(name: str) -> Config:
    config = load_config(str(CONFIGS / f'{name}.py'))
    if config.model.compute_dtype == 'auto':
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute_dtype='bfloat16'))
    return config


def with_model(**changes) -> Config:
    return dataclasses.replace(SMALL, model=dataclasses.replace(MODEL, **changes))


def check(config: Config, mesh=None) -> None:
    step = step_memory.abstract_step(config, mesh)
    predicted, compiled = step_memory.predict(step)[0], step_memory.compiled(step)
    assert (predicted.arguments, predicted.outputs, predicted.donated) == (
        compiled.arguments,
        compiled.outputs,
        compiled.donated,
    )
    ratio = predicted.temporaries / compiled.temporaries
    assert 0.7 <= ratio <= 1.3, ratio


@pytest.mark.parametrize('name', ['tiny', 'quickstart'])
def test_shipped_configs(name):
    check(shipped(name))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['gpt2_124m', 'gpt_1_3b'])
def test_large_shipped_configs(name):
    check(shipped(name))


@pytest.mark.parametrize(
    'config',
    [
        with_model(remat='full', compute_dtype='bfloat16'),
        pytest.param(with_model(remat='dots', num_kv_heads=2, tied_embeddings=False), marks=pytest.mark.slow),
        with_model(dropout=0.1, position='learned', activation='gelu', norm='layernorm', windows=(16, None)),
        dataclasses.replace(SMALL, objective=NextToken(vocabulary_chunk=16), optimizer=Adafactor()),
        pytest.param(
            dataclasses.replace(SMALL, training=TrainingConfig(batch_size=8, accumulation=2, ema_decay=0.9)),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            dataclasses.replace(with_model(width=256), optimizer=Muon(), training=TrainingConfig(batch_size=1)),
            marks=pytest.mark.slow,
        ),
    ],
    ids=['full', 'dots', 'learned', 'chunked', 'accumulated', 'weights'],
)
def test_variants(config):
    check(config)


@pytest.mark.parametrize(
    'parallel',
    [
        pytest.param(ParallelConfig(), marks=pytest.mark.slow),
        pytest.param(ParallelConfig(data=2, fsdp=4), marks=pytest.mark.slow),
        ParallelConfig(data=2, fsdp=2, tensor=2),
        ParallelConfig(data=1, fsdp=2, tensor=2, context=2),
    ],
    ids=str,
)
def test_on_a_mesh(parallel):
    config = dataclasses.replace(SMALL, parallel=parallel, training=TrainingConfig(batch_size=16))
    plan = mesh_plan.mesh_plan(config, jax.devices()[:8])
    for name in ('arguments', 'outputs', 'donated'):
        assert plan['predicted'][name] == plan['compiled'][name]
    assert 0.7 <= plan['ratio']['temporaries'] <= 1.3
    whole = sum(leaf.nbytes for leaf in map(_array, plan['parameters']))
    cut = sum(row['bytes_per_device'] for row in plan['parameters'])
    parts = parallel.fsdp * parallel.tensor
    assert whole / parts <= cut <= whole / parts * 1.1  # all but the norms are cut
    assert all(row['parameter'] in mesh_plan.text(plan) for row in plan['parameters'])


MESHES = {
    'fsdp': ParallelConfig(data=1, fsdp=8),
    'tensor': ParallelConfig(data=4, tensor=2),
    'all': ParallelConfig(data=1, fsdp=2, tensor=2, context=2),
}


@pytest.mark.slow
@pytest.mark.parametrize('name, axes', [('quickstart', axes) for axes in MESHES] + [('gpt_1_3b', 'fsdp')])
def test_shipped_configs_on_a_mesh(name, axes):
    config = dataclasses.replace(shipped(name), parallel=MESHES[axes])
    if name == 'quickstart':  # its three heads cannot be cut in two
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_heads=4))
    check(config, make_mesh(config.parallel, jax.devices()[:8]))


def test_a_plan_for_pmap_is_refused():
    config = dataclasses.replace(SMALL, parallel=ParallelConfig(wrapper='pmap'))
    with pytest.raises(UserError, match=r'parallel\.wrapper is pmap.*make the wrapper jit'):
        mesh_plan.mesh_plan(config)


def _array(row):
    return jnp.zeros(row['shape'])


@pytest.mark.parametrize('masking', [True, False])
def test_the_batch_is_what_training_reads(masking):
    """Names and types of the arrays that `llm.data.batches` makes."""
    data = dataclasses.replace(SMALL.data, document_masking=masking)
    config = dataclasses.replace(SMALL, data=data, training=TrainingConfig(batch_size=16))
    expected = {name: (leaf.shape, leaf.dtype) for name, leaf in step_memory.abstract_batch(config).items()}
    made = batches._empty(16, 64, masking)
    assert {name: (x.shape, x.dtype) for name, x in made.items()} == expected


def program(function, *shapes):
    return from_jaxpr(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)))


def test_an_elementwise_chain_takes_no_memory_but_what_is_written():
    side = 4 * 64 * 64
    chain = program(lambda x, y: (jnp.tanh(x) * 2 + 1) @ y, (64, 64), (64, 64))
    assert temporaries(chain).bytes == 2 * side  # the operand of the product, and the product itself
    twice = program(lambda x, y: x @ y @ y @ y @ y, (64, 64), (64, 64))
    assert temporaries(twice).bytes == 2 * side  # two at a time, however long


def test_a_loop_keeps_what_it_stacks_and_one_iteration():
    def loop(x, kernels):
        return jax.lax.scan(lambda x, kernel: (x @ kernel, x @ kernel), x, kernels)[1].sum()

    sizes = [temporaries(program(loop, (64, 64), (n, 64, 64))).bytes / (4 * 64 * 64) for n in (8, 9, 10)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] == 1
    assert 8 <= sizes[0] <= 8 + 4


def test_a_loop_unrolled_as_a_whole_is_no_loop():
    def scanned(reverse):
        def loop(x, kernels):
            return jax.lax.scan(lambda x, w: (x @ w, x @ w + 1), x, kernels, reverse=reverse, unroll=3)

        return lambda x, kernels: (loop(x, kernels)[0], jax.lax.scan(sum_up, 0.0, loop(x, kernels)[1], unroll=3)[0])

    def sum_up(total, y):
        return total + jnp.tanh(y).sum(), None

    def written(reverse):
        def loop(x, kernels):
            total = 0.0
            made = {}
            for turn in (2, 1, 0) if reverse else (0, 1, 2):
                x = x @ kernels[turn]
                made[turn] = x + 1
            for turn in range(3):
                total = total + jnp.tanh(made[turn]).sum()
            return x, total

        return loop

    for reverse in (False, True):
        loop = program(scanned(reverse), (64, 64), (3, 64, 64))
        assert 'scan' not in {operation.name for operation in loop.operations}
        assert 'stack' not in {operation.name for operation in loop.operations}  # each turn reads what one made
        expected = temporaries(program(written(reverse), (64, 64), (3, 64, 64)))
        assert temporaries(loop).bytes == expected.bytes


def test_dead_code_and_unused_arguments_are_left_out():
    traced = program(lambda x, y, z: (x @ x, (y @ y) * 0)[0], (8, 8), (8, 8), (8, 8))
    assert [operation.name for operation in traced.operations] == ['dot_general']
    assert traced.used_inputs() == [True, False, False]
