"""When a run counts as lost, and what is said about it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import DivergenceConfig
from llm.data.batches import TrainBatches
from llm.data.prepare import prepare
from llm.training.divergence import diagnose, divergence, merge
from llm.training.train_state import create_state

CONFIG = DivergenceConfig(window=5, z_score=4.0)
CALM = [3.0, 3.1, 2.9, 3.05, 2.95]  # mean 3, deviation 0.0707


def test_what_is_not_finite_is_lost():
    assert 'loss is nan' in divergence(CONFIG, float('nan'), 1.0, [])
    assert 'gradient is inf' in divergence(CONFIG, 3.0, float('inf'), CALM)


def test_the_limit_is_so_many_deviations_above_the_mean():
    deviation = np.std(CALM)
    assert divergence(CONFIG, 3.0 + 3.9 * deviation, 1.0, CALM) is None
    assert '4.1 deviations' in divergence(CONFIG, 3.0 + 4.1 * deviation, 1.0, CALM)
    assert divergence(CONFIG, 0.5, 1.0, CALM) is None, 'a loss that falls is no explosion'


def test_too_little_history_judges_nothing():
    assert divergence(CONFIG, 100.0, 1.0, CALM[:4]) is None


def test_a_loss_that_stood_still_may_wiggle():
    assert divergence(CONFIG, 3.0 + 1e-4, 1.0, [3.0] * 5) is None


@pytest.mark.parametrize(
    'ranges, new, expected',
    [
        ([], (3, 5), [[3, 5]]),
        ([[3, 5]], (5, 6), [[3, 6]]),
        ([[3, 5]], (4, 5), [[3, 5]]),
        ([[8, 9]], (3, 5), [[3, 5], [8, 9]]),
        ([[1, 3], [5, 7]], (2, 6), [[1, 7]]),
    ],
)
def test_ranges_join(ranges, new, expected):
    assert merge(ranges, new) == expected


def spoil(params, *path, layer=None):
    """Puts a NaN into one tensor."""
    params = jax.tree.map(jnp.array, params)
    node = params
    for key in path[:-1]:
        node = node[key]
    value = node[path[-1]]
    node[path[-1]] = value.at[(layer, 0) if layer is not None else 0].set(jnp.nan)
    return params


@pytest.mark.slow
def test_the_diagnosis_names_the_first_thing_that_is_not_finite(tiny):
    params = jax.jit(lambda: create_state(tiny, 0))().params
    batch = jax.tree.map(jnp.asarray, TrainBatches(tiny, prepare(tiny).train).batch(0))
    assert 'everything is finite' in diagnose(tiny, params, batch)
    whole_rows = {name: batch[name] for name in ('inputs', 'targets', 'loss_weights')}  # without document masking
    assert 'everything is finite' in diagnose(tiny, params, whole_rows)
    spoiled = spoil(params, 'blocks', 'feed_forward', 'up', 'kernel', layer=1)
    assert diagnose(tiny, spoiled, batch) == 'parameter blocks/feed_forward/up/kernel of layer 1 is not finite'
    huge = jax.tree.map(jnp.array, params)
    huge['blocks']['feed_forward']['down']['kernel'] = huge['blocks']['feed_forward']['down']['kernel'].at[1].set(3e38)
    assert 'output of layer 1' in diagnose(tiny, huge, batch)
    weights = batch | {'loss_weights': batch['loss_weights'] * np.nan}
    assert 'loss weights' in diagnose(tiny, params, weights)
