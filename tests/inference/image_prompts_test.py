"""Prompts with images: what is written after them is what the whole sequence, read at once, makes most probable."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import ModelConfig, TokenizerConfig
from llm.data import images
from llm.errors import UserError
from llm.inference.generate import Generator
from llm.inference.prompt_file import Settings, write_file
from llm.inference.sampling import SamplingParams
from llm.model import Transformer
from llm.model.patches import image_inputs
from llm.tokenizer import train

MODEL = ModelConfig(
    vocab_size=272,
    context_length=32,
    num_layers=2,
    width=16,
    num_heads=2,
    feed_forward_width=24,
    image_size=4,
    patch_size=2,
)
GREEDY = SamplingParams(temperature=0.0)


@pytest.fixture(scope='module')
def generator():
    model = Transformer(MODEL)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params'])
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.4, x.shape), x.dtype), shapes)
    generator = Generator(model, params, train(TokenizerConfig(kind='byte'), 272, []))
    generator.raw = params
    return generator


def prompt(generator, text, *seeds):
    pictures = [np.random.default_rng(seed).uniform(0, 1, (4, 4)) for seed in seeds]
    return images.encode_prompt(generator.tokenizer, text, pictures, MODEL)


def read_at_once(generator, prompts, count):
    """The most probable continuations, every token from a pass over all that precedes it, without a cache."""
    model = generator.model
    rows = [list(prompt.ids) if isinstance(prompt, images.ImagePrompt) else list(prompt) for prompt in prompts]
    pictures = [prompt if isinstance(prompt, images.ImagePrompt) else None for prompt in prompts]

    @jax.jit
    def logits(tokens, batch):
        given = image_inputs(model, generator.raw, batch)
        return model.apply({'params': generator.raw}, tokens, **given).logits

    starts = [len(row) for row in rows]
    for _ in range(count):
        tokens = np.array([row + [0] * (32 - len(row)) for row in rows], np.int32)
        scores = logits(tokens, images.stack(pictures, 32))
        for i, row in enumerate(rows):
            row.append(int(np.argmax(scores[i, len(row) - 1])))
    return [row[start:] for row, start in zip(rows, starts)]


def test_prompts_with_and_without_images_are_continued_together(generator):
    """In one batch, with a cache: the same as each read at once, again and again."""
    asked = [
        prompt(generator, 'a<image>b', 0),
        generator.encode('only text'),
        prompt(generator, '<image>cc<image>d', 1, 2),
        prompt(generator, 'a<image>b', 3),  # the first one's words about another image
    ]
    written = [one.ids for one in generator.generate(asked, GREEDY, max_new_tokens=4)]
    expected = read_at_once(generator, asked, 4)
    assert written == [ids[: len(found)] for ids, found in zip(expected, written)]
    assert written[0] != written[3]


def test_what_has_no_place_for_images_says_so(generator):
    asked = prompt(generator, 'a<image>b', 0)
    with pytest.raises(UserError, match='beam search reads no images'):
        generator.beam(asked, beam_size=2, max_new_tokens=2)
    with pytest.raises(UserError, match='half of an image'):
        generator.generate([asked], GREEDY, max_new_tokens=2, past_context='slide')
    with pytest.raises(UserError, match="model's context of 32"):
        generator.generate([asked], GREEDY, max_new_tokens=40)
    plain = dataclasses.replace(MODEL, image_size=None, patch_size=None)
    with pytest.raises(UserError, match='the model reads none'):
        images.encode_prompt(generator.tokenizer, 'a<image>b', asked.images, plain)


def test_a_file_of_prompts_shows_no_images_and_says_so(generator, tmp_path):
    rows = tmp_path / 'prompts.jsonl'
    rows.write_text(json.dumps({'prompt': '<image>?', 'images': ['digit.png']}) + '\n')
    with pytest.raises(UserError, match='rows with images, which a file of prompts does not show'):
        write_file(generator, rows, tmp_path / 'out.jsonl', Settings(GREEDY, max_new_tokens=2), 'a')
    assert list(tmp_path.iterdir()) == [rows]
