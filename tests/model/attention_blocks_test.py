"""Attention in blocks equals the formula, there and back, whatever the blocks, heads, documents, windows and caps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from llm.model import attention_blocks, attention_reference

SETTINGS = {'scale': 0.3, 'window': None, 'softcap': None}


def make(kv_heads=2, length=11, dtype=jnp.float32):
    random = np.random.default_rng(0)
    draw = lambda heads: jnp.asarray(random.normal(size=(2, heads, length, 8)), dtype)
    return draw(4), draw(kv_heads), draw(kv_heads), draw(4)


def documents(length=11):
    return jnp.asarray([[1] * 4 + [2] * 3 + [3] * (length - 7), [1] * (length - 2) + [0] * 2], jnp.int32)


def both_ways(attend, arrays, **settings):
    @jax.jit
    def there_and_back(query, key, value, cotangent):
        mixed, pull = jax.vjp(lambda *args: attend(*args, **settings), query, key, value)
        return mixed, *pull(cotangent)

    return there_and_back(*arrays)


@pytest.mark.parametrize(
    'block, kv_heads',
    [*(pytest.param(*one, marks=pytest.mark.slow) for one in ((1, 2), (4, 2), (64, 2))), (4, 1), (11, 4)],
)
@pytest.mark.parametrize('segmented', [False, True])
@pytest.mark.parametrize('settings', [{}, {'window': 3}, {'softcap': 0.8}, {'window': 5, 'softcap': 2.0}])
def test_equals_the_reference(block, kv_heads, segmented, settings):
    *arrays, cotangent = make(kv_heads)
    segment_ids = documents() if segmented else None
    if segmented:  # what padding gets is nobody's business
        cotangent = cotangent * (segment_ids > 0)[:, None, :, None]
    settings = SETTINGS | settings | {'segment_ids': segment_ids, 'dtype': jnp.dtype('float32')}
    arrays = (*arrays, cotangent)
    expected = both_ways(attention_reference.attend, arrays, **settings)
    got = both_ways(attention_blocks.attend, arrays, **settings, block=block)
    real = 1 if segment_ids is None else (segment_ids > 0)[:, None, :, None]
    np.testing.assert_allclose(got[0] * real, expected[0] * real, rtol=1e-5, atol=1e-5)
    for one, other in zip(got[1:], expected[1:]):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('window', [None, 6])
def test_bfloat16_operands_cost_bfloat16_digits(window):
    """Each operand has 8 bits, so its relative error is up to 2^-9; a few of them add up to less than 2^-6 of the
    largest entry."""
    arrays = make(length=64)
    settings = SETTINGS | {'segment_ids': None, 'window': window}
    exact = both_ways(attention_reference.attend, arrays, **settings, dtype=jnp.dtype('float32'))
    got = both_ways(attention_blocks.attend, arrays, **settings, dtype=jnp.dtype('bfloat16'), block=16)
    for one, other in zip(got, exact):
        assert float(jnp.max(jnp.abs(one - other))) < 2**-6 * float(jnp.max(jnp.abs(other)))


def test_gradients_are_those_of_the_function():
    *arrays, _ = make(length=6)
    settings = SETTINGS | {'segment_ids': documents(9)[:, 3:], 'softcap': 1.5, 'dtype': jnp.dtype('float32')}
    attend = lambda *args: attention_blocks.attend(*map(jnp.asarray, args), **settings, block=4)
    check_grads(attend, arrays, order=1, modes=['rev'], atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize('position', [0, 3, 4, 9])
def test_no_position_sees_a_later_one(position):
    *arrays, _ = make()
    settings = SETTINGS | {'segment_ids': None, 'dtype': jnp.dtype('float32')}
    of_one = lambda *args: jnp.sum(attention_blocks.attend(*args, **settings, block=4)[:, :, position])
    for gradient in jax.grad(of_one, argnums=(0, 1, 2))(*arrays):
        assert bool(jnp.all(gradient[:, :, position + 1 :] == 0))


def test_large_scores_do_not_overflow():
    query, key, value, cotangent = make()
    arrays = (query * 1e3, key * 1e3, value, cotangent)
    settings = SETTINGS | {'segment_ids': None, 'dtype': jnp.dtype('float32')}
    for array in both_ways(attention_blocks.attend, arrays, **settings, block=4):
        assert bool(jnp.all(jnp.isfinite(array)))
