"""Decoding with a cache equals reading everything again; rows, calls and settings do not disturb each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.errors import UserError
from llm.inference import decode
from llm.inference.decode import Decoder
from llm.inference.sampling import SamplingParams

PROMPTS = [[1, 5, 9, 2, 7, 3, 11], [4], [8, 8, 20], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]]
GREEDY = SamplingParams(temperature=0.0)


def write(model, params, prompts, settings, count, chunk=None, **options):
    """Decodes to the end; returns the (id, log-probability) pairs of each row."""
    decoder = Decoder(model, params, prompts, settings, max_new_tokens=count, **options)
    rows = [[] for _ in prompts]
    while decoder.running:
        for row, new in zip(rows, decoder.advance(chunk or count)):
            row += new
    return rows


def ids(row):
    return [token for token, _ in row]


@pytest.mark.parametrize(
    'overrides',
    [
        {'position': 'rope', 'num_kv_heads': 2, 'qk_norm': True, 'windows': (3, None)},
        {'position': 'learned', 'norm': 'layernorm', 'activation': 'gelu'},
        pytest.param(
            {'position': 'sinusoidal', 'norm_placement': 'post', 'tied_embeddings': False}, marks=pytest.mark.slow
        ),
        {'position': 'alibi', 'num_kv_heads': 1},
        pytest.param({'position': 'none', 'attention_softcap': 5.0, 'logit_softcap': 8.0}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_cached_decoding_equals_full_recomputation(tiny, full_logits, full_logprobs, overrides):
    model, params = tiny(**overrides)
    # Step by step, all logits.
    sequence = [1, 5, 9, 2, 7, 3, 11, 0, 6, 23, 14, 5]
    expected = full_logits(model, params, sequence)
    cache = decode.read_rows(model, params, [sequence[:4]], 32)
    next_logits = jax.jit(decode.next_logits, static_argnums=0)
    for at in range(4, len(sequence)):
        logits, cache = next_logits(model, params, cache, jnp.array([sequence[at]]), jnp.array([True]))
        np.testing.assert_allclose(logits[0], expected[at], atol=1e-5, rtol=1e-5)
    # The compiled loop, on prompts of different lengths, to the last token that fits.
    settings = [SamplingParams(seed=seed) for seed in range(len(PROMPTS))]
    for prompt, row in zip(PROMPTS, write(model, params, PROMPTS, settings, 32 + 1 - 12)):
        assert len(row) == 21
        expected = full_logprobs(model, params, prompt + ids(row)[:-1])
        for at, (token, logprob) in enumerate(row):
            assert abs(logprob - expected[len(prompt) - 1 + at, token]) < 1e-5


def test_greedy_takes_the_most_probable_token(tiny, full_logprobs):
    model, params = tiny()
    (row,) = write(model, params, PROMPTS[:1], [GREEDY], 12)
    text = list(PROMPTS[0])
    for token, _ in row:
        assert token == np.argmax(full_logprobs(model, params, text)[-1])
        text.append(token)


SETTINGS = [
    SamplingParams(seed=3),
    SamplingParams(temperature=0.7, top_k=5, seed=4),
    SamplingParams(temperature=0.0, repetition_penalty=1.3),
    SamplingParams(top_p=0.8, min_p=0.1, repetition_penalty=1.1, seed=5),
]


def test_batched_equals_alone(tiny):
    model, params = tiny()
    together = write(model, params, PROMPTS, SETTINGS, 20)
    for prompt, sampling, row in zip(PROMPTS, SETTINGS, together):
        (alone,) = write(model, params, [prompt], [sampling], 20)
        assert ids(alone) == ids(row)
        np.testing.assert_allclose([p for _, p in alone], [p for _, p in row], atol=1e-5)


def test_rows_beyond_a_power_of_two_change_nothing(tiny):
    model, params = tiny()
    three = write(model, params, PROMPTS[:3], SETTINGS[:3], 20)
    assert [ids(row) for row in three] == [ids(row) for row in write(model, params, PROMPTS, SETTINGS, 20)[:3]]


@pytest.mark.parametrize('chunk', [1, 3, 5])
def test_chunks_are_the_same_program_and_the_same_tokens(tiny, chunk):
    model, params = tiny()
    whole = write(model, params, PROMPTS, SETTINGS, 20)
    compiled = decode.decode._cache_size()
    assert write(model, params, PROMPTS, SETTINGS, 20, chunk=chunk) == whole  # to the bit
    assert decode.decode._cache_size() == compiled


def test_seeds_reproduce_and_differ(tiny):
    model, params = tiny()
    same = [write(model, params, [[1]], [SamplingParams(seed=7)], 20) for _ in range(2)]
    assert same[0] == same[1]
    texts = {tuple(ids(write(model, params, [[1]], [SamplingParams(seed=seed)], 20)[0])) for seed in range(5)}
    assert len(texts) == 5


def test_other_settings_lengths_and_stops_compile_nothing(tiny):
    model, params = tiny()
    write(model, params, PROMPTS, SETTINGS, 20)
    programs = decode.decode._cache_size(), decode.prefill._cache_size()
    write(model, params, PROMPTS, [GREEDY] * 4, 15)
    write(model, params, PROMPTS[::-1], SETTINGS, 13, stop_ids=(3, 4))
    write(model, params, PROMPTS[1:], [SamplingParams(min_p=0.3, seed=1)] * 3, 14, chunk=4)
    assert (decode.decode._cache_size(), decode.prefill._cache_size()) == programs


def test_stop_tokens_end_their_row_only(tiny):
    model, params = tiny()
    free = write(model, params, PROMPTS, SETTINGS, 20)
    stops = {ids(free[0])[5], ids(free[1])[9]}
    for chunk in (None, 4):
        for row, whole in zip(write(model, params, PROMPTS, SETTINGS, 20, chunk, stop_ids=tuple(stops)), free):
            first = next((at for at, (token, _) in enumerate(whole) if token in stops), len(whole) - 1)
            assert row == whole[: first + 1]


def test_a_finished_row_writes_no_more(tiny):
    model, params = tiny()
    free = write(model, params, PROMPTS[:2], SETTINGS[:2], 20)
    decoder = Decoder(model, params, PROMPTS[:2], SETTINGS[:2], max_new_tokens=20)
    first = decoder.advance(4)
    decoder.finish(0)
    assert decoder.advance(16) == [[], free[1][4:]]
    assert first == [row[:4] for row in free]


def test_the_distribution_shown_is_the_one_drawn_from(tiny):
    model, params = tiny()
    prompts, settings = [PROMPTS[0]] * 512, [SamplingParams(top_k=4, seed=seed) for seed in range(512)]
    decoder = Decoder(model, params, prompts, settings, max_new_tokens=1)
    distribution = decoder.next_token_distribution()[0]
    assert (distribution > 0).sum() == 4
    drawn = np.bincount([row[0][0] for row in decoder.advance(1)], minlength=24)
    support = distribution > 0
    assert drawn[~support].sum() == 0
    expected = 512 * distribution[support]
    assert np.sum((drawn[support] - expected) ** 2 / expected) < 16.27  # 99.9% quantile, 3 degrees of freedom


@pytest.mark.parametrize(
    'context, chunk',
    [(1, 3), pytest.param(2, None, marks=pytest.mark.slow), (7, 3), pytest.param(8, None, marks=pytest.mark.slow)],
)
def test_sliding_equals_reading_the_window_again(tiny, full_logprobs, context, chunk):
    model, params = tiny(context_length=context, position='learned')
    prompts = [[1, 5, 9, 2, 7][: max(1, context - 1)], [4]]
    settings = [SamplingParams(seed=1), SamplingParams(repetition_penalty=1.5, seed=2)]
    rows = write(model, params, prompts, settings, 25, chunk, past_context='slide')
    for prompt, row in zip(prompts, rows):
        assert len(row) == 25
        window = list(prompt)
        for token, logprob in row:
            if len(window) > context:  # the context is full and one more token wants to be read
                window = window[-1 - context // 2 :]
            assert abs(logprob - full_logprobs(model, params, window)[-1, token]) < 1e-5
            window.append(token)


def test_the_repetition_penalty_remembers_prompt_and_past_but_not_padding(tiny, full_logits):
    model, params = tiny(context_length=8, position='learned')
    prompts, penalty = [[3, 4, 5, 6, 7, 8, 9, 10], [11, 12]], 2.0
    settings = [SamplingParams(temperature=0.0, repetition_penalty=penalty)] * 2
    for prompt, row in zip(prompts, write(model, params, prompts, settings, 15, past_context='slide')):
        window, seen = list(prompt), set(prompt)  # what was forgotten from the window is still penalised
        for token, _ in row:
            window = window[-5:] if len(window) > 8 else window
            logits = full_logits(model, params, window)[-1]
            for old in seen:
                logits[old] *= penalty if logits[old] < 0 else 1 / penalty
            assert token == np.argmax(logits)
            window.append(token)
            seen.add(token)


def test_what_does_not_fit_is_refused_with_the_numbers(tiny):
    model, params = tiny(context_length=8)

    def decoder(prompt, count, **options):
        return Decoder(model, params, [[1], prompt], [GREEDY] * 2, max_new_tokens=count, **options)

    with pytest.raises(UserError, match=r'prompt has 9 tokens .* context 8'):
        decoder([1] * 9, 1)
    with pytest.raises(UserError, match=r'prompt has 9 tokens .* context 8'):
        decoder([1] * 9, 1, past_context='slide')
    with pytest.raises(UserError, match=r'prompt of 6 tokens and 4 new ones .* context of 8; ask for at most 3'):
        decoder([1] * 6, 4)
    with pytest.raises(UserError, match='max_new_tokens is 0'):
        decoder([1], 0)
    with pytest.raises(UserError, match='token id 24; the model knows 0 to 23'):
        decoder([1, 24], 1)
    with pytest.raises(UserError, match='no tokens'):
        decoder([], 1)
    assert len(decoder([1] * 6, 3).advance(3)[1]) == 3
    assert len(decoder([1] * 8, 1).advance(1)[1]) == 1
