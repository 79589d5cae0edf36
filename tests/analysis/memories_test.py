"""Neurons as memories: values are what the model really adds to its logits, triggers are where a neuron fires most."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.analysis import lens, memories
from llm.config import ModelConfig
from llm.errors import UserError
from llm.model import Transformer

BASE = ModelConfig(vocab_size=40, context_length=16, num_layers=2, width=16, num_heads=2, feed_forward_width=24)
STEP = 0.02  # of an activation, for a derivative
KINDS = {
    'pre': {},
    'post': {'norm_placement': 'post'},
    'both': {'norm_placement': 'both', 'norm_unit_offset': True, 'logit_softcap': 5.0},
    'layernorm': {'norm': 'layernorm', 'biases': ('norm', 'feed_forward', 'lm_head'), 'tied_embeddings': False},
}


def model(**changes):
    config = dataclasses.replace(BASE, **changes)
    params = jax.jit(Transformer(config).init)(jax.random.key(1), jnp.zeros((1, 4), jnp.int32))['params']
    random = np.random.default_rng(0)  # scales and biases that are not 1 and 0
    moved = lambda path, x: x + 0.3 * random.normal(size=x.shape).astype(x.dtype) if 'norm' in str(path) else x
    return config, jax.tree_util.tree_map_with_path(moved, params)


@pytest.mark.parametrize('kind', [pytest.param('pre', marks=pytest.mark.slow), 'post', 'both', 'layernorm'])
def test_a_value_is_the_direction_in_which_its_neuron_moves_the_logits(kind):
    """In the last layer, where nothing comes after: along the derivative of the logits by the neuron's activation, but
    for what a norm's division adds, which is in the direction of the normalised stream."""
    config, params = model(**KINDS[kind])
    config = dataclasses.replace(config, logit_softcap=None)
    tokens = np.array([[3, 1, 4, 1, 5]])

    sites = ('residual_between', 'feed_forward_output', 'residual_after')

    def look(amount):
        bump = jnp.zeros((2, 1, 1, 24)).at[1, 0, 0, 7].set(amount)
        return lens.run(params, config, tokens, sites, {'neurons': lens.Edit(jnp.ones((2, 1, 1, 1)), bump)})

    more, less = (np.asarray(look(amount).logits[0, -1], np.float64) for amount in (STEP, -STEP))
    slope = (more - less) / (2 * STEP)
    activations = look(0.0).activations
    between, added, after = (activations[site][1, 0, -1] for site in sites)
    read_out = lambda direction: np.asarray(memories.read_out(params, config, direction), np.float64)
    ours = read_out(memories.value_rows(params, config, 1)[7])
    # A division by the size of x takes off a part along x, as it is after the same scales.
    divided = [read_out(after)]
    if kind == 'both':
        divided.append(read_out(added))
    if kind == 'post':
        divided.append(read_out((between + added) * params['blocks']['feed_forward_norm']['scale'][1]))
    basis = np.stack([ours, *divided], axis=1)
    factors = np.linalg.lstsq(basis, slope, rcond=None)[0]
    np.testing.assert_allclose(basis @ factors, slope, atol=1e-3 * np.abs(slope).max())
    assert factors[0] > 0


def test_behind_an_encoder_the_stream_passes_one_more_norm():
    config, params = model(norm_placement='post')
    norm = {'cross_attention_norm': {'scale': jnp.full((2, 16), 3.0)}}
    tripled = params | {'blocks': params['blocks'] | norm}
    for layer, factor in ((0, 3), (1, 1)):
        plain, after = (memories.value_rows(each, config, layer) for each in (params, tripled))
        np.testing.assert_allclose(after, factor * plain, rtol=1e-6)


def test_promoted_and_suppressed_are_the_ends_of_the_read_out():
    config, params = model()
    logits = np.asarray(memories.read_out(params, config, memories.value_rows(params, config, 0)))
    ids, values = memories.promoted(params, config, 0, [5, 20], n=3)
    low_ids, low_values = memories.suppressed(params, config, 0, [5, 20], n=3)
    for i, neuron in enumerate((5, 20)):
        order = np.argsort(-logits[neuron])
        np.testing.assert_array_equal(ids[i], order[:3])
        np.testing.assert_array_equal(low_ids[i], order[::-1][:3])
        np.testing.assert_allclose(values[i], logits[neuron, order[:3]], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(low_values[i], logits[neuron, order[::-1][:3]], rtol=1e-4, atol=1e-6)


def test_what_is_not_there_is_one_line():
    config, params = model()
    for layer, neurons, line in ((2, [0], 'no layer 2'), (-1, [0], 'no layer -1'), (0, [24], 'no neuron 24')):
        with pytest.raises(UserError, match=line):
            memories.promoted(params, config, layer, neurons)
    without = {name: x for name, x in params['blocks'].items() if name != 'feed_forward'}
    with pytest.raises(UserError, match='no feed-forward'):
        memories.promoted(params | {'blocks': without}, config, 0, [0])


def test_triggers_are_the_strongest_places_however_the_rows_are_dealt():
    random = np.random.default_rng(0)
    neurons = random.normal(size=(2, 9, 6, 5)).astype(np.float32)
    neurons[1, :, :, 3] = -1  # a neuron that never fires
    real = random.random((9, 6)) < 0.7
    by_row = np.where(real[None, :, :, None], neurons, -np.inf).max(axis=2)
    for parts in ([9], [4, 5], [1] * 9):
        triggers = memories.Triggers(3)
        for start, size in zip(np.cumsum([0, *parts]), parts):
            triggers.add(neurons[:, start : start + size], real[start : start + size])
        for layer in range(2):
            for neuron in range(5):
                found = triggers.of(layer, neuron)
                expected = np.sort(by_row[layer, :, neuron])[::-1][:3]
                expected = expected[expected > 0]
                np.testing.assert_allclose([one.activation for one in found], expected)
                for one in found:
                    assert neurons[layer, one.row, one.position, neuron] == np.float32(one.activation)
                    assert real[one.row, one.position]
        assert triggers.of(1, 3) == []
        np.testing.assert_allclose(triggers.strongest()[0], by_row.max(axis=1))
