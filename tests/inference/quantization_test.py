"""Weights of few bits: what is exact stays exact, what is rounded stays within its step, and the model reads them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import ModelConfig
from llm.inference import prepared, quantization
from llm.inference.decode import Decoder
from llm.inference.quantization import FACTORS, GROUP, Int4Kernel, Int8Kernel
from llm.inference.sampling import SamplingParams
from llm.model.kernels import Kernel, Transposed
from llm.model.transformer import Transformer

CONFIG = ModelConfig()
KINDS = {'int8': Int8Kernel, 'int4': Int4Kernel}


def kernels(params):
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, Kernel))
    return [leaf for leaf in leaves if isinstance(leaf, Kernel)]


def dequantized(kernel):
    return np.asarray(kernel.rows(jnp.arange(kernel.outer)))


def random_kernel(outer=24, inner=96, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(outer, inner)) * np.exp(rng.normal(size=(outer, 1)))).astype(np.float32)


def test_four_bits_are_packed_and_unpacked_without_loss():
    values = np.random.default_rng(0).integers(-8, 8, (5, 128)).astype(np.int8)
    packed = quantization.pack(jnp.asarray(values))
    assert packed.shape == (5, 64) and packed.dtype == jnp.uint8
    np.testing.assert_array_equal(quantization.unpack(packed), values)


def test_weights_that_eight_bits_hold_stay_exact():
    rng = np.random.default_rng(1)
    values = rng.integers(-127, 128, (16, 40))
    values[:, 0] = 127
    kernel = (values * 2.0 ** rng.integers(-9, 3, (16, 1))).astype(np.float32)
    np.testing.assert_array_equal(dequantized(Int8Kernel.of(jnp.asarray(kernel))), kernel)


def test_weights_that_four_bits_hold_stay_exact():
    rng = np.random.default_rng(2)
    values, factors = rng.integers(-7, 8, (16, 4, GROUP)), rng.integers(1, FACTORS + 1, (16, 4, 1))
    values[:, 0, 0], factors[:, 0] = 7, FACTORS
    kernel = ((values * factors).reshape(16, -1) * 2.0 ** rng.integers(-9, 3, (16, 1))).astype(np.float32)
    np.testing.assert_allclose(dequantized(Int4Kernel.of(jnp.asarray(kernel))), kernel, rtol=1e-6)


@pytest.mark.parametrize('bits', KINDS)
@pytest.mark.parametrize('wrong', [np.nan, np.inf])
def test_what_is_not_finite_shows(bits, wrong):
    """Rounded to integers it would pass for a number, and wrong text for right."""
    kernel, x = random_kernel(), np.ones((2, 96), np.float32)
    x[1, 5] = wrong
    product = np.asarray(KINDS[bits].of(jnp.asarray(kernel)).multiply(jnp.asarray(x), CONFIG))
    assert np.isfinite(product[0]).all() and not np.isfinite(product[1]).any()
    kernel[3, 7] = wrong
    product = np.asarray(KINDS[bits].of(jnp.asarray(kernel)).multiply(jnp.asarray(x[:1]), CONFIG))
    assert np.flatnonzero(~np.isfinite(product[0])).tolist() == [3]


def test_what_is_prepared_is_not_prepared_again(tiny):
    model, params = tiny()
    once = prepared.ready(params, model.config, 'int8')
    assert prepared.ready(once, model.config) is once


def test_the_error_of_eight_bits_is_half_a_step_at_most():
    kernel = random_kernel()
    step = np.abs(kernel).max(axis=1, keepdims=True) / 127
    assert (np.abs(dequantized(Int8Kernel.of(jnp.asarray(kernel))) - kernel) <= 0.5 * step * (1 + 1e-5)).all()


def test_the_error_of_four_bits_is_no_larger_than_without_clipping():
    """Of each group: at most that of the smallest factor that reaches its largest weight, and less than one for all."""
    kernel = random_kernel()
    quantized = Int4Kernel.of(jnp.asarray(kernel))
    error = np.square(dequantized(quantized) - kernel).reshape(len(kernel), -1, GROUP).sum(axis=2)
    groups = kernel.reshape(len(kernel), -1, GROUP)
    scale = np.abs(kernel).max(axis=1)[:, None] / (7 * FACTORS)
    factor = np.clip(np.ceil(np.abs(groups).max(axis=2) / (7 * scale) - 1e-5), 1, FACTORS)
    step = (scale * factor)[:, :, None]
    plain = np.square(np.clip(np.round(groups / step), -7, 7) * step - groups).sum(axis=2)
    assert (error <= plain * (1 + 1e-4)).all()
    whole = np.square(np.round(groups / (15 * scale[:, :, None])) * 15 * scale[:, :, None] - groups).sum()
    assert error.sum() < whole


@pytest.mark.parametrize('kind', KINDS)
def test_products_are_those_of_the_rounded_weights(kind):
    """Activations lose next to nothing: 1e-4 of the largest term, where 8 bits would lose a hundred times that."""
    kernel = KINDS[kind].of(jnp.asarray(random_kernel(inner=100)))
    x = np.random.default_rng(3).normal(size=(2, 3, 100)).astype(np.float32) * [[[1.0]], [[1e-4]]]
    expected = x @ dequantized(kernel).T
    found = jax.jit(lambda x: kernel.multiply(x, CONFIG))(jnp.asarray(x, jnp.float32))
    for got, want in zip(found, expected):
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


@pytest.mark.parametrize('kind', KINDS)
def test_zeros_stay_zeros(kind):
    kernel = KINDS[kind].of(jnp.zeros((4, 64)))
    assert not dequantized(kernel).any()
    assert not np.asarray(kernel.multiply(jnp.zeros((1, 64)), CONFIG)).any()


@pytest.mark.parametrize(
    'changes',
    [
        {'tied_embeddings': False, 'biases': ('query', 'key', 'value', 'feed_forward', 'norm', 'lm_head')},
        {'activation': 'gelu', 'position': 'learned', 'qk_norm': True, 'num_kv_heads': 2, 'windows': (3, None)},
    ],
    ids=str,
)
def test_prepared_parameters_are_the_same_model(tiny, changes):
    model, params = tiny(**changes)
    params = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 24, (2, 12)))
    read = jax.jit(lambda params: model.apply({'params': params}, tokens).logits)
    made = prepared.ready(params, model.config)
    np.testing.assert_allclose(read(made), read(params), atol=2e-5, rtol=2e-5)
    assert prepared.is_prepared(made) and prepared.prepare(made, model.config) is made
    assert {type(kernel) for kernel in kernels(made)} == {Transposed}


@pytest.mark.parametrize(
    'kind, most, tied',
    [
        ('int8', 0.02, False),
        ('int4', 0.25, True),
        pytest.param('int8', 0.02, True, marks=pytest.mark.slow),
        pytest.param('int4', 0.25, False, marks=pytest.mark.slow),
    ],
)
def test_a_quantized_model_writes_and_is_smaller(tiny, kind, most, tied):
    model, params = tiny(tied_embeddings=tied, width=64, num_kv_heads=2)
    small = prepared.ready(params, model.config, kind)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 24, (2, 12)))
    exact, found = (np.asarray(model.apply({'params': p}, tokens).logits) for p in (params, small))
    assert 0 < np.abs(found - exact).max() < most * np.abs(exact).max()
    size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
    assert size(small) < size(params) * {'int8': 0.32, 'int4': 0.25}[kind]
    # The cached loop reads the same model as the forward pass does.
    decoder = Decoder(model, small, [[1, 5, 9]], [SamplingParams(seed=1)], max_new_tokens=8)
    (row,) = decoder.advance(8)
    ids = [1, 5, 9, *(token for token, _ in row)]
    logits = model.apply({'params': small}, jnp.asarray([ids[:-1]])).logits[0]
    expected = np.asarray(jax.nn.log_softmax(logits, axis=-1))[np.arange(2, 10), ids[3:]]
    np.testing.assert_allclose([p for _, p in row], expected, atol=2e-3)


def test_bfloat16_is_kept_once_and_looked_up_exactly():
    config = ModelConfig(vocab_size=24, context_length=8, num_layers=1, width=16, num_heads=2, compute_dtype='bfloat16')
    model = Transformer(config)
    params = model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    made = prepared.ready(params, config)
    assert {kernel.values.dtype for kernel in kernels(made)} == {jnp.dtype(jnp.bfloat16)}
    np.testing.assert_array_equal(made['embedding']['table'], params['embedding']['table'])
    tokens = jnp.asarray([[1, 5, 9, 2]])
    plain, found = (model.apply({'params': p}, tokens).logits for p in (params, made))
    np.testing.assert_allclose(found, plain, atol=1e-3)
