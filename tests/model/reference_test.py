"""The model equals the NumPy one (tests/reference), option by option: its logits, and the gradients of its loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from reference import numpy_model as ref

from llm.config import ModelConfig, NextToken
from llm.model.transformer import Transformer
from llm.objectives import next_token

SMALL = ModelConfig(vocab_size=13, context_length=12, num_layers=2, width=16, num_heads=4, feed_forward_width=24)
ALL_BIASES = ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm')
GPT2 = {'position': 'learned', 'norm': 'layernorm', 'activation': 'gelu', 'biases': ALL_BIASES}
GEMMA2 = {
    'activation': 'geglu',
    'norm_placement': 'both',
    'norm_unit_offset': True,
    'embedding_scale': 4.0,
    'num_kv_heads': 2,
    'head_dim': 6,
    'attention_scale': 0.3,
    'attention_softcap': 2.0,
    'logit_softcap': 3.0,
    'windows': (3, None),
}
EVERYTHING = GEMMA2 | {
    'biases': (*ALL_BIASES, 'lm_head'),
    'tied_embeddings': False,
    'qk_norm': True,
    'embedding_norm': True,
    'norm': 'layernorm',
}
TURNS = {'rope_factor': 4.0, 'rope_original_context': 20, 'rope_slow_turns': 0.3, 'rope_fast_turns': 2.0}
CASES = {
    'llama': {},
    'gpt2': GPT2,
    'gemma2': GEMMA2,
    'everything': EVERYTHING,
    'everything_post': EVERYTHING | {'norm_placement': 'post'},
    'original_transformer': GPT2 | {'position': 'sinusoidal', 'activation': 'relu', 'norm_placement': 'post'},
    'bloom': GPT2 | {'position': 'alibi', 'embedding_norm': True},
    'one_layer_one_head_no_position': {'num_layers': 1, 'num_heads': 1, 'position': 'none'},
    'multi_query': {'num_kv_heads': 1},
    'default_feed_forward_width': {'feed_forward_width': None, 'width': 8, 'activation': 'relu'},
    'attention_only': {'feed_forward_width': 0, 'norm_placement': 'both'},
    'relu2': {'activation': 'relu2'},
    'sinusoidal_odd_width': {'position': 'sinusoidal', 'width': 15, 'num_heads': 3},
    'alibi': {'position': 'alibi'},
    'alibi_six_heads_softcap': {'position': 'alibi', 'num_heads': 6, 'width': 12, 'attention_softcap': 1.0},
    'rope_base': {'rope_base': 20.0},
    'rope_linear': {'rope_scaling': 'linear', 'rope_factor': 4.0},
    'rope_llama3': {'rope_scaling': 'llama3', 'head_dim': 10, 'rope_base': 50.0} | TURNS,
    'rope_yarn': {'rope_scaling': 'yarn', 'head_dim': 10, 'rope_base': 50.0} | TURNS,
    'rope_yarn_loud': {'rope_scaling': 'yarn', 'rope_amplitude': 0.7, 'rope_whole_pairs': False} | TURNS,
    'local_rope': {'local_rope_base': 5.0, 'windows': (3, None), 'rope_scaling': 'linear', 'rope_factor': 4.0},
    'local_rope_everywhere': {'local_rope_base': 5.0, 'windows': (3,)},
    'gelu_exact': {'activation': 'gelu_exact'},
    'geglu_exact': {'activation': 'geglu_exact'},
    'attention_softcap': {'attention_softcap': 0.5},
    'qk_norm_unit_offset': {'qk_norm': True, 'norm_unit_offset': True},
    'window_pattern': {'windows': (1, 4, None), 'num_layers': 5},
    'layernorm_unit_offset': {'norm': 'layernorm', 'norm_unit_offset': True, 'biases': ('norm',)},
    'rmsnorm_bias': {'biases': ('norm',)},
    'post_norm': {'norm_placement': 'post'},
    'norm_epsilon': {'norm_epsilon': 0.5, 'qk_norm': True, 'norm_placement': 'both'},
    'query_and_value_bias': {'biases': ('query', 'value')},
    'gated_bias': {'biases': ('feed_forward', 'attention_output')},
    'untied_bias': {'tied_embeddings': False, 'biases': ('lm_head',)},
    'embedding_scale_and_positions': {'embedding_scale': 3.0, 'position': 'learned', 'embedding_norm': True},
    'mup': {'parametrization': 'mup', 'base_width': 4},
    'mup_everything': EVERYTHING | {'parametrization': 'mup', 'base_width': 4, 'head_dim': None},
    'mup_more_heads': {'parametrization': 'mup', 'base_width': 8, 'head_dim': 6},
    'remat_dots': {'remat': 'dots'},
    'remat_full': {'remat': 'full'},
    'param_bfloat16': {'param_dtype': 'bfloat16'},
    'reference_attention': {'attention_backend': 'reference'},
}
# Fields that the logits of given parameters do not depend on.
START_OR_NOISE = {'dropout', 'init_std', 'init_kernel', 'init_output'}
# Fields that change the precision: compared with a tolerance of their own.
PRECISION = {'compute_dtype', 'logit_dtype'}
# Parts with references of their own: encoder_decoder_test.py and patches_test.py.
ELSEWHERE = {'encoder_layers', 'image_size', 'patch_size', 'image_channels', 'image_positions', 'image_attention'}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


def make_config(case):
    return dataclasses.replace(SMALL, **CASES[case])


def packed_rows(config):
    """A full row, a row of two documents and padding, a row that begins with a document of one token."""
    lengths = [[10], [4, 3], [1, 7, 2]]
    segment_ids, positions = np.zeros((3, 10), np.int32), np.zeros((3, 10), np.int32)
    for row, documents in enumerate(lengths):
        start = 0
        for number, length in enumerate(documents, start=1):
            segment_ids[row, start : start + length] = number
            positions[row, start : start + length] = np.arange(length)
            start += length
    tokens = np.random.default_rng(1).integers(config.vocab_size, size=(3, 10), dtype=np.int32)
    return tokens, segment_ids, positions


def to_jax(params, dtype=jnp.float32):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def to_numpy(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def both_logits(config, rows, seed=0):
    """(llm's, NumPy's) for the same parameters: NumPy reads them as they were rounded for llm."""
    params = to_jax(ref.random_parameters(config, seed), config.param_dtype)
    logits = jax.jit(Transformer(config).apply)({'params': params}, *rows).logits
    return np.asarray(logits, np.float64), ref.forward(to_numpy(params), config, *rows)


@pytest.mark.parametrize('case', CASES)
def test_logits_equal_numpy(case):
    config = make_config(case)
    tokens, segment_ids, positions = packed_rows(config)
    actual, expected = both_logits(config, (tokens, segment_ids, positions))
    real = segment_ids > 0
    npt.assert_allclose(actual[real], expected[real], rtol=0, atol=2e-5)
    assert expected[real].std() > 0.3  # a comparison of zeros would prove nothing


@pytest.mark.parametrize('case', ['llama', 'gpt2', 'alibi', 'original_transformer', 'window_pattern'])
def test_logits_without_segments_equal_numpy(case):
    config = make_config(case)
    actual, expected = both_logits(config, packed_rows(config)[:1])
    npt.assert_allclose(actual, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    'dtypes, tolerance',
    [
        # Logits of size about 3 rounded to 8 bits; then errors that pass through two layers.
        ({'logit_dtype': 'bfloat16'}, 2**-5),
        ({'compute_dtype': 'bfloat16'}, 0.15),
        ({'compute_dtype': 'float16'}, 0.02),
    ],
)
def test_lower_precision_stays_near_numpy(dtypes, tolerance):
    config = dataclasses.replace(make_config('everything'), **dtypes)
    tokens, segment_ids, positions = packed_rows(config)
    actual, expected = both_logits(config, (tokens, segment_ids, positions))
    error = np.abs(actual - expected)[segment_ids > 0].max()
    assert 2e-5 < error < tolerance


@pytest.mark.parametrize('case', ['everything', 'alibi_six_heads_softcap', 'original_transformer'])
def test_float64_logits_equal_numpy(case):
    config = dataclasses.replace(
        make_config(case), param_dtype='float64', compute_dtype='float64', logit_dtype='float64'
    )
    tokens, segment_ids, positions = packed_rows(config)
    with jax.enable_x64(True):
        actual, expected = both_logits(config, (tokens, segment_ids, positions))
    npt.assert_allclose(actual[segment_ids > 0], expected[segment_ids > 0], rtol=0, atol=1e-11)


@pytest.mark.parametrize('case', ['llama', 'gpt2', 'everything', 'untied_bias'])
def test_parameters_have_the_pinned_names_and_shapes(case):
    config = make_config(case)
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)['params']
    assert jax.tree.map(lambda leaf: leaf.shape, params) == ref.parameter_shapes(config)


def test_every_field_is_compared():
    fields = {field.name for field in dataclasses.fields(ModelConfig)} - START_OR_NOISE - PRECISION - ELSEWHERE
    defaults = ModelConfig()
    compared = {
        name for name in fields for case in CASES if getattr(make_config(case), name) != getattr(defaults, name)
    }
    assert compared == fields, f'add cases to CASES (and code to tests/reference) for {fields - compared}'


@pytest.mark.parametrize('case, chunk', [('everything', 4), ('gpt2', 0)])
def test_loss_and_gradients_equal_finite_differences(case, chunk):
    """Along random directions, one parameter array at a time: grad · d = (loss(p + h d) - loss(p - h d)) / 2h."""
    config = make_config(case)
    tokens, segment_ids, positions = packed_rows(config)
    rng = np.random.default_rng(2)
    targets = rng.integers(config.vocab_size, size=tokens.shape, dtype=np.int32)
    weights = ((segment_ids > 0) * rng.uniform(0.5, 1.5, size=tokens.shape)).astype(np.float32)
    objective = NextToken(label_smoothing=0.1, z_loss=0.05, vocabulary_chunk=chunk)
    batch = {'inputs': tokens, 'targets': targets, 'loss_weights': weights}
    batch = jax.tree.map(jnp.asarray, batch | {'segment_ids': segment_ids, 'positions': positions})

    def loss(params, hyper):
        total, weight, metrics = next_token.make_loss(objective, Transformer(config), hyper)(params, batch, None)
        return total, (weight, metrics['loss'])

    def numpy_loss(params, label_smoothing=0.1, z_loss=0.05):
        logits = ref.forward(params, config, tokens, segment_ids, positions)
        return ref.next_token_loss(logits, targets, weights.astype(np.float64), label_smoothing, z_loss)

    params = to_jax(ref.random_parameters(config, seed=3))
    exact, step = to_numpy(params), 1e-5
    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (total, (weight, plain)), gradients = value_and_grad(params, next_token.hyperparameters(objective))
    npt.assert_allclose((total, weight), numpy_loss(exact), rtol=1e-6)
    npt.assert_allclose(plain, numpy_loss(exact, 0.0, 0.0), rtol=1e-6)  # the metric has neither smoothing nor z-loss

    gradients = to_numpy(gradients)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(gradients)))

    def check(path, gradient):
        for _ in range(3):
            direction = rng.normal(size=gradient.shape)

            def shifted(h, path=path, direction=direction):
                moved = ref.map_leaves(lambda p, leaf: leaf + h * direction if p == path else leaf, exact)
                return numpy_loss(moved)[0]

            expected = (shifted(step) - shifted(-step)) / (2 * step)
            atol = 1e-5 * np.linalg.norm(gradient) + 1e-6 * norm  # some gradients are 0 (key bias without RoPE)
            npt.assert_allclose((gradient * direction).sum(), expected, rtol=1e-5, atol=atol, err_msg='/'.join(path))

    ref.map_leaves(check, gradients)
