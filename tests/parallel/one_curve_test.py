"""However a step is cut over devices, it is the same step: one loss curve over 20 steps."""

import functools

import jax
import numpy as np
import pytest

from llm import runtime
from llm.config import (
    Adafactor,
    AdamW,
    Config,
    Constant,
    DataConfig,
    ModelConfig,
    Muon,
    NextToken,
    ParallelConfig,
    TrainingConfig,
)
from llm.parallel import axes
from llm.parallel import mesh as mesh_lib
from llm.parallel.row_programs import COMPILER_OPTIONS
from llm.parallel.step import TrainStep
from llm.training.train_state import abstract_state, create_state
from llm.training.train_step import hyperparameters
from llm.tree import named_leaves

STEPS, ROWS, LENGTH, VOCABULARY = 20, 16, 16, 16
OPTIMIZERS = {'adamw': AdamW(learning_rate=1e-2), 'muon': Muon(), 'adafactor': Adafactor()}
CUTS = {
    'data': ParallelConfig(),
    'fsdp': ParallelConfig(fsdp=8),
    'tensor': ParallelConfig(data=4, tensor=2),
    'fsdp x tensor': ParallelConfig(fsdp=4, tensor=2),
    'context': ParallelConfig(data=2, context=4),
    'all axes': ParallelConfig(data=1, fsdp=2, tensor=2, context=2),
    'pmap': ParallelConfig(wrapper='pmap'),
}


def config(parallel=None, accumulation=1, optimizer='adamw', **model):
    shape = {'vocab_size': VOCABULARY, 'context_length': LENGTH, 'num_layers': 2, 'width': 32, 'num_heads': 4}
    return Config(
        model=ModelConfig(**{**shape, 'num_kv_heads': 2, 'dropout': 0.1, **model}),
        data=DataConfig(sequence_length=LENGTH),
        objective=NextToken(z_loss=1e-3),
        optimizer=OPTIMIZERS[optimizer],
        schedule=Constant(warmup=5),
        training=TrainingConfig(batch_size=ROWS, accumulation=accumulation, ema_decay=0.9),
        parallel=parallel or ParallelConfig(),
    )


def batch(step):
    """Documents of unequal length, padding, masked targets; half of the rows have little to say."""
    draw = np.random.default_rng(step)
    ends = np.sort(draw.integers(1, LENGTH, (ROWS, 2)), axis=1)
    place = np.arange(LENGTH)[None]
    segments = 1 + (place >= ends[:, :1]) + (place >= ends[:, 1:]).astype(np.int32)
    segments = np.where(segments == 3, 0, segments).astype(np.int32)  # the last part is padding
    positions = np.where(segments == 2, place - ends[:, :1], place).astype(np.int32)
    weights = (draw.random((ROWS, LENGTH)) < 0.7) * (segments > 0)
    weights[: ROWS // 2, 2:] = 0
    tokens = (draw.integers(0, VOCABULARY, (ROWS, 1)) + np.arange(LENGTH + 1)).astype(np.int32) % VOCABULARY  # counting
    return {
        'inputs': tokens[:, :-1],
        'targets': tokens[:, 1:],
        'loss_weights': weights.astype(np.float32),
        'segment_ids': segments,
        'positions': positions * (segments > 0),
    }


def run(config, devices):
    """The losses, and the last state, of the config as a run resolves it."""
    config = runtime.resolve(config)
    mesh = mesh_lib.make_mesh(config.parallel, jax.devices()[:devices])
    mesh_lib.check_divides(config, mesh)
    abstract = abstract_state(config)
    placed = mesh_lib.with_shardings(mesh, abstract, abstract.params)
    step = TrainStep(config, mesh, placed)
    places = jax.tree.map(lambda leaf: leaf.sharding, placed)
    state = jax.jit(lambda: create_state(config, 0), out_shardings=places)()
    hyper = jax.device_put(hyperparameters(config), mesh_lib.replicated(mesh))
    losses = []
    for number in range(STEPS):
        state, metrics = step(state, step.place(batch(number)), hyper)
        total, weight = jax.device_get(metrics['loss'])
        losses.append(total / weight)
    return np.array(losses), state


@functools.cache
def alone(optimizer='adamw'):
    losses, state = run(config(optimizer=optimizer), devices=1)
    return losses, jax.device_get(state.params)


@pytest.mark.parametrize(
    'cut, accumulation',
    [
        *(pytest.param(cut, 1, marks=pytest.mark.slow) for cut in CUTS),
        pytest.param('data', 2, marks=pytest.mark.slow),
        ('all axes', 2),
        ('pmap', 2),
    ],
)
def test_one_curve(cut, accumulation):
    losses, state = run(config(CUTS[cut], accumulation), devices=8)
    np.testing.assert_allclose(losses, alone()[0], rtol=1e-5)
    assert losses[0] - losses[-1] > 0.5  # it learned something on the way


@pytest.mark.parametrize(
    'optimizer', ['adamw', *(pytest.param(name, marks=pytest.mark.slow) for name in ('adafactor', 'muon'))]
)
def test_optimizers_are_cut_as_their_parameters(optimizer):
    cut = config(CUTS['fsdp x tensor'], optimizer=optimizer)
    losses, state = run(cut, devices=8)
    np.testing.assert_allclose(losses, alone(optimizer)[0], rtol=1e-5)
    whole = {name: leaf.shape for name, leaf in named_leaves(state.params)}
    for tree in (state.params, state.ema, state.opt_state):
        for name, leaf in named_leaves(tree):
            own = next((n for n in whole if name.endswith(n) and whole[n] == leaf.shape), '')
            if own.endswith(('kernel', 'table')):
                assert leaf.sharding.shard_shape(leaf.shape) == cut_shape(leaf.shape, own), name


@pytest.mark.slow
def test_one_curve_of_a_model_wider_than_its_base():
    wide = {'parametrization': 'mup', 'base_width': 8, 'tied_embeddings': False}
    losses, _ = run(config(CUTS['fsdp x tensor'], **wide), devices=8)
    np.testing.assert_allclose(losses, run(config(**wide), devices=1)[0], rtol=1e-5)
    assert losses[0] - losses[-1] > 0.1


def cut_shape(shape, name):
    """With fsdp 4 x tensor 2, the part of a matrix on one device: an eighth, one axis of each."""
    parts = [{'fsdp': 4, 'tensor': 2, None: 1}[axis] for axis in axes.parameter_spec(name)]
    assert sorted(parts)[-2:] == [2, 4]
    return tuple(size // part for size, part in zip(shape, parts, strict=True))


def test_nothing_is_ever_whole():
    """The program that makes the state holds one eighth of it on each device, and no more on the way."""
    big = config(CUTS['fsdp x tensor'], width=256, num_heads=4, vocab_size=256)
    mesh = mesh_lib.make_mesh(big.parallel, jax.devices()[:8])
    abstract = abstract_state(big)
    places = mesh_lib.shardings(mesh, abstract, abstract.params)
    program = jax.jit(lambda: create_state(big, 0), out_shardings=places).lower().compile()
    memory = program.memory_analysis()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract))
    assert memory.output_size_in_bytes + memory.temp_size_in_bytes < size / 4


def test_only_what_must_travel_does():
    """Data parallelism adds up gradients and gathers nothing: no activation is sent from device to device."""
    cut = config(CUTS['data'])
    mesh = mesh_lib.make_mesh(cut.parallel, jax.devices()[:8])
    abstract = abstract_state(cut)
    placed = mesh_lib.with_shardings(mesh, abstract, abstract.params)
    step = TrainStep(cut, mesh, placed)
    program = step.lower(placed, step.place(batch(0)), hyperparameters(cut)).compile().as_text()
    assert ' all-reduce(' in program
    for operation in ('all-gather', 'all-to-all', 'collective-permute'):
        assert f' {operation}(' not in program, operation


def test_the_compiler_knows_its_options():
    """A CPU compiler takes the others' options and ignores them, but refuses a name that there is not."""
    for options in COMPILER_OPTIONS.values():
        assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match='No such compile option'):
        jax.jit(lambda x: x + 1, compiler_options={'xla_gpu_no_such_option': True})(1)
