"""The lens: what it shows is what the model computed, and what it changes has the effect that arithmetic says."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.analysis import lens
from llm.config import ModelConfig
from llm.errors import UserError
from llm.inference import prepared
from llm.model import Transformer, taps
from llm.model.kv_cache import KVCache
from llm.model.transformer import Source

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
    'position': 'learned',
}
FAMILIES = {
    'llama_gqa': {'num_kv_heads': 2, 'tied_embeddings': False},
    'gpt2': GPT2,
    'gemma2': GEMMA2,
    'gemma3': {'norm_placement': 'both', 'qk_norm': True, 'windows': (2, None), 'local_rope_base': 50.0},
    'everything': EVERYTHING,
    'everything_post': EVERYTHING | {'norm_placement': 'post'},
    'original_transformer': GPT2 | {'position': 'sinusoidal', 'activation': 'relu', 'norm_placement': 'post'},
    'bloom': GPT2 | {'position': 'alibi', 'embedding_norm': True},
    'attention_only': {'feed_forward_width': 0, 'position': 'none', 'num_kv_heads': 1},
    'attention_only_post': {'feed_forward_width': 0, 'norm_placement': 'post'},
    'mup': {'parametrization': 'mup', 'base_width': 4},
}
LENGTH = 8


QUICK = ('llama_gqa', 'everything_post')  # together they have almost every part of the others
EVERY_FAMILY = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@functools.cache
def make(family):
    config = dataclasses.replace(SMALL, **FAMILIES[family])
    shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    random = np.random.default_rng(0)
    return config, jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.4, x.shape), x.dtype), shapes)


def plain(config, params, tokens):
    """Logits of the model by itself."""
    return jax.jit(Transformer(config).apply)({'params': params}, jnp.asarray(tokens)).logits


@functools.cache
def everything(family, seed):
    """Logits and every activation of a run."""
    config, params = make(family)
    return lens.run(params, config, tokens_of(seed), lens.sites_of(config))


def tokens_of(seed):
    return np.random.default_rng(seed).integers(13, size=(2, LENGTH), dtype=np.int32)


@pytest.mark.parametrize('family', EVERY_FAMILY)
def test_contributions_add_up_to_the_logit(family):
    config, params = make(family)
    logits, activations = everything(family, 1)
    for token, against in ((5, None), (3, 7)):
        parts = lens.direct_logit_attribution(params, config, activations, token, against)
        assert float(jnp.abs(parts.unexplained).max()) < 1e-4
        shown = parts.logit
        if config.logit_softcap is None:
            wanted = logits[..., token] - (0 if against is None else logits[..., against])
            npt.assert_allclose(shown, wanted, atol=1e-4)
        elif against is None:
            npt.assert_allclose(
                config.logit_softcap * jnp.tanh(shown / config.logit_softcap), logits[..., token], atol=1e-4
            )


@pytest.mark.parametrize('family', [pytest.param('everything', marks=pytest.mark.slow), 'everything_post'])
def test_neurons_add_up_to_their_network(family):
    config, params = make(family)
    activations = everything(family, 1).activations
    whole = lens.direct_logit_attribution(params, config, activations, 5, positions=(2, 6))
    for layer in range(2):
        parts = lens.neuron_attribution(params, config, activations, layer, 5, positions=(2, 6))
        assert parts.neurons.shape == (2, 2, 24)
        npt.assert_allclose(parts.neurons.sum(-1) + parts.bias, whole.feed_forward[layer], atol=1e-4)


def test_attribution_by_hand():
    config, params = make('llama_gqa')
    activations = everything('llama_gqa', 1).activations
    parts = lens.direct_logit_attribution(params, config, activations, 5)
    final = np.asarray(activations['residual_after'][-1], np.float64)
    size = np.sqrt(np.mean(final**2, axis=-1) + config.norm_epsilon)
    column = np.asarray(params['lm_head']['kernel'][:, 5] * params['final_norm']['scale'], np.float64)
    output = np.asarray(params['blocks']['attention']['output']['kernel'], np.float64)
    head = np.asarray(activations['head_outputs'], np.float64)[1, :, 2] @ output[1, 8:12]  # the third of four heads
    npt.assert_allclose(parts.heads[1, :, 2], head @ column / size, atol=1e-5)
    fed = np.asarray(activations['feed_forward_output'][0], np.float64)
    npt.assert_allclose(parts.feed_forward[0], fed @ column / size, atol=1e-5)
    npt.assert_array_equal(parts.position_embedding, 0)
    npt.assert_array_equal(parts.attention_bias, 0)


# ----------------------------------------------------------------------------------------------------------- sites


@pytest.mark.parametrize('family', EVERY_FAMILY)
def test_every_site_is_shown_and_a_patch_of_everything_reproduces_the_other_run(family):
    config, params = make(family)
    sites = lens.sites_of(config)
    one, other = everything(family, 1), everything(family, 2)
    sizes = {
        'batch': 2,
        'length': LENGTH,
        'query': LENGTH,
        'key': LENGTH,
        'width': config.width,
        'heads': config.num_heads,
        'kv_heads': config.kv_heads,
        'head_dim': config.key_size,
        'hidden': config.hidden_width,
    }
    for name in sites:
        layers = (2,) if lens.SITES[name].layered else ()
        assert one.activations[name].shape == (*layers, *(sizes[axis] for axis in lens.SITES[name].axes.split())), name
    npt.assert_allclose(one.logits, plain(config, params, tokens_of(1)), atol=1e-4)
    assert np.abs(one.logits - other.logits).max() > 0.1
    edits = lens.combine(*(lens.patch(config, name, other.activations[name]) for name in sites))
    patched = lens.run(params, config, tokens_of(1), sites, edits)
    npt.assert_array_equal(patched.logits, other.logits)
    for name in sites:
        npt.assert_array_equal(patched.activations[name], other.activations[name], err_msg=name)


# What has to be patched for the rest to follow: every way from the tokens to the logits is cut once.
CUTS = {
    'embeddings': ('token_embedding', 'position_embedding'),
    'first stream': ('residual_before',),
    'between': ('residual_between',),
    'last stream': ('residual_after',),
    'hidden': ('hidden',),
    'what is written': ('token_embedding', 'position_embedding', 'attention_output', 'feed_forward_output'),
    'heads and neurons': ('token_embedding', 'position_embedding', 'head_outputs', 'neurons'),
    'pattern and values': ('token_embedding', 'position_embedding', 'pattern', 'values', 'neurons'),
    'queries, keys, values': ('token_embedding', 'position_embedding', 'queries', 'keys', 'values', 'neurons'),
    'scores and values': ('token_embedding', 'position_embedding', 'scores', 'values', 'feed_forward_input'),
}


@pytest.mark.parametrize(
    'cut', [cut if cut == 'queries, keys, values' else pytest.param(cut, marks=pytest.mark.slow) for cut in CUTS]
)
def test_a_patch_of_every_way_through_reproduces_the_other_run(cut):
    config, params = make('gpt2' if cut == 'embeddings' else 'llama_gqa')
    other = everything('gpt2' if cut == 'embeddings' else 'llama_gqa', 2)
    patched = [name for name in CUTS[cut] if name in other.activations]
    edits = lens.combine(*(lens.patch(config, name, other.activations[name]) for name in patched))
    npt.assert_allclose(lens.run(params, config, tokens_of(1), edits=edits).logits, other.logits, atol=1e-4)


def test_a_patch_of_one_place_changes_that_place_alone():
    config, params = make('llama_gqa')
    other = lens.run(params, config, tokens_of(2), ('head_outputs',)).activations['head_outputs']
    before = lens.run(params, config, tokens_of(1), ('head_outputs', 'residual_between')).activations
    edits = lens.patch(config, 'head_outputs', other, layers=0, units=2, positions=(3, -1))
    after = lens.run(params, config, tokens_of(1), ('head_outputs', 'residual_between'), edits).activations
    expected = np.array(before['head_outputs'][0])
    expected[:, 2, [3, 7]] = other[0, :, 2, [3, 7]].swapaxes(0, 1)
    npt.assert_array_equal(after['head_outputs'][0], expected)
    changed = np.any(np.asarray(after['residual_between'][0] != before['residual_between'][0]), axis=(0, 2))
    npt.assert_array_equal(changed, [place in (3, 7) for place in range(LENGTH)])


@pytest.mark.parametrize(
    'family', ['llama_gqa', *(pytest.param(name, marks=pytest.mark.slow) for name in ('bloom', 'gemma2'))]
)
def test_the_pattern_is_the_softmax_of_the_masked_scores(family):
    config, params = make(family)
    found = everything(family, 1).activations
    index = np.arange(LENGTH)
    for layer, window in enumerate(config.layer_windows):
        seen = (index[None] <= index[:, None]) & (index[:, None] - index[None] < (window or LENGTH))
        weights = np.where(seen, np.exp(np.asarray(found['scores'][layer], np.float64)), 0)
        npt.assert_allclose(found['pattern'][layer], weights / weights.sum(-1, keepdims=True), atol=1e-5)
    if config.attention_softcap is None and config.position != 'alibi':
        keys = np.repeat(found['keys'], config.num_heads // config.kv_heads, axis=2)
        products = np.einsum('lbhqd,lbhkd->lbhqk', found['queries'], keys) / config.key_size**0.5
        npt.assert_allclose(found['scores'], products, atol=1e-4)


@pytest.mark.parametrize('family', ['gemma3', pytest.param('gpt2', marks=pytest.mark.slow)])
def test_one_layer_alone_computes_what_it_computes_in_the_model(family):
    config, params = make(family)
    sites = [name for name in lens.sites_of(config) if lens.SITES[name].layered]
    edits = lens.scale(config, 'head_outputs', 0.5, layers=1, units=0)
    edits = lens.combine(edits, lens.scale(config, 'residual_before', 2.0, layers=1))
    whole = lens.run(params, config, tokens_of(1), sites, edits).activations
    for layer in range(2):
        alone = lens.run_layer(params, config, tokens_of(1), layer, whole['residual_before'][layer], sites, edits)
        for name in sites:
            npt.assert_allclose(alone[name], whole[name][layer], atol=1e-5, err_msg=f'{name} of layer {layer}')


@pytest.mark.slow
def test_packed_documents_are_read_apart():
    config, params = make('llama_gqa')
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 0]] * 2)
    places = np.array([[0, 1, 2, 0, 1, 2, 3, 0]] * 2)
    packed = lens.run(params, config, tokens_of(1), ('pattern',), segment_ids=segments, positions=places)
    assert not np.asarray(packed.activations['pattern'])[:, :, :, 3:7, :3].any()
    alone = lens.run(params, config, tokens_of(1)[:, 3:7], ('pattern',))
    npt.assert_allclose(packed.activations['pattern'][..., 3:7, 3:7], alone.activations['pattern'], atol=1e-5)
    npt.assert_allclose(packed.logits[:, 3:7], alone.logits, atol=1e-4)


# ----------------------------------------------------------------------------------------------------------- edits


def without(params, layer, path, rows, factor=0.0):
    """The parameters with some rows of one layer's kernel scaled."""
    *parents, last = path
    tree = params | {'blocks': jax.tree.map(lambda x: x, params['blocks'])}
    branch = tree['blocks']
    for name in parents:
        branch = branch[name]
    branch[last] = branch[last].at[layer, rows].multiply(factor)
    return tree


@pytest.mark.parametrize('family', ['llama_gqa', pytest.param('everything_post', marks=pytest.mark.slow)])
def test_edits_do_what_changed_parameters_do(family):
    config, params = make(family)
    run = lambda params, edits=None: lens.run(params, config, tokens_of(1), edits=edits).logits
    size = config.key_size
    output, down = ('attention', 'output', 'kernel'), ('feed_forward', 'down', 'kernel')
    head = lens.ablate(config, 'head_outputs', layers=0, units=2)
    npt.assert_allclose(run(params, head), run(without(params, 0, output, slice(2 * size, 3 * size))), atol=1e-4)
    half = lens.scale(config, 'head_outputs', 0.5, layers=1, units=[0, 1])
    npt.assert_allclose(run(params, half), run(without(params, 1, output, slice(0, 2 * size), 0.5)), atol=1e-4)
    neuron = lens.ablate(config, 'neurons', layers=-1, units=7)
    npt.assert_allclose(run(params, neuron), run(without(params, 1, down, 7)), atol=1e-4)
    both = lens.combine(head, half, neuron)
    changed = without(without(params, 0, output, slice(2 * size, 3 * size)), 1, output, slice(0, 2 * size), 0.5)
    npt.assert_allclose(run(params, both), run(without(changed, 1, down, 7)), atol=1e-4)
    assert np.abs(run(params) - run(params, neuron)).max() > 1e-3


@pytest.mark.slow
def test_edits_of_one_site_combine_in_order():
    config, params = make('llama_gqa')
    value = jnp.ones((2, 2, LENGTH, 16))
    edits = lens.combine(
        lens.patch(config, 'residual_after', value, layers=0), lens.scale(config, 'residual_after', 3.0, layers=0)
    )
    shown = lens.run(params, config, tokens_of(1), ('residual_after',), edits).activations['residual_after']
    npt.assert_array_equal(shown[0], 3.0)


@pytest.mark.slow
def test_mean_ablation_puts_the_mean_over_rows_and_places():
    config, params = make('gpt2')
    seen = lens.run(params, config, tokens_of(1), ('head_outputs', 'pattern')).activations
    edits = lens.mean_ablate(config, 'head_outputs', seen['head_outputs'], layers=1, units=3)
    edits |= lens.mean_ablate(config, 'pattern', seen['pattern'], layers=0, units=1)
    after = lens.run(params, config, tokens_of(2), ('head_outputs', 'pattern'), edits).activations
    mean = np.asarray(seen['head_outputs'])[1, :, 3].mean((0, 1))
    npt.assert_allclose(after['head_outputs'][1, :, 3], np.broadcast_to(mean, (2, LENGTH, 4)), atol=1e-6)
    npt.assert_allclose(after['pattern'][0, 1, 1], np.asarray(seen['pattern'])[0, :, 1].mean(0), atol=1e-6)


def test_padding_does_not_enter_a_mean():
    config = dataclasses.replace(SMALL, **GPT2)
    real = np.arange(LENGTH) < np.array([[3], [LENGTH]])
    draw = np.random.default_rng(0)
    shape = (config.num_layers, 2, config.num_heads, LENGTH)
    outputs, pattern = draw.normal(size=(*shape, config.key_size)), draw.random((*shape, LENGTH))
    rows = np.concatenate([outputs[:, 0, :, :3], outputs[:, 1]], axis=2).mean(2)
    mean = lens.mean_ablate(config, 'head_outputs', outputs, real=real)['head_outputs'].offset
    npt.assert_allclose(mean[:, 0, :, 0], rows, atol=1e-6)
    mean = lens.mean_ablate(config, 'pattern', pattern, real=real)['pattern'].offset[:, 0]
    npt.assert_allclose(mean[:, :, :3], pattern[..., :3, :].mean(1), atol=1e-6)
    npt.assert_allclose(mean[:, :, 3:], pattern[:, 1, :, 3:], atol=1e-6)


@pytest.mark.slow
def test_the_gradient_of_an_edit_is_what_it_does_to_first_order():
    config, params = make('llama_gqa')
    plain = lens.patch(config, 'head_outputs', jnp.zeros((2, 1, 4, 1, 1)), layers=())

    def logit(size):
        edit = plain['head_outputs']
        edits = {'head_outputs': edit._replace(offset=edit.offset.at[0, 0, 1].add(size))}
        return lens.run(params, config, tokens_of(1), edits=edits).logits[0, -1, 5]

    slope = float(jax.grad(logit)(0.0))
    npt.assert_allclose(slope, (logit(1e-2) - logit(-1e-2)) / 2e-2, rtol=1e-2)
    assert abs(slope) > 1e-3


@pytest.mark.slow
def test_edits_hold_while_decoding_with_a_cache():
    config, params = make('gemma2')
    tokens = jnp.asarray(tokens_of(1))
    edits = lens.combine(
        lens.ablate(config, 'head_outputs', layers=0, units=1), lens.scale(config, 'scores', 0.5, layers=1)
    )
    whole = lens.run(params, config, tokens, edits=edits).logits
    apply = lambda params, tokens, cache: Transformer(config).apply(
        {'params': params}, tokens, cache=cache, edits=edits
    )
    step = jax.jit(apply)
    for read in (params, prepared.prepare(params, config)):
        cache = KVCache.create(config, 2, LENGTH)
        for start, stop in ((0, 5), (5, 6), (6, 8)):
            output = step(read, tokens[:, start:stop], cache)
            cache = output.cache
            npt.assert_allclose(output.logits, whole[:, start:stop], atol=1e-4)


# ------------------------------------------------------------------------------------------------------------ cost


def test_a_model_that_is_not_watched_has_the_same_program_as_one_without_taps(monkeypatch):
    config, params = make('llama_gqa')
    config = dataclasses.replace(config, attention_backend='reference')
    loss = lambda params, tokens: Transformer(config).apply({'params': params}, tokens).logits.sum()
    text = lambda: jax.jit(jax.value_and_grad(loss)).lower(params, tokens_of(1)).as_text()
    with_taps = text()
    from llm.model import attention, block, feed_forward, transformer

    for module in (attention, block, feed_forward, transformer):
        monkeypatch.setattr(module, 'tap', lambda module, site, value, edits: value)
    jax.clear_caches()
    assert text() == with_taps
    assert 'residual' not in with_taps


def test_what_is_not_asked_for_is_not_kept_and_edits_of_one_kind_share_a_program():
    from llm.analysis.lens import activations

    config, params = make('llama_gqa')
    kept = activations._run.lower(
        params, jnp.asarray(tokens_of(1)), {}, {}, activations._as_loop(config), ('residual_after',), False, ()
    )
    program = kept.compile().as_text()
    assert 'f32[2,2,8,16]' in program  # layers, batch, length, width
    assert 'f32[2,2,4,8,8]' not in program  # a pattern of every layer
    before = activations._run._cache_size()
    for units in (0, 1, (2, 3)):
        for factor in (0.0, 0.5):
            edits = lens.scale(config, 'head_outputs', factor, layers=units if units == 1 else 0, units=units)
            lens.run(params, config, tokens_of(1), ('residual_after',), edits)
    assert activations._run._cache_size() == before + 1


# -------------------------------------------------------------------------------------------------- lens and heads


def test_the_last_row_of_the_lens_is_the_model():
    config, params = make('llama_gqa')
    logits, activations = everything('llama_gqa', 1)
    target = tokens_of(3)
    read = lens.logit_lens(params, config, activations, target, top=3)
    assert read.tokens.shape == (3, 2, LENGTH, 3)
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    order = np.argsort(-log_probs, axis=-1)
    npt.assert_array_equal(read.tokens[-1], order[..., :3])
    npt.assert_allclose(read.probabilities[-1], np.take_along_axis(np.exp(log_probs), order[..., :3], -1), atol=1e-6)
    npt.assert_allclose(read.entropy[-1], -(np.exp(log_probs) * log_probs).sum(-1), atol=1e-5)
    npt.assert_array_equal(read.target_rank[-1], (order == target[..., None]).argmax(-1))
    npt.assert_allclose(
        read.target_probability[-1], np.take_along_axis(np.exp(log_probs), target[..., None], -1)[..., 0], atol=1e-6
    )
    first = lens.unembed(params, config, activations['residual_before'][0])
    npt.assert_array_equal(read.tokens[0, ..., 0], np.argmax(first, -1))
    one = lens.logit_lens(params, config, activations, 4)
    npt.assert_allclose(one.target_logit[-1], logits[..., 4], atol=1e-5)


def test_head_scores_by_hand():
    tokens = np.array([[1, 2, 3, 1, 2, 3, 1], [5, 5, 4, 6, 4, 7, 8]])
    random = np.random.default_rng(0).random((2, 2, 3, 7, 7))
    pattern = np.tril(random)
    pattern /= pattern.sum(-1, keepdims=True)
    kinds = {
        'previous': lambda row, q, k: k == q - 1,
        'duplicate': lambda row, q, k: row[k] == row[q],
        'induction': lambda row, q, k: k > 0 and row[k - 1] == row[q],
    }
    for name, scores in lens.head_scores(pattern, tokens).items():
        for layer, head in np.ndindex(2, 3):
            shares = []
            for b, q in np.ndindex(2, 7):
                keys = [k for k in range(q) if kinds[name](tokens[b], q, k)]
                if keys:
                    shares.append(sum(pattern[layer, b, head, q, k] for k in keys))
            npt.assert_allclose(scores[layer, head], np.mean(shares), rtol=1e-5, err_msg=name)


def test_ideal_heads_score_one_and_others_nothing():
    tokens = lens.repeated_tokens(100, rows=3, period=5, first=99)
    assert tokens.shape == (3, 11) and (tokens[:, 0] == 99).all()
    npt.assert_array_equal(tokens[:, 1:6], tokens[:, 6:])
    assert all(len(set(row[1:6])) == 5 and 99 not in row[1:] for row in tokens.tolist())
    ideal = np.zeros((1, 3, 3, 11, 11))
    for q in range(11):
        ideal[0, :, 0, q, max(q - 1, 0)] = 1
        ideal[0, :, 1, q, q - 5 if q > 5 else q] = 1
        ideal[0, :, 2, q, q - 4 if q > 5 else q] = 1
    for column, (name, scores) in enumerate(lens.head_scores(ideal, tokens).items()):
        npt.assert_allclose(scores[0], [float(column == head) for head in range(3)], atol=1e-6, err_msg=name)
    assert np.isnan(lens.duplicate_token_score(ideal[:, :1, :, :5, :5], np.arange(5)[None])).all()


@pytest.mark.slow
def test_scores_on_repeats_are_those_of_the_pattern():
    config, params = make('bloom')
    scores = lens.scores_on_repeats(params, config, rows=2, first=0, seed=3)
    tokens = lens.repeated_tokens(13, 2, 5, seed=3, first=0)
    pattern = lens.run(params, config, tokens, ('pattern',)).activations['pattern']
    npt.assert_allclose(scores['induction'], lens.induction_score(pattern, tokens), atol=1e-6)


# --------------------------------------------------------------------------------------------------------- mistakes


def test_what_does_not_exist_is_said():
    config, params = make('llama_gqa')
    with pytest.raises(ValueError, match='no site'):
        lens.run(params, config, tokens_of(1), ('weights',))
    with pytest.raises(ValueError, match='no site'):
        lens.run(params, config, tokens_of(1), ('position_embedding',))
    with pytest.raises(ValueError, match='each of the 2 layers'):
        lens.run(params, config, tokens_of(1), edits={'neurons': lens.Edit(jnp.ones(()), jnp.zeros(()))})
    with pytest.raises(ValueError, match='prepared'):
        lens.run(prepared.prepare(params, config), config, tokens_of(1))
    with pytest.raises(ValueError, match='layer 2'):
        lens.run_layer(params, config, tokens_of(1), 2, jnp.zeros((2, LENGTH, 16)), ())
    with pytest.raises(ValueError, match='not inside a layer'):
        lens.run_layer(params, config, tokens_of(1), 0, jnp.zeros((2, LENGTH, 16)), ('hidden',))
    for choice, words in (
        ({'layers': 2}, 'layer 2'),
        ({'units': 4}, 'head 4'),
        ({'positions': 8, 'length': LENGTH}, 'position 8'),
    ):
        with pytest.raises(UserError, match=words):
            lens.ablate(config, 'head_outputs', **choice)
    with pytest.raises(UserError, match='neuron 24'):
        lens.ablate(config, 'neurons', units=24)
    with pytest.raises(UserError, match='no site'):
        lens.ablate(config, 'nothing')
    with pytest.raises(UserError, match='not inside'):
        lens.ablate(config, 'hidden', layers=0)
    with pytest.raises(UserError, match='shape'):
        lens.patch(config, 'hidden', jnp.zeros(3))


def test_the_table_of_sites_is_what_the_model_has():
    config = dataclasses.replace(make('gpt2')[0], encoder_layers=1)
    assert set(taps.SITES) == set(lens.sites_of(config))


@pytest.mark.slow
@pytest.mark.parametrize('placement', ['pre', 'post', 'both'])
def test_what_comes_from_an_encoder_is_a_term_too(placement):
    FAMILIES['encoder'] = {'encoder_layers': 1, 'norm_placement': placement, 'biases': ALL_BIASES, 'norm': 'layernorm'}
    make.cache_clear()
    config, params = make('encoder')
    source = Source(jnp.asarray(tokens_of(5)), jnp.ones((2, LENGTH), jnp.int32))
    found = lens.run(params, config, tokens_of(1), lens.attribution_sites(config), source=source)
    parts = lens.direct_logit_attribution(params, config, found.activations, 5)
    assert np.abs(parts.cross_attention).max() > 0.01
    npt.assert_allclose(parts.total, found.logits[..., 5], atol=1e-4)
    other = lens.run(params, config, tokens_of(1), mask_kind='bidirectional', source=source).logits
    assert np.abs(other[:, 0] - found.logits[:, 0]).max() > 0.01  # the first token reads the others
