"""What a model's token vectors know: neighbours, analogies, and maps that people can look at.

All of it is NumPy on unit vectors, so a cosine is a dot product. Make them once with `unit_vectors` and ask often.

    neighbours    tokens whose vectors point the same way (cosine)
    analogy       a is to b as c is to ...: the nearest to b - a + c, the three left out (3CosAdd; Mikolov et al. 2013,
                  "Linguistic Regularities"). Much of what it finds is near c anyway (Linzen 2016), so an accuracy
                  means something only beside that of the nearest to c and of shuffled pairs: `analogy_ranks` takes both
    map           two principal components, or UMAP (McInnes et al. 2018)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from llm.config import ModelConfig
from llm.errors import UserError
from llm.tokenizer import Tokenizer

_TINY = 1e-12


class Neighbour(NamedTuple):
    """A token and the cosine of its vector with what was asked for."""

    token: int
    cosine: float


class Map(NamedTuple):
    """Places of vectors on a plane.

    Attributes:
        places: one row each; with principal components, the first has the larger variance.
        shares: of the variance that each axis carries; empty for UMAP, whose axes mean nothing.
    """

    places: Float[np.ndarray, 'vectors dimensions']
    shares: tuple[float, ...]


def token_vectors(params: Any, config: ModelConfig) -> Float[np.ndarray, 'vocabulary width']:
    """What each token brings into the first block, its position aside, in float32.

    Rows of the embedding table times `embedding_scale`, and normalised where `embedding_norm` does. With tied
    embeddings the bare table is also the head: `params['embedding']['table']`.

    Args:
        params: the model's tree as `load_params` gives it (not prepared for reading).
        config: the model's.
    """
    vectors = np.asarray(params['embedding']['table'], np.float32) * config.embedding_scale
    if config.embedding_norm:
        import jax.numpy as jnp

        from llm.model.norms import Norm

        vectors = Norm(config).apply({'params': params['embedding_norm']}, jnp.asarray(vectors))
        vectors = np.asarray(vectors, np.float32)
    return vectors


def unit(vectors: Float[np.ndarray, '*batch width']) -> Float[np.ndarray, '*batch width']:
    """The vectors at length 1; one of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)


def unit_vectors(params: Any, config: ModelConfig) -> Float[np.ndarray, 'vocabulary width']:
    """`token_vectors` at length 1: what everything below takes."""
    return unit(token_vectors(params, config))


def written_tokens(tokenizer: Tokenizer, vocab_size: int) -> Bool[np.ndarray, 'vocabulary']:
    """Which ids a text can come to: those that their own bytes are encoded as.

    Special tokens, bytes that have a piece of their own and unused rows are not; training moves them at random or not
    at all, and among neighbours they say nothing.
    """
    texts = [tokenizer.token_bytes(i) for i in range(min(vocab_size, tokenizer.vocab_size))]
    encoded = tokenizer.encode_batch(texts, num_threads=1)
    found = np.zeros(vocab_size, bool)
    found[: len(texts)] = [bool(text) and ids == [i] for i, (text, ids) in enumerate(zip(texts, encoded))]
    return found


def neighbours(
    vectors: Float[np.ndarray, 'vocabulary width'],
    token: int,
    n: int = 10,
    among: Bool[np.ndarray, 'vocabulary'] | None = None,
) -> list[Neighbour]:
    """The n tokens nearest to one, nearest first, itself left out.

    Args:
        vectors: of length 1, see `unit_vectors`.
        token: its id.
        n: how many, at most.
        among: which tokens may be found, such as `written_tokens`; None is all.

    Raises:
        UserError: if there is no such token.
    """
    if not 0 <= token < len(vectors):
        raise UserError(f'there is no token {token}; ids go from 0 to {len(vectors) - 1}')
    return nearest(vectors, vectors[token], n, among, without=(token,))


def nearest(
    vectors: Float[np.ndarray, 'vocabulary width'],
    direction: Float[np.ndarray, 'width'],
    n: int = 10,
    among: Bool[np.ndarray, 'vocabulary'] | None = None,
    without: Sequence[int] = (),
) -> list[Neighbour]:
    """The n tokens whose vectors have the largest cosine with a direction, largest first.

    Args:
        vectors: of length 1.
        direction: any vector, of any length.
        n: how many, at most.
        among: which tokens may be found; None is all.
        without: ids that may not.
    """
    cosines = vectors @ unit(np.asarray(direction, vectors.dtype))
    open_to = np.ones(len(vectors), bool) if among is None else among.copy()
    open_to[list(without)] = False
    ids = np.flatnonzero(open_to)
    best = ids[np.argsort(-cosines[ids], kind='stable')[:n]]
    return [Neighbour(int(i), float(cosines[i])) for i in best]


def analogy(
    vectors: Float[np.ndarray, 'vocabulary width'],
    a: int,
    b: int,
    c: int,
    n: int = 5,
    among: Bool[np.ndarray, 'vocabulary'] | None = None,
) -> list[Neighbour]:
    """What is to c as b is to a, best first: the nearest to b - a + c, without these three (3CosAdd).

    Args:
        vectors: of length 1.
        a, b, c: token ids.
        n: how many, at most.
        among: which tokens may be found; None is all.
    """
    return nearest(vectors, vectors[b] - vectors[a] + vectors[c], n, among, without=(a, b, c))


def analogy_ranks(
    vectors: Float[np.ndarray, 'vocabulary width'],
    pairs: Int[np.ndarray, 'pairs 2'],
    among: Bool[np.ndarray, 'vocabulary'],
    offsets: Int[np.ndarray, 'pairs 2'] | None = None,
    weight: float = 1.0,
) -> Int[np.ndarray, 'pairs pairs']:
    """At which place each pair's second token comes when another pair says what the relation is.

    Row i, column j: pair i gives the offset, pair j the question c and its answer d; the rank of d among all candidates
    by cosine with `weight * (b - a) + c`, from 1, ties to d's loss, the other inputs left out. It is 0, not asked,
    where the two pairs share a token: on the diagonal, to begin with.

    Args:
        vectors: of length 1.
        pairs: token ids (c, d) of one relation.
        among: the candidates; every d counts as one.
        offsets: pairs (a, b) that offsets come from: `pairs` itself, or with its second column shuffled for what chance
            reaches with the same words; as many as `pairs`.
        weight: 0 asks for the nearest to c instead, which is what an offset has to be better than.
    """
    offsets = pairs if offsets is None else offsets
    candidates = np.flatnonzero(among)
    place = np.full(len(vectors), -1)
    place[candidates] = np.arange(len(candidates))
    tokens, row = np.unique(np.concatenate([pairs, offsets]), return_inverse=True)
    near = vectors[tokens] @ vectors[candidates].T  # of every token asked about, to every candidate
    among_tokens = vectors[tokens] @ vectors[tokens].T
    (c, d), (a, b) = row.reshape(-1, 2)[: len(pairs)].T, row.reshape(-1, 2)[len(pairs) :].T
    inputs = place[np.stack([pairs[:, 0], pairs[:, 1], pairs[:, 0], pairs[:, 0]], axis=1)]
    each = np.arange(len(pairs))[:, None]
    ranks = np.zeros((len(offsets), len(pairs)), np.int64)
    for i, (token_a, token_b) in enumerate(offsets):
        # The length of b - a + c is the same for all candidates, so dot products order them as cosines do.
        scores = near[c] + weight * (near[b[i]] - near[a[i]])[None, :]
        own = among_tokens[c, d] + weight * (among_tokens[b[i], d] - among_tokens[a[i], d])
        before = np.count_nonzero(scores >= own[:, None], axis=1)
        inputs[:, 2:] = place[[token_a, token_b]]  # the inputs do not count, and the answer is not its own rival
        left_out = (inputs >= 0) & (scores[each, inputs] >= own[:, None])
        ranks[i] = 1 + before - np.count_nonzero(left_out, axis=1)
    shared = (offsets[:, :, None, None] == pairs.T[None, None]).any(axis=(1, 2))
    return np.where(shared, 0, ranks)


def principal_components(vectors: Float[np.ndarray, 'vectors width'], n: int = 2) -> Map:
    """Where vectors lie along the n directions in which they differ most. An axis may as well point the other way.

    Args:
        vectors: at least two; their mean is taken off.
        n: at most their number and their width.
    """
    centred = vectors - vectors.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    variance = sizes**2
    return Map(left[:, :n] * sizes[:n], tuple((variance[:n] / max(variance.sum(), _TINY)).tolist()))


def umap(vectors: Float[np.ndarray, 'vectors width'], neighbours: int = 15) -> Map:
    """A plane on which near vectors (by cosine) stay near; how far apart the others are means little.

    Args:
        vectors: more than three.
        neighbours: how many count as near.

    Raises:
        UserError: if the library is not installed.
    """
    try:
        import umap as library
    except ImportError as error:
        raise UserError("UMAP needs the package umap-learn; pip install 'glassbox-llm[umap]', or use pca") from error
    near = min(neighbours, len(vectors) - 1)
    # A fixed seed, and with it one thread: the same vectors give the same map.
    fitted = library.UMAP(n_components=2, n_neighbors=near, metric='cosine', random_state=0, n_jobs=1)
    return Map(np.asarray(fitted.fit_transform(vectors), np.float32), ())
