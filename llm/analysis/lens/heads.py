"""What kind of head is it? Scores of attention patterns (Elhage et al. 2021; Olsson et al. 2022).

Each score is a share of a head's attention, from 0 to 1, averaged over the queries for which there is something to look
at (NaN if there is none):

    previous    on the token just before
    duplicate   on earlier copies of the query's own token
    induction   on the tokens that came just after those copies: what follows if the text repeats itself
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from llm.analysis.lens.activations import run
from llm.config import ModelConfig

Pattern = Float[Array | np.ndarray, 'layers batch heads length length']
Tokens = Int[Array | np.ndarray, 'batch length']


def previous_token_score(pattern: Pattern, tokens: Tokens) -> Float[Array, 'layers heads']:
    """Attention to the previous token, over all queries but the first of each row."""
    step = _distance(tokens.shape[1])
    return _share(pattern, jnp.broadcast_to(step == 1, (*tokens.shape, tokens.shape[1])))


def duplicate_token_score(pattern: Pattern, tokens: Tokens) -> Float[Array, 'layers heads']:
    """Attention to earlier copies of the query's token, over the queries that have any."""
    tokens = jnp.asarray(tokens)
    same = tokens[:, :, None] == tokens[:, None, :]
    return _share(pattern, same & (_distance(tokens.shape[1]) > 0))


def induction_score(pattern: Pattern, tokens: Tokens) -> Float[Array, 'layers heads']:
    """Attention to what followed earlier copies of the query's token (prefix matching), over queries that have any.

    On a block of distinct tokens, repeated, that is the attention to the token `period - 1` back.
    """
    tokens = jnp.asarray(tokens)
    before = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]  # the token that each key came after
    follows = tokens[:, :, None] == before[:, None, :]
    return _share(pattern, follows & (_distance(tokens.shape[1]) > 0))


def head_scores(pattern: Pattern, tokens: Tokens) -> dict[str, Float[Array, 'layers heads']]:
    """All of them: 'previous', 'duplicate' and 'induction'."""
    return {
        'previous': previous_token_score(pattern, tokens),
        'duplicate': duplicate_token_score(pattern, tokens),
        'induction': induction_score(pattern, tokens),
    }


def repeated_tokens(
    vocab_size: int, rows: int, period: int, copies: int = 2, seed: int = 0, first: int | None = None
) -> Int[np.ndarray, 'rows length']:
    """Rows of random tokens, each a block of `period` of them repeated: what only the row itself can teach.

    Args:
        vocab_size: ids are below it. A block has no token twice if the vocabulary allows.
        rows: how many.
        period: tokens of a block.
        copies: of the block in a row.
        seed: of the random numbers.
        first: a token put before each row (beginning of sequence), and in no block; None is none.
    """
    random = np.random.default_rng(seed)
    ids = np.setdiff1d(np.arange(vocab_size), [] if first is None else [first])
    block = np.stack([random.choice(ids, period, replace=period > len(ids)) for _ in range(rows)])
    tokens = np.tile(block, (1, copies)).astype(np.int32)
    return tokens if first is None else np.pad(tokens, ((0, 0), (1, 0)), constant_values=first)


def scores_on_repeats(
    params: Any,
    config: ModelConfig,
    *,
    rows: int = 8,
    period: int | None = None,
    seed: int = 0,
    first: int | None = None,
) -> dict[str, Float[Array, 'layers heads']]:
    """The scores of every head on blocks of random tokens, each read twice.

    Args:
        params: the model's.
        config: the model's.
        rows: how many blocks.
        period: tokens of a block; by default as many as fit twice, and at most 64.
        seed: of the tokens.
        first: a token before each row, such as the tokenizer's beginning of sequence.
    """
    room = config.context_length - (first is not None)
    tokens = repeated_tokens(config.vocab_size, rows, period or min(64, room // 2), seed=seed, first=first)
    return head_scores(run(params, config, tokens, ('pattern',), with_logits=False).activations['pattern'], tokens)


def _distance(length: int) -> Int[Array, '1 length length']:
    index = jnp.arange(length)
    return (index[:, None] - index[None, :])[None]


@jax.jit
def _share(pattern: Pattern, looked_at: Bool[Array, 'batch length length']) -> Float[Array, 'layers heads']:
    queries = jnp.any(looked_at, axis=-1)
    weight = jnp.sum(pattern * looked_at[None, :, None], axis=-1)
    return jnp.sum(weight, axis=(1, 3)) / jnp.sum(queries)
