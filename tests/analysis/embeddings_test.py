"""Neighbours, analogies and maps: what is planted is found, and chance looks like chance."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.analysis import cooccurrence, embeddings
from llm.config import ModelConfig, TokenizerConfig
from llm.errors import UserError
from llm.model import Transformer
from llm.tokenizer import FIRST_BYTE, SMALLEST_VOCABULARY, train

WIDTH = 32


@pytest.fixture(scope='module')
def planted():
    """Sixteen pairs (i, 16 + i) that differ by one direction, among 200 random vectors."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, WIDTH)).astype(np.float32)
    vectors[16:32] = vectors[:16] + 0.1 * vectors[16:32] + 4 * random.normal(size=WIDTH).astype(np.float32)
    return embeddings.unit(vectors), np.stack([np.arange(16), 16 + np.arange(16)], axis=1)


def test_neighbours_are_sorted_by_cosine_and_leave_out_the_token_itself():
    vectors = embeddings.unit(np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0], [1, -0.3]], np.float32))
    found = embeddings.neighbours(vectors, 0, n=10)
    assert [one.token for one in found] == [1, 4, 2, 3]
    np.testing.assert_allclose([one.cosine for one in found], vectors[[1, 4, 2, 3]] @ vectors[0], rtol=1e-6)
    among = np.array([True, False, True, True, True])
    assert [one.token for one in embeddings.neighbours(vectors, 0, n=2, among=among)] == [4, 2]
    for wrong in (-1, 5):
        with pytest.raises(UserError, match=f'no token {wrong}'):
            embeddings.neighbours(vectors, wrong)


def test_a_planted_offset_answers_every_analogy_and_shuffled_pairs_do_not(planted):
    vectors, pairs = planted
    among = np.ones(len(vectors), bool)
    ranks = embeddings.analogy_ranks(vectors, pairs, among)
    asked = ~np.eye(len(pairs), dtype=bool)
    assert (np.diag(ranks) == 0).all() and (ranks[asked] == 1).mean() > 0.95
    nearest = embeddings.analogy_ranks(vectors, pairs, among, weight=0)
    assert (nearest[asked] == 1).mean() < 0.2  # the offset is long, so the answer is not near its question
    found = embeddings.analogy(vectors, 0, 16, 1, n=3)
    assert found[0].token == 17 and not {0, 16, 1} & {one.token for one in found}


def test_ranks_are_those_of_a_search_by_hand(planted):
    vectors, pairs = planted[0][:60], planted[1][:6]
    among = np.ones(60, bool)
    among[40:] = False
    offsets = np.stack([pairs[:, 0], np.roll(pairs[:, 1], 1)], axis=1)
    for given in (pairs, offsets):
        ranks = embeddings.analogy_ranks(vectors, pairs, among, offsets=given)
        for i, (a, b) in enumerate(given):
            for j, (c, d) in enumerate(pairs):
                found = embeddings.nearest(vectors, vectors[b] - vectors[a] + vectors[c], 60, among, (a, b, c))
                order = [one.token for one in found]
                shared = {a, b} & {c, d}
                assert ranks[i, j] == (0 if shared else order.index(d) + 1)


def test_principal_components_keep_what_varies_most():
    random = np.random.default_rng(1)
    plane = random.normal(size=(50, 2)) * [5, 2]
    turn = np.linalg.qr(random.normal(size=(8, 8)))[0][:2]
    made = embeddings.principal_components(plane @ turn + 3 + 1e-3 * random.normal(size=(50, 8)))
    distance = lambda x: np.linalg.norm(x[:, None] - x[None], axis=-1)
    np.testing.assert_allclose(distance(made.places), distance(plane), atol=0.02)
    assert made.shares[0] > made.shares[1] and sum(made.shares) == pytest.approx(1, abs=1e-4)


def test_umap_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'umap', None)
    with pytest.raises(UserError, match=r'glassbox-llm\[umap\]'):
        embeddings.umap(np.ones((5, 3)))


@pytest.mark.slow  # it compiles for most of a minute
def test_umap_keeps_groups_together():
    pytest.importorskip('umap')
    random = np.random.default_rng(0)
    vectors = np.repeat(random.normal(size=(2, 8)), 10, axis=0) + 0.05 * random.normal(size=(20, 8))
    places = embeddings.umap(vectors, neighbours=5).places
    centres = places[:10].mean(0), places[10:].mean(0)
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * np.linalg.norm(places[:10] - centres[0], axis=1).max()


def test_token_vectors_are_what_enters_the_first_block():
    config = ModelConfig(
        vocab_size=50, context_length=16, num_layers=1, width=16, num_heads=2, embedding_scale=3.0, embedding_norm=True
    )
    tokens = jnp.array([[3, 7, 49]])
    params = jax.jit(Transformer(config).init)(jax.random.key(0), tokens)['params']
    params['embedding_norm']['scale'] = jnp.arange(1.0, 17)
    entering = Transformer(config).apply(
        {'params': params}, tokens, method=lambda model, tokens: model.embedding_norm(model.embedding(tokens))
    )
    np.testing.assert_allclose(embeddings.token_vectors(params, config)[[3, 7, 49]], entering[0], rtol=1e-5)


def test_written_tokens_leave_out_what_no_text_comes_to():
    tokenizer = train(TokenizerConfig(), 300, ['def read(self):\n    return self.read()\n'] * 20)
    found = embeddings.written_tokens(tokenizer, 310)
    assert not found[:FIRST_BYTE].any() and not found[tokenizer.vocab_size :].any()
    assert not found[FIRST_BYTE + ord('r')] and found[tokenizer.encode('read')[0]]
    assert found[SMALLEST_VOCABULARY:300].any()
    text = 'def read(self):\n'
    assert found[tokenizer.encode(text)].all()


def test_counts_are_those_of_a_loop_and_words_of_one_context_get_one_vector():
    random = np.random.default_rng(0)
    stream = random.integers(0, 12, 400)
    counted = cooccurrence.counts([stream[:200], stream[200:]], 12, window=3).toarray()
    by_hand = np.zeros((12, 12))
    for part in (stream[:200], stream[200:]):
        for i in range(len(part)):
            for j in range(max(0, i - 3), min(len(part), i + 4)):
                by_hand[part[i], part[j]] += i != j
    np.testing.assert_array_equal(counted, by_hand)
    # 0 and 1 are used alike, between the same words; 2 is not.
    said = np.concatenate([[4, random.integers(0, 2), 5, 6, 2, 7] for _ in range(300)])
    vectors = embeddings.unit(cooccurrence.vectors(cooccurrence.counts([said], 9, window=1), 4))
    assert vectors[0] @ vectors[1] > 0.99 > 0.5 > abs(vectors[0] @ vectors[2])
