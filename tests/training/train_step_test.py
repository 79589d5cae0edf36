"""One update: the same however the batch is cut, and pinned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import AdamW, Config, Constant, DataConfig, Lion, ModelConfig, Muon, TrainingConfig
from llm.training.train_state import create_state
from llm.training.train_step import hyperparameters, make_train_step


def config(**training):
    return Config(
        model=ModelConfig(vocab_size=32, context_length=12, num_layers=2, width=16, num_heads=2, dropout=0.1),
        data=DataConfig(sequence_length=12),
        optimizer=AdamW(learning_rate=1e-2),
        schedule=Constant(warmup=1),
        training=TrainingConfig(**{'batch_size': 8, 'ema_decay': 0.9, **training}),
    )


def batch(rows=8, length=12):
    """Two documents a row, unequal loss weights, padding."""
    draw = np.random.default_rng(0)
    segments = np.repeat([[1, 2, 0]], rows, 0).repeat([5, 4, length - 9], 1).astype(np.int32)
    weights = draw.integers(0, 2, (rows, length)).astype(np.float32) * (segments > 0)
    weights[: rows // 2, 3:] = 0  # the first half of the rows has far less to say
    return {
        'inputs': draw.integers(0, 32, (rows, length), dtype=np.int32),
        'targets': draw.integers(0, 32, (rows, length), dtype=np.int32),
        'loss_weights': weights,
        'segment_ids': segments,
        'positions': np.tile(np.r_[np.arange(5), np.arange(4), np.zeros(length - 9)], (rows, 1)).astype(np.int32),
    }


def run(config, steps=3, **kwargs):
    state = jax.jit(lambda: create_state(config, 0))()
    step = jax.jit(make_train_step(config, **kwargs))
    metrics = []
    for _ in range(steps):
        state, values = step(state, batch(), hyperparameters(config))
        metrics.append(jax.device_get(values))
    return state, metrics


@pytest.mark.parametrize('accumulation', [pytest.param(2, marks=pytest.mark.slow), 8])
def test_micro_batches_do_not_show(accumulation):
    """Unequal weights and dropout included: sums are added up, then divided once."""
    whole, metrics = run(config())
    cut, cut_metrics = run(config(accumulation=accumulation))
    for one, other in zip(metrics, cut_metrics):
        np.testing.assert_allclose(one['loss'][0] / one['loss'][1], other['loss'][0] / other['loss'][1], rtol=1e-5)
        np.testing.assert_allclose(one['grad_norm'][0], other['grad_norm'][0], rtol=1e-4)
    chex = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)
    jax.tree.map(chex, whole.params, cut.params)


def test_golden_step():
    """Pinned on the day it was written. Update the numbers only when a change of the model, the initialiser, the
    objective or the optimizer was meant to change training, and say so in the commit."""
    _, metrics = run(config())
    loss = [m['loss'][0] / m['loss'][1] for m in metrics]
    np.testing.assert_allclose(loss, GOLDEN_LOSS, rtol=1e-4)
    np.testing.assert_allclose([m['grad_norm'][0] for m in metrics], GOLDEN_GRAD_NORM, rtol=1e-3)


GOLDEN_LOSS = [3.4780214, 3.3995972, 3.3177347]
GOLDEN_GRAD_NORM = [1.6224925, 1.2431682, 1.5640721]


def test_the_average_follows_its_definition():
    changed = config()
    state = jax.jit(lambda: create_state(changed, 0))()
    step = jax.jit(make_train_step(changed))
    expected = state.params
    for _ in range(3):
        state, _ = step(state, batch(), hyperparameters(changed))
        expected = jax.tree.map(lambda e, p: 0.9 * e + 0.1 * p, expected, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected)


def test_clipping_bounds_the_step():
    free, tight = config(clip_norm=None), config(clip_norm=1e-9)
    tight = dataclasses.replace(tight, optimizer=dataclasses.replace(tight.optimizer, epsilon=1e-3, weight_decay=0.0))
    assert run(free, 1)[1][0]['update_norm'][0] > 0.1
    assert run(tight, 1)[1][0]['update_norm'][0] < 1e-4


@pytest.mark.parametrize(
    'optimizer', [pytest.param(AdamW(), marks=pytest.mark.slow), pytest.param(Lion(), marks=pytest.mark.slow), Muon()]
)
def test_numbers_are_arguments_not_constants(optimizer):
    """Changing learning rate, decay or seed compiles nothing."""
    changed = dataclasses.replace(config(), optimizer=optimizer)
    traces = []
    make = make_train_step(changed)
    step = jax.jit(lambda *args: traces.append(1) or make(*args))
    state = jax.jit(lambda: create_state(changed, 0))()
    results = []
    for factor in (1.0, 0.5):
        hyper = hyperparameters(changed)
        hyper['optimizer'] = {name: value * factor for name, value in hyper['optimizer'].items()}
        results.append(step(state, batch(), hyper)[0].params['embedding']['table'])
    assert len(traces) == 1 and not jnp.array_equal(*results)


def test_norms_of_every_tensor_by_a_switch():
    _, metrics = run(config(), 1, per_layer=True)
    per_tensor = {name: value[0] for name, value in metrics[0].items() if name.startswith('grad_norm/')}
    total = np.sqrt(sum(np.sum(np.square(value)) for value in per_tensor.values()))
    np.testing.assert_allclose(total, metrics[0]['grad_norm'][0], rtol=1e-5)
    assert per_tensor['grad_norm/blocks/attention/query/kernel'].shape == (2,)
