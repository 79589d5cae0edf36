"""Text in, text out: whole and streamed, alone and in a batch, cut where it should be."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import TokenizerConfig
from llm.errors import UserError
from llm.inference import decode
from llm.inference.beam_search import beam_search
from llm.inference.decode import Decoder
from llm.inference.generate import Generator, Transcript
from llm.inference.sampling import SamplingParams
from llm.tokenizer import train

TOKENIZER = train(TokenizerConfig(kind='byte'), 272, [])
EOS = TOKENIZER.eos_id
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope='module')
def generator(tiny):
    """Writes mostly a, b, c and the bytes of € and 😀, in any order: whole, broken and unfinished characters."""
    model, params = tiny(vocab_size=272, tied_embeddings=False, biases=('lm_head',))
    bias = np.zeros(272, np.float32)
    bias[[16 + b for b in 'abc€😀'.encode()]] = 10
    params = {**params, 'lm_head': {**params['lm_head'], 'bias': jnp.asarray(bias)}}
    return Generator(model, params, TOKENIZER)


def transcript(tokens, stop=()):
    row = Transcript(TOKENIZER, (EOS,), stop)
    shown = []
    for token in tokens:
        row.add(token, 0.0)
        shown.append(row.settled)
    row.finish('length')
    return row, shown


def test_characters_are_shown_when_their_last_byte_is_there():
    row, shown = transcript(TOKENIZER.encode('a€b'))
    assert shown == ['a', 'a', 'a', 'a€', 'a€b']
    assert (row.text, row.finish_reason) == ('a€b', 'length')


def test_an_unfinished_character_shows_as_replacement_at_the_end():
    row, shown = transcript(TOKENIZER.encode('a€'.encode()[:-1]))
    assert shown == ['a', 'a', 'a']
    assert row.text == 'a\ufffd'


def test_what_may_begin_a_stop_string_is_held_back():
    row, shown = transcript(TOKENIZER.encode('xababc.'), stop=('abc', 'c€'))
    assert shown == ['x', 'x', 'x', 'xab', 'xab', 'xab', 'xab']
    assert (row.text, row.finish_reason) == ('xab', 'stop_string')
    assert row.ids == TOKENIZER.encode('xababc')
    row, shown = transcript(TOKENIZER.encode('xab'), stop=('abc',))
    assert (shown[-1], row.text) == ('x', 'xab')  # the text ended, so what was held back is shown


def test_stop_strings_of_several_bytes_and_bad_ones():
    row, shown = transcript(TOKENIZER.encode('a€b'), stop=('€',))
    assert (row.text, shown) == ('a', ['a'] * 5)
    row, _ = transcript(TOKENIZER.encode(b'a\xe2'), stop=('\ufffd',))
    assert (row.text, row.finish_reason) == ('a', 'stop_string')


def test_special_tokens_are_not_text_and_the_end_of_sequence_ends_it():
    row, _ = transcript([16 + 97, 5, 1, EOS, 16 + 98])
    assert (row.text, row.ids, row.finish_reason) == ('a', [113, 5, 1, EOS], 'stop_token')


@pytest.mark.parametrize('stop', [(), ('bc', 'ab€')], ids=str)
def test_streamed_text_equals_whole_text(generator, stop):
    samplings = [SamplingParams(seed=seed) for seed in range(8)]
    whole = generator.generate(['ab'] * 8, samplings, max_new_tokens=30, stop=stop)
    assert any('€' in c.text for c in whole)
    for sampling, completion in zip(samplings, whole):
        pieces = list(generator.stream('ab', sampling, max_new_tokens=30, stop=stop))
        assert ''.join(pieces) == completion.text
        assert '' not in pieces
        for text in itertools.accumulate(pieces):
            assert completion.text.startswith(text)
    if not stop:
        assert all(c.text == TOKENIZER.decode(c.ids) for c in whole)


def test_a_stop_string_cuts_the_text_where_it_begins(generator):
    prompts = ['', 'a', 'cab', 'x' * 20]
    samplings = [SamplingParams(seed=seed) for seed in range(4)]
    free = generator.generate(prompts, samplings, max_new_tokens=12, past_context='slide')
    stops = {c.text[at : at + size] for c in free for at in (0, 3, 6) for size in (1, 2, 4) if len(c.text) >= at + size}
    for stop in sorted(stops):
        cut = generator.generate(prompts, samplings, max_new_tokens=12, stop=[stop], past_context='slide')
        for before, after in zip(free, cut):
            stopped = stop in before.text
            assert after.text == before.text.partition(stop)[0]
            assert after.finish_reason == ('stop_string' if stopped else before.finish_reason)
            assert after.ids == before.ids[: len(after.ids)]
            assert stop in TOKENIZER.decode(after.ids) or not stopped
            assert len(after.logprobs) == len(after.ids)


def test_looks_at_the_text_change_nothing(generator, monkeypatch):
    arguments = ['ab', 'c'], SamplingParams(seed=2)
    whole = generator.generate(*arguments, max_new_tokens=30, stop=['b€'])
    for steps in (1, 7):
        monkeypatch.setattr('llm.inference.generate.STOP_STRING_TOKENS', steps)
        assert generator.generate(*arguments, max_new_tokens=30, stop=['b€']) == whole


def test_a_cut_row_writes_no_more(generator, monkeypatch):
    monkeypatch.setattr('llm.inference.generate.STOP_STRING_TOKENS', 5)
    looks, advance = [], Decoder.advance
    monkeypatch.setattr(Decoder, 'advance', lambda self, steps: looks.append(steps) or advance(self, steps))
    (free,) = generator.generate(['ab'], GREEDY, max_new_tokens=30)
    looks.clear()
    generator.generate(['ab'], GREEDY, max_new_tokens=30, stop=[free.text[0]])
    assert looks == [5]


def test_batched_equals_alone(generator):
    prompts = ['', 'abc', 'b' * 11, '€']
    samplings = [GREEDY, SamplingParams(seed=1), SamplingParams(top_k=4, seed=2), SamplingParams(min_p=0.2, seed=3)]
    together = generator.generate(prompts, samplings, max_new_tokens=20, stop=['ca'])
    for prompt, sampling, completion in zip(prompts, samplings, together):
        (alone,) = generator.generate([prompt], sampling, max_new_tokens=20, stop=['ca'])
        assert (alone.ids, alone.text) == (completion.ids, completion.text)
        np.testing.assert_allclose(alone.logprobs, completion.logprobs, atol=1e-5)


def test_a_text_gets_its_beginning_and_ids_are_taken_as_they_are(generator, full_logprobs):
    ids = TOKENIZER.encode('abc')
    forms = ['abc', b'abc', [TOKENIZER.bos_id, *ids]]
    texts = generator.generate(forms, SamplingParams(seed=5), max_new_tokens=10)
    assert all(completion == texts[0] for completion in texts)
    expected = full_logprobs(generator.model, generator.params, [TOKENIZER.bos_id, *ids])[-1]
    assert abs(expected[texts[0].ids[0]] - texts[0].logprobs[0]) < 1e-5
    (bare,) = generator.generate([ids], SamplingParams(seed=5), max_new_tokens=10)
    expected = full_logprobs(generator.model, generator.params, ids)[-1]
    assert abs(expected[bare.ids[0]] - bare.logprobs[0]) < 1e-5


def test_further_stop_tokens(generator):
    token = 16 + ord('c')
    stopping = Generator(generator.model, generator.params, TOKENIZER, stop_ids=[token])
    samplings = [SamplingParams(seed=seed) for seed in range(4)]
    for free, cut in zip(
        *(g.generate(['a'] * 4, samplings, max_new_tokens=30) for g in (generator, stopping)), strict=True
    ):
        assert token in free.ids
        assert cut.ids == free.ids[: free.ids.index(token) + 1]
        assert (cut.text, cut.finish_reason) == (TOKENIZER.decode(cut.ids[:-1]), 'stop_token')


def test_the_table_holds_the_probabilities_of_the_next_token(generator, full_logprobs):
    rows = generator.next_token_table('ab', 272)
    expected = np.exp(full_logprobs(generator.model, generator.params, [1, *TOKENIZER.encode('ab')])[-1])
    assert [p for _, _, p in rows] == sorted((p for _, _, p in rows), reverse=True)
    assert abs(sum(p for _, _, p in rows) - 1) < 1e-5
    for piece, token, probability in rows:
        assert abs(probability - expected[token]) < 1e-6
        assert piece == TOKENIZER.piece(token)
    top = generator.next_token_table('ab', 10, SamplingParams(top_k=3))
    assert [token for _, token, _ in top] == [token for _, token, _ in rows[:3]]
    assert abs(sum(p for _, _, p in top) - 1) < 1e-5


def test_beams_come_as_text(generator):
    found = generator.beam('ab', beam_size=4, max_new_tokens=6, length_penalty=0.5)
    hypotheses = beam_search(
        generator.model,
        generator.params,
        [1, *TOKENIZER.encode('ab')],
        beam_size=4,
        max_new_tokens=6,
        length_penalty=0.5,
        stop_ids=[EOS],
    )
    assert [c.ids for c in found] == [h.ids for h in hypotheses]
    assert [c.text for c in found] == [TOKENIZER.decode(h.ids) for h in hypotheses]
    assert all(c.finish_reason == ('stop_token' if c.ids[-1] == EOS else 'length') for c in found)


def test_settings_and_stops_compile_nothing(generator):
    generator.generate(['ab'], GREEDY, max_new_tokens=20)
    programs = decode.decode._cache_size()
    list(generator.stream('ab', SamplingParams(top_p=0.7, temperature=0.5), max_new_tokens=20, stop=['a', 'bc']))
    generator.generate(['b'], SamplingParams(repetition_penalty=2.0, seed=9), max_new_tokens=18)
    assert decode.decode._cache_size() == programs


def test_mistakes_are_named(generator, tiny):
    with pytest.raises(UserError, match=r'ids go up to 271, beyond model\.vocab_size 24'):
        Generator(*tiny(), TOKENIZER)
    with pytest.raises(UserError, match='a stop string is empty'):
        generator.generate(['a'], GREEDY, max_new_tokens=4, stop=[''])
    with pytest.raises(UserError, match=r'has 41 tokens .* context 32'):
        generator.stream('a' * 40, GREEDY, max_new_tokens=4)  # at once, not at the first piece
    assert generator.generate([], GREEDY, max_new_tokens=4) == []
