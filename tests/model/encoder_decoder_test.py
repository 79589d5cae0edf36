"""Who sees whom with other masks than the causal one, and an encoder-decoder against the formulas, in NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from reference import numpy_model as reference

from llm.config import ModelConfig
from llm.inference import prepared
from llm.model import Transformer
from llm.model.kv_cache import KVCache
from llm.model.transformer import Source

MODEL = ModelConfig(vocab_size=17, context_length=12, num_layers=2, width=16, num_heads=4, feed_forward_width=24)
READS = dataclasses.replace(MODEL, encoder_layers=3, num_kv_heads=2, qk_norm=True, biases=('query', 'norm'))
ROWS, LENGTH, SOURCE = 2, 7, 9


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


@functools.cache
def random_params(config: ModelConfig):
    """Parameters in which nothing is at its usual start."""
    shapes = jax.eval_shape(lambda: Transformer(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32)))['params']
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: draw.normal(0.1, 0.4, leaf.shape).astype(leaf.dtype), shapes)


@functools.partial(jax.jit, static_argnames=('config', 'mask_kind'))
def logits_of(config, params, ids, **given):
    return Transformer(config).apply({'params': params}, ids, **given).logits


def tokens(length, seed=0):
    return np.random.default_rng(seed).integers(0, MODEL.vocab_size, (ROWS, length)).astype(np.int32)


def sees(config, **given) -> np.ndarray:
    """(query, key): whether an output depends on the token at a place, by the gradient with respect to its vector."""
    model, params = Transformer(config), random_params(config)
    vectors = np.random.default_rng(1).normal(size=(1, LENGTH, config.width)).astype(np.float32)
    kind = given.pop('mask_kind')

    @jax.jit
    def reads(params, vectors, given):
        def output(x):
            ids, rest = jnp.zeros((1, LENGTH), jnp.int32), {'mask_kind': kind, 'with_logits': False} | given
            read = model.apply({'params': params}, ids, input_embeddings=x, **rest)
            return jnp.square(read.hidden[0]).sum(axis=-1)

        return jax.jacrev(output)(vectors)[:, 0]

    return np.abs(np.asarray(reads(params, vectors, given))).sum(axis=-1) > 0


@pytest.mark.parametrize('position', [pytest.param('rope', marks=pytest.mark.slow), 'alibi'])
def test_bidirectional_tokens_see_all_of_their_document_and_nothing_else(position):
    config = dataclasses.replace(MODEL, position=position)
    segments = np.array([[1, 1, 1, 2, 2, 0, 0]], np.int32)
    found = sees(config, mask_kind='bidirectional', segment_ids=segments)
    real = segments[0] > 0
    npt.assert_array_equal(found[real], (segments == segments.T)[real])


def test_a_prefix_sees_itself_and_what_follows_is_causal():
    found = sees(MODEL, mask_kind='prefix', prefix_length=np.array([3], np.int32))
    place = np.arange(LENGTH)
    npt.assert_array_equal(found, (place[None, :] <= place[:, None]) | (place[None, :] < 3))


def test_windows_reach_both_ways():
    one = dataclasses.replace(MODEL, num_layers=1, windows=(3,))
    place = np.arange(LENGTH)
    npt.assert_array_equal(sees(one, mask_kind='bidirectional'), abs(place[None, :] - place[:, None]) < 3)


@pytest.mark.parametrize('position', ['rope', pytest.param('learned', marks=pytest.mark.slow)])
def test_a_prefix_of_one_token_is_the_causal_model(position):
    config = dataclasses.replace(MODEL, position=position)
    params, ids = random_params(config), tokens(LENGTH)
    causal = logits_of(config, params, ids)
    prefix = logits_of(config, params, ids, mask_kind='prefix', prefix_length=np.ones(ROWS, np.int32))
    npt.assert_allclose(prefix, causal, atol=1e-5)


def attend(x, memory, params, config, mask, turned):
    """Attention of one text to another, by the formula; `turned` are the positions of both for RoPE, or None."""
    split = lambda y: y.reshape(*y.shape[:2], -1, config.key_size)
    q = split(reference.linear(x, params['query']))
    k, v = (split(reference.linear(memory, params[name])) for name in ('key', 'value'))
    if config.qk_norm:
        q, k = (
            reference.rms_norm(y, params[f'{name}_norm']['scale'], config.norm_epsilon)
            for y, name in ((q, 'query'), (k, 'key'))
        )
    if turned is not None:
        q, k = (reference.rope(y, place, config.rope_base) for y, place in zip((q, k), turned))
    mixed = reference.attention(q, k, v, mask, config.key_size**-0.5)
    return reference.linear(mixed.reshape(*x.shape[:2], -1), params['output'])


def by_the_formulas(params, config, ids, source, segments):
    """Logits of a pre-norm encoder-decoder; the source is padded where its segment is 0."""
    layer = reference.layer_of
    table = params['embedding']['table']
    place = lambda x: np.broadcast_to(np.arange(x.shape[1]), x.shape)
    feed = lambda block: lambda y: reference.feed_forward(y, block['feed_forward'], config.activation)
    x, real = table[source], segments > 0
    for i in range(config.encoder_layers):
        block = layer(params['encoder']['blocks'], i)
        mask = np.broadcast_to(real[:, None, :], (ROWS, SOURCE, SOURCE))
        own = lambda y, block=block, mask=mask: attend(y, y, block['attention'], config, mask, [place(source)] * 2)
        x = reference.sublayer(x, own, block, 'attention', config)
        x = reference.sublayer(x, feed(block), block, 'feed_forward', config)
    memory = reference.normalise(x, params['encoder']['final_norm'], config)
    x = table[ids]
    causal = np.broadcast_to(np.tril(np.ones((LENGTH, LENGTH), bool)), (ROWS, LENGTH, LENGTH))
    across = np.broadcast_to(real[:, None, :], (ROWS, LENGTH, SOURCE))
    for i in range(config.num_layers):
        block = layer(params['blocks'], i)
        own = lambda y, block=block: attend(y, y, block['attention'], config, causal, [place(ids)] * 2)
        cross = lambda y, block=block: attend(y, memory, block['cross_attention'], config, across, None)
        x = reference.sublayer(x, own, block, 'attention', config)
        x = reference.sublayer(x, cross, block, 'cross_attention', config)
        x = reference.sublayer(x, feed(block), block, 'feed_forward', config)
    return reference.normalise(x, params['final_norm'], config) @ table.T


@functools.cache
def read():
    """What the model says of a row and its source, one of whose rows is padded."""
    ids, source = tokens(LENGTH), tokens(SOURCE, 1)
    segments = (np.arange(SOURCE)[None, :] < np.array([[SOURCE], [4]])).astype(np.int32)
    logits = np.asarray(logits_of(READS, random_params(READS), ids, source=Source(source, segments)))
    return ids, source, segments, logits


def test_an_encoder_decoder_is_what_the_formulas_say():
    ids, source, segments, logits = read()
    params = jax.tree.map(lambda x: x.astype(np.float64), random_params(READS))
    expected = by_the_formulas(params, READS, ids, source, segments)
    assert np.abs(expected).max() > 1
    npt.assert_allclose(logits, expected, atol=2e-4, rtol=1e-4)


def test_padding_of_the_source_is_not_seen():
    ids, source, segments, logits = read()
    other = np.where(segments > 0, source, (source + 1) % MODEL.vocab_size).astype(np.int32)
    assert (other != source).any()
    again = logits_of(READS, random_params(READS), ids, source=Source(other, segments))
    npt.assert_array_equal(again, logits)


def test_the_decoder_is_causal_and_reads_every_token_of_its_source():
    ids, source, segments, logits = read()
    apply = lambda ids, source: logits_of(READS, random_params(READS), ids, source=Source(source, segments))
    later = ids.copy()
    later[:, 4:] = (later[:, 4:] + 1) % MODEL.vocab_size
    changed = np.abs(apply(later, source) - logits).max(axis=-1) > 0
    assert not changed[:, :4].any()
    assert changed[:, 4:].all()
    for place in range(SOURCE):
        other = source.copy()
        other[:, place] = (other[:, place] + 1) % MODEL.vocab_size
        changed = np.abs(apply(ids, other) - logits).max(axis=-1) > 0
        npt.assert_array_equal(changed.all(axis=1), segments[:, place] > 0)


def test_packed_documents_read_their_own_sources():
    """The second of two documents, and one without a source, are as if they were alone."""
    read = functools.partial(logits_of, READS, random_params(READS))
    ids, source = tokens(LENGTH), tokens(SOURCE, 1)
    segments = np.tile(np.array([1, 1, 1, 2, 2, 2, 3], np.int32), (ROWS, 1))
    places = np.tile(np.array([0, 1, 2, 0, 1, 2, 0], np.int32), (ROWS, 1))
    of = np.tile(np.array([1, 1, 1, 1, 2, 2, 2, 2, 0], np.int32), (ROWS, 1))
    where = np.tile(np.array([0, 1, 2, 3, 0, 1, 2, 3, 0], np.int32), (ROWS, 1))
    packed = read(ids, segment_ids=segments, positions=places, source=Source(source, of, where))
    ones = np.ones((ROWS, 4), np.int32)
    alone = read(ids[:, 3:6], source=Source(source[:, 4:8], ones))
    npt.assert_allclose(packed[:, 3:6], alone, atol=1e-5)
    nothing = read(ids[:, 6:], source=Source(source[:, :4], 0 * ones))
    npt.assert_allclose(packed[:, 6:], nothing, atol=1e-5)
    assert np.isfinite(nothing).all()


@pytest.mark.parametrize(
    ('position', 'ready'), [('rope', True), pytest.param('learned', False, marks=pytest.mark.slow)]
)
def test_decoding_with_a_cache_is_the_forward_pass(position, ready):
    """A row reads a source of four tokens in a cache with room for more, three tokens at once and then one by one."""
    config = dataclasses.replace(READS, position=position)
    model, params = Transformer(config), random_params(config)
    ids, source = tokens(LENGTH), tokens(SOURCE, 1)
    segments = (np.arange(SOURCE)[None, :] < np.array([[SOURCE], [4]])).astype(np.int32)
    whole = logits_of(config, params, ids, source=Source(source, segments))
    if ready:
        params = jax.jit(lambda params: prepared.prepare(params, config))(params)
        npt.assert_allclose(logits_of(config, params, ids, source=Source(source, segments)), whole, atol=1e-4)
    read = jax.jit(lambda params, source: model.apply({'params': params}, source, method='read_source'))
    kept = read(params, Source(source, segments))
    cache = KVCache.create(config, ROWS, config.context_length)._replace(source=kept)
    step = jax.jit(lambda params, cache, ids: model.apply({'params': params}, ids, cache=cache))
    first, *rest = np.split(ids, [3, 4, 5, 6], axis=1)
    found = []
    for part in (first, *rest):
        output = step(params, cache, part)
        cache = output.cache
        found.append(output.logits)
    npt.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-4)


def test_the_names_of_the_parameters():
    """Encoder and cross-attention are beside what a decoder alone has, and start where their paths say."""
    alone = dataclasses.replace(READS, encoder_layers=0)
    start = lambda config: jax.jit(Transformer(config).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    both, one = start(READS), start(alone)
    extra = {'cross_attention', 'cross_attention_norm'}
    assert set(both) == {*one, 'encoder'}
    assert set(both['encoder']) == {'blocks', 'final_norm'}
    assert set(both['blocks']) == {*one['blocks'], *extra}
    assert set(both['blocks']['cross_attention']) == set(one['blocks']['attention'])
    assert both['encoder']['blocks']['attention']['key']['kernel'].shape[0] == 3
    shared = {name: x for name, x in both['blocks'].items() if name not in extra}
    jax.tree.map(npt.assert_array_equal, shared, one['blocks'])
