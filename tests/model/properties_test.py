"""What is true of the model whatever its weights: who influences whom, what changes nothing, what is bounded.

Parameters are random everywhere (no scale is 1, no bias 0), so that nothing hides behind its initial value.
"""

import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import AdamW, Config, Constant, DataConfig, ModelConfig
from llm.model import KVCache, Transformer
from llm.model.attention import Context
from llm.model.block import Block
from llm.model.dropout import Dropout
from llm.model.embedding import Embedding
from llm.model.masks import make_mask
from llm.model.norms import Norm
from llm.model.rope import apply_rope, rope_angles
from llm.training.train_state import create_state
from llm.training.train_step import hyperparameters, make_train_step

SMALL = ModelConfig(vocab_size=12, context_length=16, num_layers=2, width=16, num_heads=4, feed_forward_width=24)
POSITIONS = ('rope', 'learned', 'sinusoidal', 'alibi', 'none')
LENGTH = 8


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


def small(**changes) -> ModelConfig:
    return dataclasses.replace(SMALL, **changes)


@functools.cache
def random_params(config: ModelConfig):
    """Parameters of the right shapes, all of them random."""
    init = lambda: Transformer(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    draw = np.random.default_rng(0)

    def random(path, leaf):
        spread = leaf.shape[-2] ** -0.5 if path[-1].key == 'kernel' else 1.0 if path[-1].key == 'table' else 0.2
        centre = 1.0 if path[-1].key == 'scale' else 0.0
        return jnp.asarray(draw.normal(centre, spread, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(random, jax.eval_shape(init))


@functools.partial(jax.jit, static_argnums=0)
def run(config: ModelConfig, params, tokens, segment_ids=None, positions=None, example_ids=None, rng=None):
    return Transformer(config).apply(
        {'params': params},
        tokens,
        segment_ids=segment_ids,
        positions=positions,
        example_ids=example_ids,
        rngs=None if rng is None else {'dropout': rng},
    )


def tokens_of(*shape: int, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, SMALL.vocab_size, shape), jnp.int32)


# --------------------------------------------------------------------------------------------- who influences whom


def influence(config: ModelConfig, segment_ids=None, positions=None) -> np.ndarray:
    """(query, key): whether the gradient of a hidden vector with respect to a token's embedding is anything but 0."""
    tokens = jnp.arange(LENGTH, dtype=jnp.int32)[None, :]  # all different, so that a row of the table is one token's
    params = random_params(config)

    @jax.jit
    def gradient(direction):
        def projected(table):
            changed = params | {'embedding': {'table': table}}
            apply = Transformer(config).apply
            return jnp.vdot(
                apply({'params': changed}, tokens, segment_ids, positions, with_logits=False).hidden, direction
            )

        return jax.grad(projected)(params['embedding']['table'])

    rows = []
    for query in range(LENGTH):
        direction = (
            jnp.zeros((1, LENGTH, config.width)).at[0, query].set(jax.random.normal(jax.random.key(query), (16,)))
        )
        rows.append(np.asarray(jnp.abs(gradient(direction)[:LENGTH]).max(axis=1) != 0.0))
    return np.array(rows)


def reach(config: ModelConfig, segment_ids=None) -> np.ndarray:
    """The same, from the masks of the layers alone: a path of tokens that see each other, one step a layer."""
    place = np.arange(LENGTH)
    total = np.eye(LENGTH, dtype=bool)
    for window in config.layer_windows:
        mask = (place[None] <= place[:, None]) & (place[:, None] - place[None] < (window or LENGTH))
        if segment_ids is not None:
            mask &= np.asarray(segment_ids)[0][:, None] == np.asarray(segment_ids)[0][None]
        total = (mask.astype(int) @ total.astype(int)) > 0
    return total


@pytest.mark.parametrize('position', POSITIONS)
def test_gradients_reach_every_earlier_token_and_no_later_one(position):
    config = small(position=position)
    npt.assert_array_equal(influence(config), np.tril(np.ones((LENGTH, LENGTH), bool)))


@pytest.mark.parametrize(
    'changes',
    [
        {'windows': (1,)},
        {'windows': (3,)},
        {'windows': (2, 3)},
        {'windows': (None, 2)},
        {'windows': (3,), 'position': 'alibi', 'num_kv_heads': 2},
        {'windows': (2,), 'norm_placement': 'post', 'norm': 'layernorm', 'num_layers': 3},
    ],
    ids=str,
)
def test_gradients_reach_as_far_as_the_windows_of_the_layers_together(changes):
    config = small(**changes)
    npt.assert_array_equal(influence(config), reach(config))


def test_gradients_stay_within_a_document():
    segments = jnp.array([[1, 1, 1, 2, 2, 3, 3, 3]])
    positions = jnp.array([[0, 1, 2, 0, 1, 0, 1, 2]])
    for config in (SMALL, small(windows=(2, None))):
        npt.assert_array_equal(influence(config, segments, positions), reach(config, segments))


@pytest.mark.parametrize('position', POSITIONS)
def test_packed_documents_equal_documents_in_rows_of_their_own(position):
    config = small(position=position, windows=(3, None))
    params, tokens = random_params(config), tokens_of(1, LENGTH)
    segments, positions = jnp.array([[1, 1, 1, 2, 2, 2, 2, 0]]), jnp.array([[0, 1, 2, 0, 1, 2, 3, 0]])
    packed = run(config, params, tokens, segments, positions).logits[0]
    for start, stop in ((0, 3), (3, 7)):
        alone = run(config, params, tokens[:, start:stop]).logits[0]
        npt.assert_allclose(packed[start:stop], alone, atol=1e-5)
    other = tokens.at[0, :3].set((tokens[0, :3] + 1) % 12).at[0, 7].set(5)
    changed = run(config, params, other, segments, positions).logits[0]
    npt.assert_array_equal(packed[3:7], changed[3:7])
    assert np.abs(packed[:3] - changed[:3]).max() > 1e-3


def test_padding_stays_finite_and_has_no_influence():
    params = random_params(SMALL)
    segments = jnp.array([[1, 1, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]])
    tokens = tokens_of(2, LENGTH)

    def loss(params, tokens):
        logits = Transformer(SMALL).apply({'params': params}, tokens, segments).logits
        return jnp.sum(jnp.where((segments > 0)[:, :, None], logits, 0.0) ** 2), logits

    step = jax.jit(jax.grad(loss, has_aux=True))
    gradients, logits = step(params, tokens)
    assert np.isfinite(logits).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    other, _ = step(params, jnp.where(segments > 0, tokens, (tokens + 5) % 12))
    jax.tree.map(npt.assert_array_equal, gradients, other)


# -------------------------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize(
    ('position', 'relative'), [('rope', True), ('alibi', True), ('learned', False), ('sinusoidal', False)]
)
def test_rope_and_alibi_depend_on_relative_positions_only(position, relative):
    config = small(position=position)
    params, tokens = random_params(config), tokens_of(1, LENGTH)
    at = lambda positions: np.asarray(run(config, params, tokens, positions=positions).logits)
    steps = jnp.arange(LENGTH, dtype=jnp.int32)[None, :]
    plain, shifted, stretched = at(steps), at(steps + 7), at(2 * steps)
    assert np.abs(plain - stretched).max() > 1e-2  # distances do matter
    if relative:
        npt.assert_allclose(plain, shifted, atol=1e-4)
    else:
        assert np.abs(plain - shifted).max() > 1e-2


def test_rope_turns_a_score_by_the_distance():
    query, key = (jax.random.normal(jax.random.key(i), (1, 1, 1, 8)) for i in range(2))

    def score(query_at, key_at):
        turn = lambda x, at: apply_rope(x, rope_angles(jnp.full((1, 1), at), 8, 100.0))
        return float(jnp.vdot(turn(query, query_at), turn(key, key_at)))

    for distance in (0, 1, 5):
        scores = [score(at + distance, at) for at in (0, 3, 40)]
        npt.assert_allclose(scores, scores[0], atol=1e-5)
    assert score(0, 0) == pytest.approx(float(jnp.vdot(query, key)), abs=1e-6)
    assert abs(score(5, 0) - score(0, 5)) > 1e-3  # the direction matters too
    turned = apply_rope(query, rope_angles(jnp.full((1, 1), 9), 8, 100.0))
    npt.assert_allclose(jnp.linalg.norm(turned), jnp.linalg.norm(query), rtol=1e-6)


@pytest.mark.parametrize('position', POSITIONS)
def test_only_without_positions_is_the_past_a_set(position):
    """One layer's last token: with more layers the causal mask itself tells earlier tokens apart."""
    config = small(position=position, num_layers=1)
    params = random_params(config)
    tokens = jnp.arange(LENGTH, dtype=jnp.int32)[None, :]
    permuted = jnp.array([[4, 0, 6, 2, 5, 1, 3, 7]], jnp.int32)
    one, other = (np.asarray(run(config, params, x).logits[0, -1]) for x in (tokens, permuted))
    if position == 'none':
        npt.assert_allclose(one, other, atol=1e-5)
    else:
        assert np.abs(one - other).max() > 1e-3


# -------------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize('kv_heads', [1, 2])
def test_grouped_queries_equal_full_attention_with_repeated_heads(kv_heads):
    grouped, full = small(num_kv_heads=kv_heads, biases=('key', 'value')), small(biases=('key', 'value'))
    params = random_params(grouped)
    attention = dict(params['blocks']['attention'])
    for name in ('key', 'value'):
        repeat = lambda x: jnp.repeat(x.reshape(*x.shape[:-1], kv_heads, 4), 4 // kv_heads, axis=-2).reshape(
            *x.shape[:-1], 16
        )
        attention[name] = jax.tree.map(repeat, attention[name])
    repeated = params | {'blocks': params['blocks'] | {'attention': attention}}
    tokens = tokens_of(2, LENGTH)
    npt.assert_allclose(run(grouped, params, tokens).logits, run(full, repeated, tokens).logits, atol=1e-5)


def test_as_many_key_heads_as_query_heads_is_full_attention():
    params, tokens = random_params(SMALL), tokens_of(2, LENGTH)
    npt.assert_array_equal(run(SMALL, params, tokens).logits, run(small(num_kv_heads=4), params, tokens).logits)


def attention_weights(config: ModelConfig, params, tokens, segment_ids=None) -> np.ndarray:
    """(layer, batch, head, query, key)."""
    apply = jax.jit(
        lambda params: Transformer(config).apply({'params': params}, tokens, segment_ids, mutable=['intermediates'])
    )
    return np.asarray(apply(params)[1]['intermediates']['blocks']['attention']['pattern'][0])


@pytest.mark.parametrize('changes', [{}, {'position': 'alibi', 'attention_softcap': 1.0, 'num_kv_heads': 2}], ids=str)
def test_attention_weights_sum_to_one_inside_the_mask_and_are_zero_outside(changes):
    config = small(windows=(3, None), **changes)
    segments = jnp.array([[1] * 8, [1, 1, 1, 1, 1, 2, 2, 2]])
    weights = attention_weights(config, random_params(config), tokens_of(2, LENGTH), segments)
    assert weights.shape == (2, 2, 4, LENGTH, LENGTH)
    npt.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)
    for row in range(2):
        for layer, window in enumerate((3, None)):
            seen = reach(small(num_layers=1, windows=(window,)), segments[row : row + 1])
            npt.assert_array_equal(weights[layer, row] > 0, np.broadcast_to(seen, (4, LENGTH, LENGTH)))


def sharpened(params, factor: float):
    """The same parameters with larger queries."""
    attention = params['blocks']['attention'] | {
        'query': {'kernel': factor * params['blocks']['attention']['query']['kernel']}
    }
    return params | {'blocks': params['blocks'] | {'attention': attention}}


def log_ratio(weights: np.ndarray) -> float:
    """Largest difference between two scores of the last query."""
    last = weights[..., -1, :]
    with np.errstate(divide='ignore'):
        return float((np.log(last.max(axis=-1)) - np.log(last.min(axis=-1))).max())


def test_qk_norm_bounds_scores():
    """Normalised, a query and a key of size d have a score of at most d, that is sqrt(d) when scaled: here 2."""
    plain, normed = small(position='none'), small(position='none', qk_norm=True)
    params = random_params(normed)
    attention = params['blocks']['attention'] | {
        name: {'scale': jnp.ones((2, 4))} for name in ('query_norm', 'key_norm')
    }
    params = params | {'blocks': params['blocks'] | {'attention': attention}}
    tokens = tokens_of(2, LENGTH)
    assert log_ratio(attention_weights(normed, sharpened(params, 1000.0), tokens)) <= 2 * 2 + 1e-4
    assert log_ratio(attention_weights(plain, sharpened(random_params(plain), 1000.0), tokens)) > 50


def test_softcaps_bound_scores_and_logits():
    tokens = tokens_of(2, LENGTH)
    capped = small(position='none', attention_softcap=0.5, logit_softcap=3.0)
    params = random_params(capped)
    assert log_ratio(attention_weights(capped, sharpened(params, 1000.0), tokens)) <= 2 * 0.5 + 1e-4
    table = {'embedding': {'table': 100 * params['embedding']['table']}}
    assert np.abs(run(capped, params | table, tokens).logits).max() <= 3.0
    assert np.abs(run(small(position='none'), params | table, tokens).logits).max() > 100
    # The cap is a smooth squashing of what there would be without.
    bare = run(small(position='none', attention_softcap=0.5), params, tokens).logits
    npt.assert_allclose(run(capped, params, tokens).logits, 3 * np.tanh(np.asarray(bare) / 3), atol=1e-5)


# ----------------------------------------------------------------------------------------------- depth and memory


def test_the_scanned_stack_equals_its_blocks_one_by_one():
    config = small(num_layers=3, windows=(2, None, 4))
    params, tokens = random_params(config), tokens_of(2, LENGTH)
    index = jnp.arange(LENGTH, dtype=jnp.int32)[None, :]
    context = Context(
        mask=make_mask('causal', index, index),
        segment_ids=None,
        query_index=index,
        key_index=index,
        rope=rope_angles(jnp.broadcast_to(index, (2, LENGTH)), 4, config.rope_base),
        distance=None,
        write_at=None,
        example_ids=jnp.arange(2),
    )
    x = Embedding(config).apply({'params': params['embedding']}, tokens)
    block = jax.jit(
        lambda params, x, window: Block(config).apply({'params': params}, x, (window, None, None), context)[0]
    )
    for layer, window in enumerate((2, LENGTH, 4)):
        x = block(jax.tree.map(operator.itemgetter(layer), params['blocks']), x, jnp.int32(window))
    hidden = Norm(config).apply({'params': params['final_norm']}, x)
    npt.assert_allclose(run(config, params, tokens).hidden, hidden, atol=1e-5)


def test_recomputing_activations_changes_no_gradient():
    tokens, rng = tokens_of(2, LENGTH), jax.random.key(3)

    def gradients(remat):
        config = small(remat=remat, dropout=0.3)
        loss = lambda params: jnp.sum(
            Transformer(config).apply({'params': params}, tokens, rngs={'dropout': rng}).logits ** 2
        )
        return jax.jit(jax.grad(loss))(random_params(SMALL))

    expected = gradients('none')
    for remat in ('dots', 'full'):
        jax.tree.map(lambda a, b: npt.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradients(remat), expected)


def test_a_hundred_and_twenty_eight_layers_start_at_log_v_and_take_stable_steps():
    model = ModelConfig(vocab_size=32, context_length=8, num_layers=128, width=8, num_heads=2)
    config = Config(
        model=model,
        data=DataConfig(sequence_length=8),
        optimizer=AdamW(learning_rate=3e-3),
        schedule=Constant(warmup=0),
    )
    with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):  # optax promotes
        state = jax.jit(lambda: create_state(config, 0))()
        ids = jnp.asarray(np.random.default_rng(0).integers(0, 32, (4, 9)), jnp.int32)
        batch = {
            'inputs': ids[:, :-1],
            'targets': ids[:, 1:],
            'loss_weights': jnp.ones((4, 8)),
            'segment_ids': jnp.ones((4, 8), jnp.int32),
            'positions': jnp.tile(jnp.arange(8, dtype=jnp.int32), (4, 1)),
        }
        step = jax.jit(make_train_step(config, per_layer=True))
        losses = []
        for _ in range(4):
            state, metrics = step(state, batch, hyperparameters(config))
            losses.append(float(metrics['loss'][0] / metrics['loss'][1]))
            norms = np.asarray(metrics['grad_norm/blocks/attention/value/kernel'][0])
            assert norms.shape == (128,)
            # No layer's gradient vanishes or explodes on its way down.
            assert 0.01 < norms.max() / np.median(norms) < 100
            assert norms.min() > 0.01 * np.median(norms)
    assert losses[0] == pytest.approx(np.log(32), abs=0.2)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


# ------------------------------------------------------------------------------------------------------------ cache


@pytest.mark.parametrize(
    'changes',
    [{'position': position} for position in POSITIONS]
    + [{'windows': (3, None), 'num_kv_heads': 2, 'qk_norm': True}, {'position': 'alibi', 'windows': (4,)}],
    ids=str,
)
def test_reading_in_pieces_through_a_cache_equals_reading_at_once(changes):
    config = small(**changes)
    params, tokens = random_params(config), tokens_of(2, 10)
    whole = run(config, params, tokens).logits
    read = jax.jit(lambda cache, piece: Transformer(config).apply({'params': params}, piece, cache=cache))
    for sizes in ((4, 4, 1, 1), (1, 4, 1, 4)):
        cache, start = KVCache.create(config, 2, 12), 0
        for size in sizes:
            output = read(cache, tokens[:, start : start + size])
            cache = output.cache
            npt.assert_allclose(output.logits, whole[:, start : start + size], atol=1e-5)
            start += size
        npt.assert_array_equal(cache.lengths, [10, 10])


@pytest.mark.parametrize('position', ['rope', 'learned', 'alibi'])
def test_rows_of_different_lengths_share_a_cache(position):
    """Padded pieces: each row equals itself read alone and whole, whatever the padding says."""
    config = small(position=position, windows=(3, None))
    params, tokens = random_params(config), tokens_of(2, 8)
    whole = run(config, params, tokens).logits
    read = jax.jit(
        lambda cache, piece, segments: Transformer(config).apply(
            {'params': params}, piece, segment_ids=segments, cache=cache
        )
    )
    for padding in (0, 11):
        cache, done = KVCache.create(config, 2, 12), [0, 0]
        for counts in ((4, 2), (0, 3), (1, 1), (3, 2)):
            piece = np.full((2, 4), padding, np.int32)
            segments = np.zeros((2, 4), np.int32)
            for row, count in enumerate(counts):
                piece[row, :count] = tokens[row, done[row] : done[row] + count]
                segments[row, :count] = 1
            output = read(cache, jnp.asarray(piece), jnp.asarray(segments))
            assert np.isfinite(output.logits).all()
            cache = output.cache
            for row, count in enumerate(counts):
                expected = whole[row, done[row] : done[row] + count]
                npt.assert_allclose(output.logits[row, :count], expected, atol=1e-5)
                done[row] += count
            npt.assert_array_equal(cache.lengths, done)


# -------------------------------------------------------------------------------------------------- dropout, dtypes


def test_a_dropout_mask_belongs_to_the_example_wherever_the_batch_is_cut():
    config = small(dropout=0.5)
    params, tokens, rng = random_params(config), tokens_of(4, LENGTH), jax.random.key(1)
    whole = run(config, params, tokens, example_ids=jnp.arange(4), rng=rng).hidden
    for rows in ([0, 2], [1, 3], [3, 0]):
        ids = jnp.array(rows)
        npt.assert_allclose(run(config, params, tokens[ids], example_ids=ids, rng=rng).hidden, whole[ids], atol=1e-4)
    same = jnp.tile(tokens[:1], (4, 1))
    rows = np.asarray(run(config, params, same, example_ids=jnp.array([0, 1, 2, 2]), rng=rng).hidden)
    npt.assert_array_equal(rows[2], rows[3])
    assert np.abs(rows[0] - rows[1]).max() > 0.1
    assert np.abs(rows[1] - rows[2]).max() > 0.1
    other = run(config, params, tokens, example_ids=jnp.arange(4), rng=jax.random.key(2)).hidden
    assert np.abs(whole - other).max() > 0.1
    # Without a key, dropout is off.
    npt.assert_array_equal(run(config, params, tokens).hidden, run(SMALL, params, tokens).hidden)


def test_dropout_zeroes_the_given_share_and_keeps_the_mean():
    out = Dropout(0.25).apply({}, jnp.ones((8, 32, 32)), jnp.arange(8), rngs={'dropout': jax.random.key(0)})
    assert set(np.unique(out)) == {0, np.float32(1 / 0.75)}
    assert float(jnp.mean(out == 0)) == pytest.approx(0.25, abs=0.02)
    assert float(jnp.mean(out)) == pytest.approx(1, abs=0.03)


def test_every_layer_and_site_drops_other_units():
    config = small(dropout=0.5)
    tokens = tokens_of(2, LENGTH)
    _, captured = Transformer(config).apply(
        {'params': random_params(config)},
        tokens,
        rngs={'dropout': jax.random.key(0)},
        capture_intermediates=lambda module, _: isinstance(module, Dropout),
        mutable=['intermediates'],
    )
    blocks = captured['intermediates']['blocks']
    sites = [np.asarray(captured['intermediates']['embedding_dropout']['__call__'][0])]
    for name in ('attention_dropout', 'feed_forward_dropout'):
        sites += list(np.asarray(blocks[name]['__call__'][0]))
    assert len(sites) == 5
    dropped = [site == 0 for site in sites]
    for i, one in enumerate(dropped):
        assert 0.3 < one.mean() < 0.7
        for other in dropped[:i]:
            assert 0.3 < (one != other).mean() < 0.7


def test_bfloat16_products_stay_close_to_float32():
    params, tokens = random_params(SMALL), tokens_of(2, LENGTH)
    exact = np.asarray(run(SMALL, params, tokens).logits)
    rounded = run(small(compute_dtype='bfloat16'), params, tokens).logits
    assert rounded.dtype == jnp.float32
    error = np.abs(rounded - exact).max() / exact.std()
    assert 1e-4 < error < 0.1  # eight bits of mantissa, a few products deep


@pytest.mark.parametrize('dtype', ['bfloat16', pytest.param('float16', marks=pytest.mark.slow)])
def test_low_precision_everywhere_has_finite_gradients_in_the_parameters_dtype(dtype):
    config = small(
        param_dtype=dtype, compute_dtype=dtype, logit_dtype=dtype, qk_norm=True, dropout=0.1, windows=(3, None),
        attention_softcap=5.0, logit_softcap=5.0, embedding_scale=2.0, tied_embeddings=False, position='alibi',
        biases=('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm', 'lm_head'), remat='dots',
    )  # fmt: skip
    tokens = tokens_of(2, LENGTH)

    def loss(params):
        logits = Transformer(config).apply({'params': params}, tokens, rngs={'dropout': jax.random.key(0)}).logits
        assert logits.dtype == dtype
        return jnp.mean(logits.astype(jnp.float32) ** 2)

    gradients = jax.jit(jax.grad(loss))(random_params(config))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert leaf.dtype == dtype, path
        assert np.isfinite(leaf.astype(jnp.float32)).all(), path
        assert np.asarray(leaf.astype(jnp.float32)).any() or 'key' in str(path), path
