"""Every sampler's distribution equals its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.inference import sampling
from llm.inference.sampling import SamplingParams

VOCABULARY = 12
next_token_distribution = jax.jit(sampling.next_token_distribution)
sample = jax.jit(sampling.sample)


def defined_distribution(logits, seen, p: SamplingParams):
    """The definition, one token at a time, in float64 with plain Python sets."""
    logits = [float(x) for x in logits]
    for token in np.flatnonzero(seen):
        positive = logits[token] > 0
        logits[token] *= 1 / p.repetition_penalty if positive else p.repetition_penalty
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if p.temperature == 0:
        return np.eye(len(logits))[ranked[0]]
    weight = {token: np.exp((logits[token] - max(logits)) / p.temperature) for token in ranked}
    kept = ranked[: p.top_k] if p.top_k else ranked
    if p.top_p < 1:
        total, reached, nucleus = sum(weight[token] for token in kept), 0.0, []
        for token in kept:
            if reached >= p.top_p:
                break
            nucleus.append(token)
            reached += weight[token] / total
        kept = nucleus
    kept = [token for token in kept if weight[token] >= p.min_p * weight[kept[0]]]
    total = sum(weight[token] for token in kept)
    return np.array([weight[token] / total if token in kept else 0.0 for token in range(len(logits))])


SETTINGS = [
    SamplingParams(),
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.0, repetition_penalty=3.0),
    SamplingParams(temperature=0.5),
    SamplingParams(temperature=1.7),
    SamplingParams(top_k=1),
    SamplingParams(top_k=4),
    SamplingParams(top_k=100),
    SamplingParams(top_p=0.3),
    SamplingParams(top_p=0.9),
    SamplingParams(top_p=1e-6),
    SamplingParams(min_p=0.2),
    SamplingParams(min_p=1.0),
    SamplingParams(repetition_penalty=1.5),
    SamplingParams(repetition_penalty=0.5),
    SamplingParams(temperature=0.8, top_k=7, top_p=0.85, min_p=0.05, repetition_penalty=1.2),
    SamplingParams(temperature=2.0, top_k=5, top_p=0.6),
]


def random_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (count, VOCABULARY)).astype(np.float32), rng.random((count, VOCABULARY)) < 0.3


def test_distributions_equal_their_definition():
    # All settings in one batch: each row must follow its own, whatever the others ask for.
    for seed in range(20):
        logits, seen = random_rows(len(SETTINGS), seed)
        got = next_token_distribution(jnp.asarray(logits), jnp.asarray(seen), sampling.stack(SETTINGS))
        for row, params in enumerate(SETTINGS):
            expected = defined_distribution(logits[row], seen[row], params)
            np.testing.assert_array_equal(got[row] > 0, expected > 0, err_msg=str(params))
            np.testing.assert_allclose(got[row], expected, atol=1e-6, err_msg=str(params))


@pytest.mark.parametrize('params', SETTINGS, ids=str)
def test_a_row_alone_equals_its_definition(params):
    # Alone, a row without top-k and top-p takes the path without the sort.
    logits, seen = random_rows(1, 7)
    got = next_token_distribution(jnp.asarray(logits), jnp.asarray(seen), sampling.stack([params]))
    np.testing.assert_allclose(got[0], defined_distribution(logits[0], seen[0], params), atol=1e-6)


def test_ties_go_to_the_lower_id():
    logits = jnp.array([[0.0, 1.0, -0.0, 1.0, 1.0, 0.0]] * 4)
    settings = [SamplingParams(temperature=0.0), SamplingParams(top_k=2), SamplingParams(top_k=4)]
    settings += [SamplingParams(top_p=0.4)]
    got = next_token_distribution(logits, jnp.zeros(logits.shape, bool), sampling.stack(settings))
    kept = [np.flatnonzero(row).tolist() for row in np.asarray(got)]
    assert kept == [[1], [1, 3], [0, 1, 3, 4], [1, 3]]


def test_top_p_of_one_keeps_the_whole_tail():
    logits = jnp.linspace(0, -60, 4096)[None]  # probabilities far below float32's resolution of 1
    settings = sampling.stack([SamplingParams(top_k=4095)])  # sorted, so the cumulative sum is computed
    kept = jnp.isfinite(sampling.filtered_logits(logits, jnp.zeros(logits.shape, bool), settings))
    assert int(kept.sum()) == 4095


def test_filtered_logits_are_float32_under_bfloat16():
    logits, seen = random_rows(1)
    got = sampling.filtered_logits(jnp.asarray(logits, jnp.bfloat16), jnp.asarray(seen), sampling.stack(SETTINGS[:1]))
    assert got.dtype == jnp.float32


@pytest.mark.parametrize('params', [SETTINGS[0], SETTINGS[-1], SETTINGS[-2]], ids=str)
def test_frequencies_follow_the_distribution(params):
    # Pearson's chi-square over 20,000 draws of one seed; the bound is the 99.9% quantile for 11 degrees of freedom.
    draws = 20_000
    logits, seen = random_rows(1, 3)
    expected = defined_distribution(logits[0], seen[0], params) * draws

    def draw(count):
        return sampling.sample(jnp.asarray(logits), jnp.asarray(seen), sampling.stack([params]), count[None])[0]

    tokens = jax.jit(jax.vmap(draw))(jnp.arange(draws))
    observed = np.bincount(tokens, minlength=VOCABULARY)
    assert observed[expected == 0].sum() == 0
    support = expected > 0
    assert np.sum((observed - expected)[support] ** 2 / expected[support]) < 31.26


def test_randomness_belongs_to_the_row():
    logits, seen = random_rows(1, 5)
    settings = [SamplingParams(seed=seed) for seed in range(64)]

    def tokens(rows, counts):
        many = jnp.tile(logits, (len(rows), 1)), jnp.tile(seen, (len(rows), 1))
        return np.asarray(sample(*many, sampling.stack(rows), jnp.asarray(counts)))

    together = tokens(settings, [9] * 64)
    assert together.tolist() == [int(tokens([row], [9])[0]) for row in settings]
    assert len(set(together.tolist())) > 3  # seeds differ
    assert together.tolist() != tokens(settings, [10] * 64).tolist()  # and so do the places in a text


@pytest.mark.parametrize(
    'field, value',
    [
        ('temperature', -0.1),
        ('temperature', float('nan')),
        ('temperature', float('inf')),
        ('top_k', -1),
        ('top_p', 0.0),
        ('top_p', 1.01),
        ('min_p', -0.1),
        ('min_p', 1.5),
        ('repetition_penalty', 0.0),
        ('repetition_penalty', float('inf')),
        ('seed', -1),
        ('seed', 2**32),
    ],
)
def test_values_out_of_range_name_the_field(field, value):
    with pytest.raises(ValueError, match=rf'^{field} is .*; it must be .+$'):
        SamplingParams(**{field: value})
