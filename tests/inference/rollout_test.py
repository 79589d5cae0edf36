"""A rollout draws what the decoder draws, wherever it runs, and knows how probable it was."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import ParallelConfig
from llm.inference.decode import Decoder
from llm.inference.rollout import rollout
from llm.inference.sampling import SamplingParams
from llm.parallel import axes
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import EOS, PAD

NEW, TEMPERATURE, SAMPLES = 9, 3.0, 2
PROMPTS = [[1, 5, 9, 4, 7], [1], [1, 8, 20], [1, 3, 3, 4], [1, 5, 9, 4, 7], [1, 6], [1, 8, 21], [1, 3, 3, 5]]


def padded(fill=PAD):
    rows = np.full((len(PROMPTS), max(map(len, PROMPTS))), fill, np.int32)
    for row, prompt in zip(rows, PROMPTS):
        row[: len(prompt)] = prompt
    return rows, np.array([len(prompt) for prompt in PROMPTS], np.int32)


SEEDS = np.arange(len(PROMPTS) * SAMPLES, dtype=np.uint32)


@functools.partial(jax.jit, static_argnames=('model', 'stop_early', 'end_ids'))
def compiled(model, params, prompts, lengths, seeds, temperature=TEMPERATURE, stop_early=True, end_ids=(EOS,)):
    return rollout(model, params, prompts, lengths, seeds, NEW, temperature, stop_early=stop_early, end_ids=end_ids)


@pytest.fixture(scope='module')
def policy(tiny):
    return tiny(context_length=16)


@pytest.fixture(scope='module')
def drawn(policy):
    return jax.device_get(compiled(*policy, *padded(), SEEDS))


def test_draws_what_the_decoder_draws(policy, drawn):
    prompts = [prompt for prompt in PROMPTS for _ in range(SAMPLES)]
    settings = [SamplingParams(temperature=TEMPERATURE, seed=int(seed)) for seed in SEEDS]
    decoder = Decoder(*policy, prompts, settings, max_new_tokens=NEW, stop_ids=(EOS,))
    written = decoder.advance(NEW)
    assert {len(row) == NEW and row[-1][0] != EOS for row in written} == {True, False}  # some end, some are cut
    for i, (prompt, row) in enumerate(zip(prompts, written)):
        response = [token for token, _ in row]
        assert drawn.lengths[i] == len(prompt) + len(response)
        assert drawn.prompt_lengths[i] == len(prompt)
        assert drawn.tokens[i].tolist()[: drawn.lengths[i]] == prompt + response
        assert (drawn.tokens[i, drawn.lengths[i] :] == PAD).all()
        assert drawn.ended[i] == (response[-1] == EOS)


def test_any_of_several_tokens_ends_a_response(policy, drawn):
    """As the tokenizers of some models have it. The same tokens are drawn, up to the first that ends."""
    never = jax.device_get(compiled(*policy, *padded(), SEEDS, end_ids=(10**6,)))  # beyond the vocabulary
    assert not never.ended.any()
    written = [row[start : start + NEW].tolist() for row, start in zip(never.tokens, never.prompt_lengths)]
    ends = (written[0][4], written[1][2])
    several = jax.device_get(compiled(*policy, *padded(), SEEDS, end_ids=ends))
    for i, response in enumerate(written):
        size = next((at + 1 for at, token in enumerate(response) if token in ends), NEW)
        assert several.lengths[i] == several.prompt_lengths[i] + size
        assert several.tokens[i, several.prompt_lengths[i] : several.lengths[i]].tolist() == response[:size]
        assert several.ended[i] == (response[size - 1] in ends)
    assert len({row[size - 1] for row, size in zip(written, several.lengths - several.prompt_lengths)} & set(ends)) == 2


def test_log_probabilities_are_those_of_the_whole_row_at_the_temperature(policy, drawn, full_logits):
    for i, length in enumerate(drawn.lengths):
        logits = full_logits(*policy, drawn.tokens[i, : length - 1].tolist()).astype(np.float64) / TEMPERATURE
        expected = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        expected = expected[np.arange(length - 1), drawn.tokens[i, 1:length]]
        start = drawn.prompt_lengths[i]
        np.testing.assert_allclose(drawn.sampler_logprobs[i, start:length], expected[start - 1 :], atol=1e-5)
        assert not drawn.sampler_logprobs[i, :start].any() and not drawn.sampler_logprobs[i, length:].any()
    assert drawn.sampler_logprobs.dtype == np.float32


def test_what_pads_a_prompt_and_who_is_beside_it_change_nothing(policy, drawn):
    other = jax.device_get(compiled(*policy, *padded(fill=17), SEEDS))
    np.testing.assert_array_equal(other.tokens, drawn.tokens)
    prompts, lengths = padded()
    alone = jax.device_get(compiled(*policy, prompts[2:3], lengths[2:3], SEEDS[5:6]))
    np.testing.assert_array_equal(alone.tokens[0], drawn.tokens[5])


def test_an_early_stop_is_only_faster(policy, drawn):
    whole = jax.device_get(compiled(*policy, *padded(), SEEDS, stop_early=False))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), whole, drawn)


def test_a_population_draws_as_each_alone(policy, drawn):
    model, params = policy
    both = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), params)
    for early in (True, False):
        run = functools.partial(compiled, model, stop_early=early)
        together = jax.device_get(jax.vmap(run, in_axes=(0, None, None, None))(both, *padded(), SEEDS))
        np.testing.assert_array_equal(together.tokens[0], drawn.tokens)
        assert (together.tokens[1] != drawn.tokens).any()


@pytest.mark.parametrize('cut', [ParallelConfig(), ParallelConfig(fsdp=4), ParallelConfig(data=2, fsdp=2, tensor=2)])
def test_a_mesh_draws_the_same(policy, drawn, cut):
    model, params = policy
    mesh = mesh_lib.make_mesh(cut)
    params = jax.device_put(params, mesh_lib.shardings(mesh, params, params))
    rows = jax.sharding.NamedSharding(mesh, axes.spec('batch'))
    with jax.set_mesh(mesh):
        found = compiled(model, params, *jax.device_put((*padded(), SEEDS), rows))
    np.testing.assert_array_equal(found.tokens, drawn.tokens)
    np.testing.assert_allclose(found.sampler_logprobs, drawn.sampler_logprobs, atol=1e-5)


def test_pmap_draws_the_same(policy, drawn):
    model, params = policy
    prompts, lengths = (x.reshape(8, 1, *x.shape[1:]) for x in padded())
    program = jax.pmap(functools.partial(compiled, model), in_axes=(None, 0, 0, 0))
    found = program(params, prompts, lengths, SEEDS.reshape(8, -1))
    np.testing.assert_array_equal(found.tokens.reshape(drawn.tokens.shape), drawn.tokens)


def test_draws_from_the_distribution(policy):
    """First tokens of 4,096 responses to one prompt, against their probabilities."""
    model, params = policy
    prompts, lengths = padded()
    seeds = np.arange(4096, dtype=np.uint32)
    found = jax.device_get(compiled(model, params, prompts[:1], lengths[:1], seeds, 3.0))
    first = found.tokens[:, lengths[0]]
    counts = np.bincount(first, minlength=24)
    probability = np.zeros(24)
    probability[first] = np.exp(found.sampler_logprobs[:, lengths[0]])
    kept = 4096 * probability > 5
    assert kept.sum() > 5
    expected = 4096 * probability[kept]
    assert np.sum((counts[kept] - expected) ** 2 / expected) < 50  # 99.9% quantile of 23 degrees of freedom: 49.7


def test_as_many_seeds_for_every_prompt(policy):
    with pytest.raises(ValueError, match='15 seeds for 8 prompts'):
        rollout(*policy, *padded(), SEEDS[1:], NEW, 1.0)
