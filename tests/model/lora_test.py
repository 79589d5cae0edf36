"""Adapters: what they change, what they leave alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import LoRAConfig, ModelConfig
from llm.errors import UserError
from llm.model.lora import combine, init_adapters
from llm.model.transformer import Transformer
from llm.tree import named_leaves

CONFIG = LoRAConfig(rank=2, alpha=6.0)


@pytest.fixture(scope='module')
def model():
    return Transformer(ModelConfig(vocab_size=24, context_length=8, num_layers=3, width=8, num_heads=2))


@pytest.fixture(scope='module')
def base(model):
    return model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']


@pytest.fixture(scope='module')
def adapters(base):
    """With a B that is not zero."""
    made = init_adapters(base, CONFIG, jax.random.key(1))
    return jax.tree.map(lambda x: x + jnp.float32(0.1), made)


def test_adapters_stand_beside_their_kernels(base):
    kernels = dict(named_leaves(base))
    made = named_leaves(init_adapters(base, LoRAConfig(rank=2, targets=('query', 'down')), jax.random.key(1)))
    assert [name for name, _ in made] == [
        f'blocks/{matrix}/lora_{letter}' for matrix in ('attention/query', 'feed_forward/down') for letter in 'ab'
    ]
    for name, leaf in made:
        layers, inner, outer = kernels[name.rpartition('/')[0] + '/kernel'].shape
        assert leaf.shape == ((layers, inner, 2) if name.endswith('a') else (layers, 2, outer))


def test_new_adapters_change_nothing_to_the_bit(base):
    made = init_adapters(base, CONFIG, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, combine(base, made, CONFIG), base)
    # They are no dead end either: A is not zero, so B has a gradient.
    assert all(jnp.any(leaf != 0) for name, leaf in named_leaves(made) if name.endswith('lora_a'))


def test_an_adapter_starts_the_same_whatever_other_targets_there_are(base):
    few, many = (
        init_adapters(base, LoRAConfig(rank=2, targets=targets), jax.random.key(1))
        for targets in (('value',), ('query', 'value', 'up'))
    )
    value, query = (many['blocks']['attention'][name]['lora_a'] for name in ('value', 'query'))
    np.testing.assert_array_equal(few['blocks']['attention']['value']['lora_a'], value)
    assert not np.allclose(value, query)


def test_the_sum_is_that_of_the_paper(base, adapters):
    combined = combine(base, adapters, CONFIG)
    own = adapters['blocks']['attention']['output']
    for layer in range(3):
        update = np.asarray(own['lora_a'][layer], np.float64) @ np.asarray(own['lora_b'][layer], np.float64)
        expected = np.asarray(base['blocks']['attention']['output']['kernel'][layer], np.float64) + 6.0 / 2 * update
        np.testing.assert_allclose(combined['blocks']['attention']['output']['kernel'][layer], expected, atol=1e-6)
    for name, leaf in named_leaves(base):
        if not name.startswith('blocks') or 'norm' in name:
            np.testing.assert_array_equal(dict(named_leaves(combined))[name], leaf)
    assert jax.tree.structure(combined) == jax.tree.structure(base)


def test_the_adapted_model_reads_w_x_plus_the_low_rank_path(model, base, adapters):
    """The combined kernel does what a parallel path through A and B does: seen on one layer's query."""
    x = jax.random.normal(jax.random.key(2), (5, 8))
    own = jax.tree.map(lambda leaf: leaf[1], adapters['blocks']['attention']['query'])
    kernel = base['blocks']['attention']['query']['kernel'][1]
    combined = combine(base, adapters, CONFIG)['blocks']['attention']['query']['kernel'][1]
    np.testing.assert_allclose(x @ combined, x @ kernel + 3.0 * ((x @ own['lora_a']) @ own['lora_b']), atol=1e-5)


def test_gradients_reach_adapters_and_heads_and_stop_there(model, base, adapters):
    params = adapters | {'reward_head': {'kernel': jnp.ones((8, 1))}}
    tokens = jax.random.randint(jax.random.key(3), (2, 8), 0, 24)

    def loss(params, base):
        combined = combine(base, params, CONFIG)
        trunk = {name: leaf for name, leaf in combined.items() if name != 'reward_head'}
        hidden = model.apply({'params': trunk}, tokens, with_logits=False).hidden
        return jnp.sum(hidden @ combined['reward_head']['kernel'])

    gradients = jax.grad(loss)(params, base)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    assert all(jnp.any(leaf != 0) for _, leaf in named_leaves(gradients))


def test_rank_0_is_the_whole_model(base):
    assert combine(None, base, LoRAConfig()) is base
    with pytest.raises(ValueError, match=r'lora\.rank is 0'):
        init_adapters(base, LoRAConfig(), jax.random.key(0))


def test_shapes_alone_are_enough_and_types_are_kept(base):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
    shapes = jax.eval_shape(lambda: init_adapters(half, CONFIG, jax.random.key(1)))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype('bfloat16')}
    merged = jax.eval_shape(lambda: combine(half, init_adapters(half, CONFIG, jax.random.key(1)), CONFIG))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), merged) == jax.tree.map(lambda x: (x.shape, x.dtype), half)


def test_targets_that_no_matrix_has_are_refused(base):
    plain = Transformer(ModelConfig(vocab_size=24, context_length=8, num_layers=1, width=8, num_heads=2))
    plain = Transformer(dataclasses.replace(plain.config, activation='gelu'))
    shapes = jax.eval_shape(plain.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    with pytest.raises(UserError, match=r'lora\.targets gate name no matrix of this model'):
        init_adapters(shapes, LoRAConfig(rank=1, targets=('gate',)), jax.random.key(0))
