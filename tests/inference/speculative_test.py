"""Speculative decoding writes with the large model's own distribution, whatever the draft is."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import ModelConfig
from llm.errors import UserError
from llm.inference import decode, sampling, speculative
from llm.inference.decode import Decoder
from llm.inference.prepared import ready
from llm.inference.sampling import SamplingParams
from llm.inference.speculative import Draft, SpeculativeDecoder
from llm.model.transformer import Transformer

SETTINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.6),
    SamplingParams(top_k=3),
    SamplingParams(top_p=0.7),
    SamplingParams(temperature=1.5, top_k=4, top_p=0.8, min_p=0.1, repetition_penalty=1.4),
]
TINY = ModelConfig(vocab_size=5, context_length=24, num_layers=1, width=8, num_heads=2, init_std=1.0)


def random_model(seed, **changes):
    model = Transformer(dataclasses.replace(TINY, **changes))
    return model, model.init(jax.random.key(seed), jnp.zeros((1, 1), jnp.int32))['params']


@pytest.mark.parametrize('settings', SETTINGS, ids=str)
def test_kept_or_replaced_a_token_has_the_large_models_distribution(settings):
    """Every draft enumerated: q(x) keep(x) + P(not kept) replacement(x) = p(x)."""
    rng = np.random.default_rng(0)
    rows = sampling.stack([settings] * 50)
    seen = jnp.asarray(rng.random((50, 7)) < 0.3)
    p, q = (
        sampling.next_token_distribution(jnp.asarray(rng.normal(0, 2, (50, 7)), jnp.float32), seen, rows)
        for _ in range(2)
    )
    keep = speculative.kept_probability(p, q)
    lost = jnp.sum(q * (1 - keep), axis=-1, keepdims=True)
    np.testing.assert_allclose(q * keep + lost * speculative.replacement(p, q), p, atol=1e-6)
    assert (np.asarray(keep) >= 0).all() and (np.asarray(keep) <= 1).all()
    np.testing.assert_allclose(speculative.replacement(p, p), p)


@pytest.mark.parametrize(
    'settings', [SETTINGS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in SETTINGS[4:6])], ids=str
)
def test_texts_have_the_large_models_distribution(settings):
    """Every text of three tokens enumerated, against what 8,000 seeds write with a draft of another mind."""
    (model, params), (drafter, draft_params) = random_model(0), random_model(1)
    prompt, length, drafts, seeds = [1, 3], 3, 2, 8_000
    texts = list(itertools.product(range(TINY.vocab_size), repeat=length))
    tokens = jnp.asarray([[*prompt, *text] for text in texts], jnp.int32)
    logits = np.asarray(model.apply({'params': params}, tokens).logits)
    probability = np.ones(len(texts))
    for at in range(length):
        seen = np.zeros((len(texts), TINY.vocab_size), bool)
        for row, text in enumerate(texts):
            seen[row, [*prompt, *text[:at]]] = True
        place = len(prompt) - 1 + at
        given = sampling.next_token_distribution(
            jnp.asarray(logits[:, place]), jnp.asarray(seen), sampling.stack([settings] * len(texts))
        )
        probability *= np.asarray(given)[np.arange(len(texts)), [text[at] for text in texts]]
    assert abs(probability.sum() - 1) < 1e-4
    expected = dict(zip(texts, probability))

    capacity = 16
    cache, draft_cache = (
        decode.read_rows(which, its, [prompt[:-1]], capacity)
        for which, its in ((model, params), (drafter, draft_params))
    )
    stops = jnp.zeros(TINY.vocab_size, bool)
    start = speculative.SpeculativeState(
        cache,
        draft_cache,
        token=jnp.array(prompt[-1:]),
        generated=jnp.int32(0),
        seen=jnp.zeros((1, TINY.vocab_size), bool).at[0, jnp.array(prompt)].set(True),
        done=jnp.zeros((), bool),
    )

    def write(seed):
        rows = sampling.stack([settings])._replace(seed=seed[None])
        found = speculative.speculate.__wrapped__(
            model, params, drafter, draft_params, start, rows, stops, jnp.int32(length), jnp.int32(length), drafts
        )
        return found[1][:length]

    written = np.asarray(jax.jit(jax.vmap(write))(jnp.arange(seeds, dtype=jnp.uint32)))
    found = dict.fromkeys(texts, 0)
    for text in map(tuple, written.tolist()):
        found[text] += 1
    assert all(expected[text] > 0 for text, count in found.items() if count)
    # Pearson's statistic over texts that are expected at least five times, the rest as one.
    common = [text for text in texts if seeds * expected[text] >= 5]
    counts = [found[text] for text in common]
    means = [seeds * expected[text] for text in common]
    counts, means = [*counts, seeds - sum(counts)], [*means, max(seeds - sum(means), 1e-9)]
    statistic = sum((c - m) ** 2 / m for c, m in zip(counts, means) if m > 1)
    freedom = max(len(common), 1)
    assert statistic < freedom + 4 * np.sqrt(2 * freedom) + 8


def write(decoder, chunk):
    rows = []
    while decoder.running:
        rows += decoder.advance(chunk)[0]
    return rows


@pytest.mark.parametrize(
    'drafts, chunk', [*(pytest.param(*one, marks=pytest.mark.slow) for one in ((1, 30), (5, 1))), (3, 30), (4, 5)]
)
def test_greedy_is_the_same_text_in_whatever_pieces(tiny, drafts, chunk):
    model, params = tiny()
    drafter, draft_params = tiny(num_layers=1)
    prompt, greedy = [1, 5, 9, 2], SamplingParams(temperature=0.0, repetition_penalty=1.2)
    plain = write(Decoder(model, params, [prompt], [greedy], max_new_tokens=28), 28)
    draft = Draft(drafter, ready(draft_params, drafter.config), drafts)
    decoder = SpeculativeDecoder(model, params, draft, prompt, greedy, max_new_tokens=28)
    found = write(decoder, chunk)
    assert [token for token, _ in found] == [token for token, _ in plain]
    np.testing.assert_allclose([p for _, p in found], [p for _, p in plain], atol=1e-5)
    drawn = [
        write(SpeculativeDecoder(model, params, draft, prompt, SamplingParams(seed=4), max_new_tokens=28), size)
        for size in (28, chunk)
    ]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 28


def test_a_model_that_drafts_for_itself_is_always_kept(tiny):
    model, params = tiny()
    decoder = SpeculativeDecoder(
        model, params, Draft(model, params, 4), [1, 2], SamplingParams(seed=3), max_new_tokens=25
    )
    assert len(write(decoder, 25)) == 25
    assert decoder.rounds == 5 and decoder.kept == 20


def test_a_stop_token_ends_the_text(tiny):
    model, params = tiny()
    drafter, draft_params = tiny(num_layers=1)
    make = lambda **options: SpeculativeDecoder(
        model, params, Draft(drafter, draft_params, 3), [1, 2], SamplingParams(seed=5), max_new_tokens=25, **options
    )
    free = write(make(), 25)
    stop = free[7][0]
    first = next(at for at, (token, _) in enumerate(free) if token == stop)
    decoder = make(stop_ids=(stop,))
    assert write(decoder, 25) == free[: first + 1]
    assert not decoder.running


def test_models_that_do_not_go_together_are_refused(tiny):
    model, params = tiny()
    make = lambda draft, count=4: SpeculativeDecoder(
        model, params, draft, [1, 2], SamplingParams(), max_new_tokens=count
    )
    with pytest.raises(UserError, match='the draft model knows 30 tokens and the model 24'):
        make(Draft(*tiny(vocab_size=30)))
    with pytest.raises(UserError, match='context of 4 of the draft model'):
        make(Draft(*tiny(context_length=4)))
    with pytest.raises(UserError, match='draft at least 1'):
        make(Draft(model, params, 0))
