"""The loss is what its formula says, adds up over pieces, and is the same in chunks, at less memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import ModelConfig, NextToken
from llm.model import Transformer
from llm.objectives import next_token

SMALL = ModelConfig(vocab_size=13, context_length=8, num_layers=1, width=8, num_heads=2, feed_forward_width=16)
UNTIED = dataclasses.replace(SMALL, tied_embeddings=False, biases=('lm_head',), logit_softcap=2.0)
ALL_TERMS = {'z_loss': 0.1, 'label_smoothing': 0.2}
ROWS, LENGTH = 3, 8


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


@functools.cache
def random_params(model: ModelConfig):
    init = lambda: Transformer(model).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0.2, 0.5, leaf.shape), leaf.dtype), jax.eval_shape(init))


def random_batch(weights=None, seed: int = 0) -> dict:
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, SMALL.vocab_size, (ROWS, LENGTH + 1))
    if weights is None:
        weights = draw.integers(0, 2, (ROWS, LENGTH))
    return {
        'inputs': jnp.asarray(ids[:, :-1], jnp.int32),
        'targets': jnp.asarray(ids[:, 1:], jnp.int32),
        'loss_weights': jnp.asarray(weights, jnp.float32),
        'segment_ids': jnp.ones((ROWS, LENGTH), jnp.int32),
        'positions': jnp.asarray(np.tile(np.arange(LENGTH), (ROWS, 1)), jnp.int32),
    }


def loss_of(config: NextToken, model: ModelConfig = SMALL):
    return next_token.make_loss(config, Transformer(model), next_token.hyperparameters(config))


@functools.partial(jax.jit, static_argnums=(0, 1))
def value_and_gradient(config: NextToken, model: ModelConfig, params, batch):
    """Sum, (weight, metrics), gradient of the sum."""

    def summed(params):
        total, weight, metrics = loss_of(config, model)(params, batch, None)
        return total, (weight, metrics)

    (total, rest), gradient = jax.value_and_grad(summed, has_aux=True)(params)
    return total, rest, gradient


def by_definition(config: NextToken, model: ModelConfig, params, batch):
    """The sum, written with log-probabilities over the whole vocabulary and no chunks."""
    segments, positions = batch['segment_ids'], batch['positions']
    logits = Transformer(model).apply({'params': params}, batch['inputs'], segments, positions).logits
    log_p = jax.nn.log_softmax(logits)
    wanted = jax.nn.one_hot(batch['targets'], model.vocab_size)
    smoothed = (1 - config.label_smoothing) * wanted + config.label_smoothing / model.vocab_size
    each = -jnp.sum(smoothed * log_p, axis=-1) + config.z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return jnp.sum(each * batch['loss_weights'])


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: npt.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize('smoothing', [0.0, 0.3])
def test_uniform_logits_cost_log_v_a_token(smoothing):
    params = random_params(SMALL) | {'embedding': {'table': jnp.zeros((13, 8))}}
    batch = random_batch()
    total, weight, metrics = loss_of(NextToken(label_smoothing=smoothing))(params, batch, None)
    assert float(total / weight) == pytest.approx(np.log(13), rel=1e-6)
    assert float(metrics['loss'][0] / metrics['loss'][1]) == pytest.approx(np.log(13), rel=1e-6)
    # The z-loss of uniform logits is (log V)^2 a token, and is no part of the reported loss.
    total, weight, metrics = loss_of(NextToken(z_loss=0.5))(params, batch, None)
    assert float(total / weight) == pytest.approx(np.log(13) + 0.5 * np.log(13) ** 2, rel=1e-6)
    assert float(metrics['loss'][0] / metrics['loss'][1]) == pytest.approx(np.log(13), rel=1e-6)


def test_token_losses_of_logits_worked_out_by_hand():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]))
    hyper = next_token.hyperparameters(NextToken(label_smoothing=0.3, z_loss=2.0))
    minimised, nll, correct = next_token.token_losses(logits + 1.0, jnp.array([[0, 1]]), hyper)
    npt.assert_allclose(nll, -np.log([[0.5, 0.1]]), rtol=1e-6)
    uniform = -np.mean(np.log([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]), axis=-1)
    npt.assert_allclose(minimised, 0.7 * -np.log([[0.5, 0.1]]) + 0.3 * uniform + 2.0, rtol=1e-5)
    npt.assert_array_equal(correct, [[1, 0]])


def test_large_logits_neither_overflow_nor_lose_the_loss():
    hyper = next_token.hyperparameters(NextToken())
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        logits = jnp.array([[[30_000.0, 0.0, -30_000.0]] * 2], dtype)
        _, nll, _ = next_token.token_losses(logits, jnp.array([[0, 1]]), hyper)
        assert nll.dtype == jnp.float32
        assert nll[0, 0] == 0
        assert float(nll[0, 1]) == pytest.approx(30_000, rel=0.01)


@pytest.mark.parametrize('config', [NextToken(), NextToken(**ALL_TERMS), NextToken(vocabulary_chunk=3, **ALL_TERMS)])
def test_sums_of_micro_batches_add_up_to_the_batchs(config):
    """Weights differ between rows (one has none), so that a mean of means would be another number."""
    weights = np.array([[1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]])
    params, batch = random_params(SMALL), random_batch(weights)
    whole = value_and_gradient(config, SMALL, params, batch)
    pieces = [
        value_and_gradient(config, SMALL, params, {name: x[row : row + 1] for name, x in batch.items()})
        for row in range(ROWS)
    ]
    added = functools.reduce(lambda a, b: jax.tree.map(jnp.add, a, b), pieces)
    assert_trees_close(whole, added, rtol=1e-4, atol=1e-5)
    assert float(whole[1][0]) == 9
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(pieces[2][2]))


@pytest.mark.parametrize(
    'model, terms',
    [
        pytest.param(SMALL, {}, id='tied-plain'),
        pytest.param(UNTIED, ALL_TERMS, id='untied-all_terms'),
        pytest.param(UNTIED, {}, id='untied-plain', marks=pytest.mark.slow),
        pytest.param(SMALL, ALL_TERMS, id='tied-all_terms', marks=pytest.mark.slow),
    ],
)
def test_loss_and_gradient_equal_the_definition_in_chunks_of_any_size(model, terms):
    params, batch = random_params(model), random_batch()
    definition = jax.jit(jax.value_and_grad(functools.partial(by_definition, NextToken(**terms), model)))
    expected, expected_gradient = definition(params, batch)
    _, plain_rest, _ = value_and_gradient(NextToken(**terms), model, params, batch)
    for chunk in (0, 3, 4, 50):  # 3 does not divide the length of 8
        config = NextToken(vocabulary_chunk=chunk, **terms)
        total, rest, gradient = value_and_gradient(config, model, params, batch)
        npt.assert_allclose(total, expected, rtol=1e-5)
        assert_trees_close(rest, plain_rest, rtol=1e-5)
        assert_trees_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
    # Without a gradient another path is taken.
    total, _, _ = loss_of(NextToken(vocabulary_chunk=3, **terms), model)(params, batch, None)
    npt.assert_allclose(total, expected, rtol=1e-5)


def test_the_gradient_follows_what_the_sum_is_multiplied_by():
    params, batch = random_params(SMALL), random_batch()
    config = NextToken(vocabulary_chunk=3)
    gradient = jax.grad(lambda params: jnp.tanh(loss_of(config)(params, batch, None)[0] / 100))(params)
    total, _, plain = value_and_gradient(config, SMALL, params, batch)
    factor = (1 - jnp.tanh(total / 100) ** 2) / 100
    assert_trees_close(gradient, jax.tree.map(lambda g: g * factor, plain), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('chunk', [0, 3])
def test_the_gradient_is_the_slope_of_the_loss(chunk):
    """A central difference along a random direction."""
    params, batch, config = random_params(UNTIED), random_batch(), NextToken(vocabulary_chunk=chunk, **ALL_TERMS)
    draw = np.random.default_rng(1)
    direction = jax.tree.map(lambda p: jnp.asarray(draw.normal(size=p.shape), p.dtype), params)
    step = 3e-3
    moved = lambda by: jax.tree.map(lambda p, d: p + by * d, params, direction)
    values = [float(value_and_gradient(config, UNTIED, end, batch)[0]) for end in (moved(step), moved(-step))]
    gradient = value_and_gradient(config, UNTIED, params, batch)[2]
    slope = sum(float(jnp.vdot(g, d)) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction)))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope, rel=2e-3)


@pytest.mark.parametrize('config', [NextToken(**ALL_TERMS), NextToken(vocabulary_chunk=3, **ALL_TERMS)])
def test_a_target_of_weight_zero_has_no_influence_at_all(config):
    params, batch = random_params(SMALL), random_batch()
    hidden = batch['loss_weights'] == 0
    assert 0 < int(hidden.sum()) < hidden.size
    other = batch | {'targets': jnp.where(hidden, (batch['targets'] + 5) % 13, batch['targets'])}
    jax.tree.map(
        npt.assert_array_equal,
        value_and_gradient(config, SMALL, params, batch),
        value_and_gradient(config, SMALL, params, other),
    )
    seen = batch | {'targets': jnp.where(hidden, batch['targets'], (batch['targets'] + 5) % 13)}
    assert float(value_and_gradient(config, SMALL, params, seen)[0]) != pytest.approx(
        float(value_and_gradient(config, SMALL, params, batch)[0])
    )


@pytest.mark.parametrize('position', ['rope', 'learned', 'alibi'])
def test_padding_on_the_right_needs_no_segment_ids(position):
    """Batches without document masking: the same loss and gradient as with one segment and its padding spelt out."""
    model = dataclasses.replace(SMALL, position=position)
    real = jnp.arange(LENGTH)[None, :] < jnp.asarray([[LENGTH], [LENGTH - 3], [1]])[:ROWS]
    spelt = random_batch(weights=real)
    spelt |= {'segment_ids': real.astype(jnp.int32), 'positions': jnp.where(real, spelt['positions'], 0)}
    plain = {name: spelt[name] for name in ('inputs', 'targets', 'loss_weights')}
    expected, (weight, _), gradient = value_and_gradient(NextToken(), model, random_params(model), spelt)
    actual, (same_weight, _), same_gradient = value_and_gradient(NextToken(), model, random_params(model), plain)
    assert float(weight) == float(same_weight) == int(real.sum())
    npt.assert_allclose(actual, expected, rtol=1e-6)
    jax.tree.map(functools.partial(npt.assert_allclose, rtol=1e-4, atol=1e-4), same_gradient, gradient)
    other = plain | {'segment_ids': spelt['segment_ids'].at[0, 2:].add(1)}  # two documents are another matter
    assert abs(float(value_and_gradient(NextToken(), model, random_params(model), other)[0] - expected)) > 1e-3


def test_accuracy_counts_right_guesses_of_weight_one():
    params, batch = random_params(SMALL), random_batch()
    segments, positions = batch['segment_ids'], batch['positions']
    logits = Transformer(SMALL).apply({'params': params}, batch['inputs'], segments, positions).logits
    weights = batch['loss_weights']
    guesses = batch | {
        'targets': jnp.where(jnp.arange(LENGTH)[None, :] < 5, jnp.argmax(logits, -1), jnp.argmin(logits, -1))
    }
    _, _, metrics = loss_of(NextToken(vocabulary_chunk=3))(params, guesses, None)
    assert float(metrics['accuracy'][0]) == float(weights[:, :5].sum())
    assert float(metrics['accuracy'][1]) == float(weights.sum())


def test_dropout_is_the_rngs_doing():
    model = dataclasses.replace(SMALL, dropout=0.5)
    params, batch, loss = random_params(SMALL), random_batch(), loss_of(NextToken(), model)
    plain = loss_of(NextToken())(params, batch, None)[0]
    npt.assert_array_equal(loss(params, batch, None)[0], plain)
    one, other = (float(loss(params, batch, jax.random.key(seed))[0]) for seed in (0, 1))
    assert len({one, other, float(plain)}) == 3
    # Rows keep their masks when they say which rows of the batch they are.
    kept = {name: x[1:] for name, x in batch.items()} | {'example_ids': jnp.array([1, 2])}
    first = {name: x[:1] for name, x in batch.items()} | {'example_ids': jnp.array([0])}
    parts = [float(loss(params, part, jax.random.key(0))[0]) for part in (first, kept)]
    assert sum(parts) == pytest.approx(one, rel=1e-5)


def test_chunks_save_memory_where_the_vocabulary_is_large():
    """The compiler's own account of the temporaries of one gradient: all logits at once, or an eighth of them."""
    model = dataclasses.replace(SMALL, vocab_size=8192, context_length=64)
    shapes = jax.eval_shape(lambda: Transformer(model).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params'])
    whole = jax.ShapeDtypeStruct((4, 64), jnp.int32)
    batch = dict.fromkeys(('inputs', 'targets', 'segment_ids', 'positions'), whole)
    batch['loss_weights'] = jax.ShapeDtypeStruct((4, 64), jnp.float32)

    def temporaries(chunk):
        config = NextToken(vocabulary_chunk=chunk)
        gradient = jax.jit(jax.grad(lambda params, batch: loss_of(config, model)(params, batch, None)[0]))
        return gradient.lower(shapes, batch).compile().memory_analysis().temp_size_in_bytes

    logits = 4 * 64 * 8192 * 4
    assert temporaries(0) > logits
    assert temporaries(8) < logits / 2
