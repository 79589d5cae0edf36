"""Blanks are filled with what the model's own probabilities say, and prompts are read as the run has learned to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm import tokenizer as tokenizer_lib
from llm.config import Config, DataConfig, Masked, ModelConfig, NextToken, PrefixLM, SpanCorruption, TokenizerConfig
from llm.errors import UserError
from llm.inference.beam_search import beam_search
from llm.inference.engine import Engine
from llm.inference.fill import Filler
from llm.inference.generate import Generator
from llm.inference.prompt_file import write_file
from llm.inference.reading import ReadPrompt, reader_of, require_causal
from llm.inference.sampling import SamplingParams
from llm.model import Transformer
from llm.model.transformer import Source

TOKENIZER = tokenizer_lib.train(TokenizerConfig(kind='byte'), 272, [])
BOS, EOS, MARK, GREEDY = 1, 2, 8, SamplingParams(temperature=0.0)


def configure(objective, encoder=0):
    return Config(
        model=ModelConfig(
            vocab_size=272, context_length=64, num_layers=2, width=16, num_heads=2, encoder_layers=encoder
        ),
        data=DataConfig(sequence_length=32),
        objective=objective,
    )


@pytest.fixture(scope='module')
def params():
    """By how many layers the encoder has: far from their start, so that what is read makes a difference."""

    def make(encoder):
        config = configure(PrefixLM(), encoder).model
        shapes = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
        draw = np.random.default_rng(encoder)
        return jax.tree.map(lambda leaf: draw.normal(0.1, 0.5, leaf.shape).astype(np.float32), shapes)

    return {encoder: make(encoder) for encoder in (0, 1)}


def log_probs(config, params, ids, **given):
    static = {name: given.pop(name) for name in ('mask_kind',) if name in given}
    read = lambda params, ids, given: Transformer(config.model).apply({'params': params}, ids, **given, **static).logits
    return np.array(jax.nn.log_softmax(jax.jit(read)(params, np.array([ids], np.int32), given)))[0]


def test_a_masked_blank_has_the_probabilities_of_the_softmax(params):
    config = configure(Masked())
    (found,) = Filler(config, params[0], TOKENIZER).fill(['ab', 'cd'], candidates=3)
    row = [BOS, *TOKENIZER.encode('ab'), MARK, *TOKENIZER.encode('cd')]
    expected = log_probs(config, params[0], row, mask_kind='bidirectional')[3]
    expected[:16] = -np.inf  # special tokens stand nowhere
    best = np.argsort(-expected)[:3]
    assert [candidate.ids for candidate in found] == [(i,) for i in best]
    npt.assert_allclose([candidate.probability for candidate in found], np.exp(expected[best]), rtol=1e-4)


@pytest.mark.slow
def test_several_masked_tokens_are_filled_from_left_to_right(params):
    """With as many candidates as there are tokens nothing is lost on the way: the best pair is the best of all."""
    config = configure(Masked())
    (found,) = Filler(config, params[0], TOKENIZER).fill(['a', 'b'], candidates=256, tokens=2)
    row = [BOS, *TOKENIZER.encode('a'), MARK, MARK, *TOKENIZER.encode('b')]
    first = log_probs(config, params[0], row, mask_kind='bidirectional')[2]
    ids = found[0].ids
    second = log_probs(config, params[0], [*row[:2], ids[0], *row[3:]], mask_kind='bidirectional')[3]
    assert found[0].probability == pytest.approx(np.exp(first[ids[0]] + second[ids[1]]), rel=1e-4)
    assert found[0].probability == max(candidate.probability for candidate in found)


@pytest.mark.parametrize('encoder', [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_written_blank_has_the_probability_of_its_tokens_and_its_end(params, encoder):
    config = configure(SpanCorruption(), encoder)
    first, second = Filler(config, params[encoder], TOKENIZER).fill(['ab', 'c', ''], candidates=2, tokens=2)
    text = [BOS, *TOKENIZER.encode('ab'), MARK, *TOKENIZER.encode('c'), MARK + 1]
    ends = [EOS, *range(8, 16)]

    def probability(written):
        if encoder:
            source = Source(np.array([text], np.int32), np.ones((1, len(text)), np.int32))
            scores = log_probs(config, params[1], [BOS, *written], source=source)[1:]
        else:
            row = [*text, BOS, *written]
            scores = log_probs(
                config, params[0], row, mask_kind='prefix', prefix_length=np.array([len(text)], np.int32)
            )[len(text) + 1 :]
        return scores

    for candidates, before in ((first, [MARK]), (second, [MARK, *first[0].ids, MARK + 1])):
        for candidate in candidates:
            scores = probability([*before, *candidate.ids])[len(before) - 1 :]
            total = sum(scores[i][token] for i, token in enumerate(candidate.ids))
            found = [np.exp(total + scores[-1][end]) for end in ends]
            assert any(candidate.probability == pytest.approx(one, rel=1e-3) for one in found)


@pytest.mark.parametrize(
    ('objective', 'encoder'),
    [
        (PrefixLM(), 0),
        pytest.param(PrefixLM(), 1, marks=pytest.mark.slow),
        pytest.param(SpanCorruption(), 1, marks=pytest.mark.slow),
    ],
)
def test_what_is_generated_is_what_the_forward_pass_says(params, objective, encoder):
    config = configure(objective, encoder)
    model, own = Transformer(config.model), params[encoder]
    generator = Generator(model, own, TOKENIZER, reader=reader_of(config, TOKENIZER))
    texts = ['abc', 'defgh']
    drawn = generator.generate(texts, GREEDY, max_new_tokens=5)
    for text, completion in zip(texts, drawn):
        prompt = generator.encode(text)
        assert isinstance(prompt, ReadPrompt)
        given = {'mask_kind': 'prefix', 'prefix_length': np.array([prompt.prefix], np.int32)}
        if encoder:
            given = {'source': Source(np.array([prompt.source], np.int32), np.ones((1, len(prompt.source)), np.int32))}
        row = [*prompt.ids, *completion.ids]
        scores = log_probs(config, own, row, **given)[len(prompt.ids) - 1 : -1]
        npt.assert_array_equal(scores.argmax(axis=-1), completion.ids)
        npt.assert_allclose(scores.max(axis=-1), completion.logprobs, atol=1e-3)
    best, *_ = beam_search(model, own, generator.encode('abc'), beam_size=1, max_new_tokens=5, length_penalty=0.0)
    assert best.ids == drawn[0].ids or EOS in drawn[0].ids


def test_what_stands_nowhere_is_no_candidate(params):
    filler = Filler(configure(Masked()), params[0], TOKENIZER)
    (found,) = filler.fill(['a', 'b'], candidates=10**4)
    assert len(found) == TOKENIZER.vocab_size - len(TOKENIZER.special)
    assert sum(candidate.probability for candidate in found) <= 1 + 1e-5 and found[-1].probability > 0


def test_what_needs_to_read_from_left_to_right_refuses_in_one_line(params, tmp_path):
    with pytest.raises(UserError, match='sees a whole text and continues none'):
        reader_of(configure(Masked()), TOKENIZER)
    assert reader_of(configure(NextToken()), TOKENIZER) is None
    require_causal(configure(NextToken()), 'runs/a', 'chatting')
    with pytest.raises(UserError, match='runs/a learned objective prefix_lm: its model has an encoder'):
        require_causal(configure(PrefixLM(), 1), 'runs/a', 'chatting')
    config = configure(PrefixLM())
    generator = Generator(Transformer(config.model), params[0], TOKENIZER, reader=reader_of(config, TOKENIZER))
    with pytest.raises(UserError, match='engine serves models that read from left to right'):
        Engine(generator)
    with pytest.raises(UserError, match='a file of prompts takes a model that reads from left to right'):
        write_file(generator, tmp_path / 'prompts.jsonl', tmp_path / 'out.jsonl', None, 'a')
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match='past_context slide'):
        generator.generate(['a'], GREEDY, max_new_tokens=2, past_context='slide')
    with pytest.raises(UserError, match='has learned to go on with a text'):
        Filler(config, params[0], TOKENIZER)
    filler = Filler(configure(Masked()), params[0], TOKENIZER)
    for pieces, options, message in (
        (['all there'], {}, 'no blank to fill'),
        (['a', 'b'], {'tokens': 0}, 'tokens is 0'),
        (['a', 'b'], {'candidates': 0}, 'candidates is 0'),
        (['a' * 64, ''], {}, 'has 66 tokens'),
    ):
        with pytest.raises(UserError, match=message):
            filler.fill(pieces, **options)
    filler = Filler(configure(SpanCorruption(), 1), params[1], TOKENIZER)
    with pytest.raises(UserError, match=r'blank 1 may have 63 tokens, .* room for 62 there'):
        filler.fill(['a', 'b'], tokens=63)
    long = dataclasses.replace(configure(PrefixLM(), 1))
    reads = Generator(Transformer(long.model), params[1], TOKENIZER, reader=reader_of(long, TOKENIZER))
    with pytest.raises(UserError, match="66 tokens and the model's context 64"):
        reads.generate(['a' * 65], GREEDY, max_new_tokens=2)
