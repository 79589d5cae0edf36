"""The first weights depend on the seed and on each parameter's own path, and have the documented spread."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import ModelConfig
from llm.model import Transformer

SMALL = ModelConfig(vocab_size=11, context_length=8, num_layers=2, width=16, num_heads=4, feed_forward_width=24)
ALL_BIASES = ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm')


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


@functools.cache
def start(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """The first parameters by path."""
    init = lambda key: Transformer(config).init(key, jnp.zeros((1, 1), jnp.int32))['params']
    leaves = jax.tree_util.tree_leaves_with_path(jax.jit(init)(jax.random.key(seed)))
    return {'/'.join(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def small(**changes) -> dict[str, np.ndarray]:
    return start(dataclasses.replace(SMALL, **changes))


@pytest.mark.parametrize(
    'changes',
    [
        {'biases': ALL_BIASES},
        pytest.param({'qk_norm': True}, marks=pytest.mark.slow),
        pytest.param({'position': 'learned'}, marks=pytest.mark.slow),
        pytest.param({'tied_embeddings': False}, marks=pytest.mark.slow),
        {'tied_embeddings': False, 'biases': ('lm_head',)},
        pytest.param({'embedding_norm': True}, marks=pytest.mark.slow),
        {'norm_placement': 'both'},
        pytest.param({'activation': 'relu'}, marks=pytest.mark.slow),
        {'dropout': 0.5, 'remat': 'full'},
    ],
    ids=lambda changes: '+'.join(changes),
)
def test_adding_a_part_leaves_the_start_of_every_other_part_bit_equal(changes):
    plain, changed = small(), small(**changes)
    shared = plain.keys() & changed.keys()
    assert shared >= plain.keys() - {'blocks/feed_forward/gate/kernel'}
    for name in shared:
        npt.assert_array_equal(plain[name], changed[name], err_msg=name)


def test_parameters_of_one_shape_start_apart():
    """Two paths, or two layers, that drew from one key would be equal."""
    params = small(tied_embeddings=False, position='learned', feed_forward_width=16)
    drawn = {name: value for name, value in params.items() if not name.endswith('scale')}
    square = [layer for name, value in drawn.items() if name.startswith('blocks/') for layer in value]
    assert len(square) == 2 * 7
    for i, one in enumerate(square):
        for other in square[:i]:
            assert np.abs(one - other).max() > 0.1
    assert np.abs(drawn['embedding/table'][:8] - drawn['positions/table']).max() > 0.01
    assert np.corrcoef(drawn['embedding/table'].ravel(), drawn['lm_head/kernel'].T.ravel())[0, 1] < 0.5


def test_the_seed_decides_every_drawn_parameter():
    one, again, other = start(SMALL, 1), start(dataclasses.replace(SMALL), 1), start(SMALL, 2)
    for name, value in one.items():
        npt.assert_array_equal(value, again[name])
        if not name.endswith('scale'):
            assert not np.array_equal(value, other[name]), name


WIDE = dataclasses.replace(SMALL, vocab_size=97, width=64, num_heads=2, num_layers=3, feed_forward_width=96)


def spreads(**changes) -> dict[str, float]:
    """Standard deviations; about 3 x 64 x 64 draws and more, so 2% is many times their error."""
    params = start(dataclasses.replace(WIDE, **changes))
    for value in params.values():
        if value.std() > 0:
            assert abs(value.mean()) < 4 * value.std() / np.sqrt(value.size)
    return {name: float(value.std()) for name, value in params.items()}


INPUTS = [f'blocks/attention/{name}/kernel' for name in ('query', 'key', 'value')]
INPUTS += [f'blocks/feed_forward/{name}/kernel' for name in ('gate', 'up')]
OUTPUTS = {'blocks/attention/output/kernel': 64, 'blocks/feed_forward/down/kernel': 96}  # and what each sums over


def test_kernels_start_with_one_over_the_root_of_their_fan_in():
    std = spreads(init_output='plain', tied_embeddings=False)
    for name in [*INPUTS, 'lm_head/kernel']:
        npt.assert_allclose(std[name], 64**-0.5, rtol=0.03, err_msg=name)
    for name, fan_in in OUTPUTS.items():
        npt.assert_allclose(std[name], fan_in**-0.5, rtol=0.03, err_msg=name)


def test_kernels_start_with_init_std_when_normal():
    std = spreads(init_kernel='normal', init_std=0.3, init_output='plain', tied_embeddings=False, position='learned')
    for name in [*INPUTS, *OUTPUTS, 'lm_head/kernel', 'embedding/table']:
        npt.assert_allclose(std[name], 0.3, rtol=0.03, err_msg=name)
    npt.assert_allclose(std['positions/table'], 0.3, rtol=0.15)  # 8 x 64 draws


def test_embeddings_start_with_init_std():
    assert spreads(init_std=0.05)['embedding/table'] == pytest.approx(0.05, rel=0.03)
    assert spreads()['embedding/table'] == pytest.approx(0.02, rel=0.03)


def test_output_projections_are_scaled_down_by_depth():
    """By 1 / sqrt(2 layers), exactly: the draw is the same."""
    plain = start(dataclasses.replace(WIDE, init_output='plain'))
    scaled = start(dataclasses.replace(WIDE, init_output='depth_scaled'))
    for name, value in plain.items():
        factor = (2 * 3) ** -0.5 if name in OUTPUTS else 1
        npt.assert_allclose(scaled[name], value * factor, rtol=1e-5, err_msg=name)


def test_zero_output_projections_make_every_block_the_identity():
    config = dataclasses.replace(SMALL, init_output='zero')
    params = start(config)
    for name in OUTPUTS:
        assert not params[name].any()
    assert all(params[name].any() for name in INPUTS)
    tokens = jnp.arange(8)[None, :]
    tree = Transformer(config).init(jax.random.key(0), tokens)
    table = tree['params']['embedding']['table']
    _, captured = Transformer(config).apply(tree, tokens, mutable=['intermediates'])
    residual = np.asarray(captured['intermediates']['blocks']['residual_after'][0])
    for layer in residual:
        npt.assert_array_equal(layer[0], table[:8])


def test_scales_start_where_norms_do_nothing():
    for unit_offset, expected in ((False, 1), (True, 0)):
        params = small(norm_unit_offset=unit_offset, qk_norm=True, biases=ALL_BIASES)
        scales = [value for name, value in params.items() if name.endswith('scale')]
        assert len(scales) == 5
        assert all((value == expected).all() for value in scales)
        assert not any(value.any() for name, value in params.items() if name.endswith('bias'))


def test_parameters_are_stored_in_param_dtype():
    for dtype in ('float32', 'bfloat16', 'float16'):
        params = small(param_dtype=dtype, qk_norm=True, biases=ALL_BIASES, position='learned', tied_embeddings=False)
        assert {str(value.dtype) for value in params.values()} == {dtype}
