"""What a CPU computes in its own way: norms, activations and joined products, against the plain way."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import ModelConfig
from llm.model import Transformer, feed_forward, linear, norms

CONFIG = ModelConfig(vocab_size=32, context_length=16, num_layers=2, width=16, num_heads=4, num_kv_heads=2)
PLACES = (linear, feed_forward, norms)


def plain(monkeypatch):
    for module in PLACES:
        monkeypatch.setattr(module, 'row_major_products', lambda: False)


def loss_and_gradients(config, params):
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (2, 16)), jnp.int32)

    def loss(params):
        logits = Transformer(config).apply({'params': params}, tokens).logits
        return jnp.mean(jax.nn.logsumexp(logits, -1) - logits[..., 0])

    return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
    'values',
    [
        {'activation': 'gelu', 'norm': 'layernorm'},
        pytest.param({'activation': 'relu'}, marks=pytest.mark.slow),
        pytest.param({'activation': 'relu2', 'qk_norm': True}, marks=pytest.mark.slow),
        {'activation': 'swiglu', 'norm_unit_offset': True},
        pytest.param(
            {'activation': 'geglu', 'biases': ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm')},
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda values: values['activation'],
)
def test_the_fast_ways_equal_the_plain_ones(values, monkeypatch):
    config = dataclasses.replace(CONFIG, **values)
    params = Transformer(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    noise = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + 0.1 * noise.normal(size=x.shape).astype(np.float32), params)
    fast = loss_and_gradients(config, params)
    plain(monkeypatch)
    exact = loss_and_gradients(config, params)
    assert jax.tree.structure(fast) == jax.tree.structure(exact)
    for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(exact)):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize('activation', ['gelu', 'gelu_exact', 'relu', 'relu2', 'swiglu', 'geglu', 'geglu_exact'])
def test_written_out_slopes_are_the_derivatives(activation):
    with jax.enable_x64(True):  # the formula is meant: where tanh is nearly -1, float32 alone can be off by 1e-6
        x = jnp.asarray(np.random.default_rng(0).normal(size=(64,)) * 3, jnp.float64)
        value, slope = feed_forward._value_and_slope(activation, x)
        expected = jax.vjp(feed_forward.ACTIVATIONS[activation], x)
        np.testing.assert_allclose(value, expected[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(slope, expected[1](jnp.ones_like(x))[0], rtol=1e-5, atol=1e-6)


def test_bfloat16_costs_bfloat16_digits(monkeypatch):
    """Operands of 8 bits: the loss and every gradient (relative to its norm) agree with float32 to a few of 2^-8."""
    config = dataclasses.replace(CONFIG, activation='gelu', norm='layernorm')
    params = Transformer(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    half = loss_and_gradients(dataclasses.replace(config, compute_dtype='bfloat16'), params)
    plain(monkeypatch)
    exact = loss_and_gradients(config, params)
    assert abs(float(half[0] - exact[0])) < 2**-8 * float(exact[0])
    for one, other in zip(jax.tree.leaves(half[1]), jax.tree.leaves(exact[1])):
        assert float(jnp.linalg.norm(one - other)) < 2**-5 * float(jnp.linalg.norm(other))
