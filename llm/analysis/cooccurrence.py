"""Word vectors without a model: what counting alone teaches from the same tokens.

Positive pointwise mutual information of a token and its neighbours, cut to its largest singular vectors (Levy &
Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization"; context smoothing after Levy et al. 2015). A
relation that these vectors show is in the corpus, whether or not a model's embeddings have learned it.
"""

from collections.abc import Iterable

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float, Integer

WINDOW = 4  # tokens to each side
SMOOTHING = 0.75  # exponent of context counts: rare contexts would else have too much information


def counts(
    streams: Iterable[Integer[np.ndarray, '_']], vocab_size: int, window: int = WINDOW
) -> scipy.sparse.csr_matrix:
    """How often each token stands within `window` tokens of each other one: a symmetric matrix.

    Args:
        streams: token ids; no pair reaches across two streams.
        vocab_size: one more than the largest id.
        window: tokens to each side, near ones and far ones counted alike.
    """
    total = scipy.sparse.csr_matrix((vocab_size, vocab_size), dtype=np.float64)
    for stream in streams:
        stream = np.asarray(stream, np.int64)
        for distance in range(1, min(window, len(stream) - 1) + 1):
            ones = np.ones(len(stream) - distance)
            pairs = (stream[:-distance], stream[distance:])
            total = total + scipy.sparse.csr_matrix((ones, pairs), shape=total.shape)
    return (total + total.T).tocsr()


def vectors(pairs: scipy.sparse.csr_matrix, width: int) -> Float[np.ndarray, 'vocabulary width']:
    """Token vectors from counts: singular vectors of the positive PMI, each times the root of its singular value.

    Args:
        pairs: see `counts`.
        width: of a vector, less than the vocabulary.
    """
    pairs = pairs.tocoo()
    of_token = np.asarray(pairs.sum(axis=1)).ravel()
    of_context = of_token**SMOOTHING
    share = of_context / of_context.sum()
    information = np.log(pairs.data / (of_token[pairs.row] * share[pairs.col]))
    positive = scipy.sparse.csr_matrix((np.maximum(information, 0), (pairs.row, pairs.col)), shape=pairs.shape)
    positive.eliminate_zeros()
    start = np.random.default_rng(0).normal(size=pairs.shape[0])  # fixed, so that the result is
    left, sizes, _ = scipy.sparse.linalg.svds(positive, k=min(width, pairs.shape[0] - 1), v0=start)
    return (left * np.sqrt(sizes)).astype(np.float32)
