"""The codec: what goes in comes out, and costs what the model says."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.compression import codec, compressor
from llm.errors import MachineError, UserError

START = 1


@pytest.fixture(scope='module')
def tiny(run):
    return compressor.load(run)


def random_tokens(tiny, number, seed=0):
    return np.random.default_rng(seed).choice(np.flatnonzero(tiny.token_sizes), number).astype(np.int32)


def coded(tiny, tokens, streams):
    """What encoding gives, and the fingerprint of its first step."""
    predictors = tiny.predictors(len(tokens), streams, tiny.window)
    return codec.encode(predictors, tokens, START), predictors[0].fingerprint


def test_frequencies_are_whole_numbers_whose_sums_are_exact():
    logits = jnp.array(np.random.default_rng(0).normal(0, 30, (20, 4096)), jnp.float32)
    codable = jnp.arange(4096) >= 16
    found = np.asarray(codec.frequencies(logits, codable))
    assert found.dtype == np.float32 and (found == np.floor(found)).all() and found.min() == 1
    assert (found[:, :16] == 1).all()
    exact = found.astype(np.int64).sum(axis=1)
    assert exact.max() < 2**24 and exact.min() >= codec.TOTAL - 1
    # In whatever order float32 adds them up, nothing is rounded.
    for order in (np.arange(4096), np.argsort(found[0]), np.argsort(-found[0])):
        np.testing.assert_array_equal(np.cumsum(found[:, order], axis=1, dtype=np.float32)[:, -1], exact)
    wanted = jax.nn.softmax(jnp.where(codable, logits, -jnp.inf))
    np.testing.assert_allclose(found / exact[:, None], wanted, atol=4097 / codec.TOTAL)


@pytest.mark.parametrize('number, streams', [(1, 1), (16, 1), (17, 1), (90, 1), (9, 4), (250, 16)])
def test_what_goes_in_comes_out(tiny, number, streams):
    """In streams of equal and of unequal length, within the window of 16, and past it, where it slides."""
    tokens = random_tokens(tiny, number)
    payload, fingerprint = coded(tiny, tokens, streams)
    fresh = tiny.predictors(number, streams, tiny.window)
    found = codec.decode(fresh, payload, number, START, fingerprint)
    np.testing.assert_array_equal(found, tokens)


def test_a_text_costs_its_negative_log_likelihood(tiny):
    """The model's own, computed without cache, streams or integers; a range coder adds less than two words of 32 bits.

    A window is 16 tokens; when it is full, the last 8 that were read stay.
    """
    tokens = random_tokens(tiny, 60, seed=1)
    payload, _ = coded(tiny, tokens, 1)
    logits = jax.jit(lambda params, window: tiny.model.apply({'params': params}, window).logits[0])
    bits, window = 0.0, []
    for before, token in zip([START, *tokens], tokens):
        window = [*(window[-8:] if len(window) == 16 else window), before]
        padded = jnp.zeros((1, 16), jnp.int32).at[0, : len(window)].set(jnp.array(window))
        found = np.asarray(logits(tiny.params, padded)[len(window) - 1], np.float64)[tiny.token_sizes > 0]
        place = np.flatnonzero(np.flatnonzero(tiny.token_sizes) == token)[0]
        bits -= (found[place] - np.logaddexp.reduce(found)) / np.log(2)
    assert bits > 200  # else this would show nothing
    assert bits - 1 < 8 * len(payload) < bits + 64


def test_streams_do_not_see_each_other(tiny):
    """What a stream's tokens cost does not depend on which other stream is beside it."""
    first, second = random_tokens(tiny, 40, seed=2), random_tokens(tiny, 40, seed=3)
    predictor, other = (tiny.predictors(9, 4, tiny.window)[0] for _ in range(2))
    for a, b in zip(first, second):
        predictor.start(np.array([a, b, b, b], np.int32))
        other.start(np.array([a, a, a, a], np.int32))
        mine, theirs = predictor.finish(), other.finish()
        np.testing.assert_array_equal(mine[0], theirs[0])
    assert (mine[1] != theirs[1]).any()


def test_bits_of_another_model_are_not_decoded(tiny):
    payload, _ = coded(tiny, random_tokens(tiny, 9), 4)
    fresh = tiny.predictors(9, 4, tiny.window)
    assert codec.decode(fresh, payload, 9, START, 'another fingerprint') is None


def test_a_model_that_is_not_finite_is_refused(tiny):
    broken = dataclasses.replace(tiny, params=jax.tree.map(lambda x: x * jnp.nan, tiny.params))
    with pytest.raises(MachineError, match='not finite'):
        coded(broken, random_tokens(tiny, 1), 1)


def test_the_library_is_an_extra(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, 'constriction', None)
    with pytest.raises(UserError, match=r"pip install 'glassbox-llm\[compression\]'"):
        coded(tiny, random_tokens(tiny, 1), 1)
