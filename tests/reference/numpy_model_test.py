"""The NumPy model is itself checked: against PyTorch's values (fixtures/make_torch_layers.py) and published numbers."""

import pathlib

import numpy as np
import numpy.testing as npt
import pytest
from reference import numpy_model as ref

from llm.config import ModelConfig


@pytest.fixture(scope='module')
def torch():
    return np.load(pathlib.Path(__file__).parents[1] / 'fixtures' / 'torch_layers.npz')


def assert_close(actual, expected):
    npt.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_normalisations_and_activations_equal_torch(torch):
    x, scale, bias = torch['x'], torch['scale'], torch['bias']
    assert_close(ref.rms_norm(x, scale, 1e-3), torch['rms_norm'])
    assert_close(ref.layer_norm(x, scale, 1e-3, bias), torch['layer_norm'])
    assert_close(ref.gelu(x), torch['gelu'])
    assert_close(ref.silu(x), torch['silu'])


def test_attention_equals_torch(torch):
    q, k, v = torch['q'], torch['k'], torch['v']
    mask = ref.attention_mask(np.ones((2, 6), int), None)
    assert_close(ref.attention(q, k, v, mask, 0.5), torch['causal_attention'])
    assert_close(ref.attention(q, k, v, mask, 0.7, bias=torch['attention_bias']), torch['biased_attention'])


def test_loss_equals_torch(torch):
    logits, targets = torch['logits'], torch['targets']
    weights = np.array([1.0, 0.0, 2.0, 1.0, 0.5])

    def check(expected, **options):
        total, weight = ref.next_token_loss(logits, targets, weights, **options)
        assert_close((total, weight), ((weights * expected).sum(), 4.5))

    check(torch['cross_entropy'])
    check(torch['smoothed_cross_entropy'], label_smoothing=0.1)
    check(torch['cross_entropy'] + 0.01 * torch['log_z'] ** 2, z_loss=0.01)


@pytest.mark.parametrize('placement', ['pre', 'post'])
def test_whole_model_equals_torch(torch, placement):
    biases = ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm')
    config = ModelConfig(
        vocab_size=11,
        num_layers=2,
        width=8,
        num_heads=2,
        feed_forward_width=12,
        activation='gelu',
        position='none',
        norm='layernorm',
        norm_placement=placement,
        norm_epsilon=1e-3,
        biases=biases,
    )
    params = ref.map_leaves(lambda path, _: torch['/'.join(('model', *path))], ref.parameter_shapes(config))
    assert_close(ref.forward(params, config, torch['model/tokens']), torch[f'model_logits_{placement}'])


def test_mask_by_hand():
    segments = np.array([[1, 1, 1, 2, 2, 0]])
    whole = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    npt.assert_array_equal(ref.attention_mask(segments, None)[0], whole)
    windowed = [*whole[:2], [0, 1, 1, 0, 0, 0], *whole[3:]]
    npt.assert_array_equal(ref.attention_mask(segments, 2)[0], windowed)
    npt.assert_array_equal(ref.attention_mask(segments, 1)[0], np.eye(6))


def test_rope_is_multiplication_by_a_complex_phase():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 6))
    positions = np.array([[0, 1, 2, 3, 4], [0, 1, 0, 1, 2]])
    phase = np.exp(1j * positions[..., None, None] * np.array([1.0, 100 ** (-1 / 3), 100 ** (-2 / 3)]))
    turned = (x[..., :3] + 1j * x[..., 3:]) * phase
    assert_close(ref.rope(x, positions, 100.0), np.concatenate([turned.real, turned.imag], axis=-1))


def test_sinusoids_by_hand():
    expected = [np.sin(3), np.cos(3), np.sin(0.03), np.cos(0.03)]
    assert_close(ref.sinusoids(np.array([[3]]), 4), [[expected]])


def test_alibi_slopes_are_the_published_ones():
    eight = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert_close(ref.alibi_slopes(8), eight)
    assert_close(ref.alibi_slopes(1), [1 / 256])
    # For 12 heads: those of 8 heads, then the first, third, fifth and seventh of 16 heads.
    assert_close(ref.alibi_slopes(12), [*eight, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])
