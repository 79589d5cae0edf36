"""From logits to the next token.

The settings of a row act in this order, each on what the one before left:

1. repetition penalty: the logits of tokens in the prompt or generated so far are divided by it where positive and
   multiplied by it where negative (Keskar et al. 2019, CTRL);
2. temperature: logits are divided by it; at 0 only the largest logit stays (greedy);
3. top-k: only the k largest logits stay (Fan et al. 2018);
4. top-p: of what is left, renormalised, only the smallest set of tokens whose probability reaches p stays
   (Holtzman et al. 2020);
5. min-p: of what is left, only tokens at least min-p times as probable as the most probable one stay
   (Nguyen et al. 2024).

Ties go to the lower id. Settings are arrays with one entry per row, so one compiled program serves them all.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32


@dataclass(frozen=True)
class SamplingParams:
    """How a token is drawn from the model's distribution. The defaults draw from it unchanged.

    Raises:
        ValueError: naming the field and its range.
    """

    temperature: float = 1.0  # logits are divided by it; 0 takes the most probable token
    top_k: int = 0  # tokens kept, the most probable ones; 0 keeps all
    top_p: float = 1.0  # probability kept: the fewest tokens that reach it
    min_p: float = 0.0  # least probability kept, as a fraction of the largest
    repetition_penalty: float = 1.0  # above 1 makes tokens that occurred less probable
    seed: int = 0  # of the row's random numbers

    def __post_init__(self):
        finite = np.isfinite
        for name, holds, must in (
            ('temperature', self.temperature >= 0 and finite(self.temperature), 'at least 0 (0 is greedy)'),
            ('top_k', 0 <= self.top_k < 2**31, 'in [0, 2^31) (0 keeps all tokens)'),
            ('top_p', 0 < self.top_p <= 1, 'in (0, 1]'),
            ('min_p', 0 <= self.min_p <= 1, 'in [0, 1]'),
            ('repetition_penalty', self.repetition_penalty > 0 and finite(self.repetition_penalty), 'positive'),
            ('seed', 0 <= self.seed < 2**32, 'in [0, 2^32)'),
        ):
            if not holds:
                raise ValueError(f'{name} is {getattr(self, name)!r}; it must be {must}')


class RowSettings(NamedTuple):
    """`SamplingParams` of a batch of rows, field by field."""

    temperature: Float[Array, 'batch']
    top_k: Int[Array, 'batch']
    top_p: Float[Array, 'batch']
    min_p: Float[Array, 'batch']
    repetition_penalty: Float[Array, 'batch']
    seed: UInt32[Array, 'batch']


def stack(rows: Sequence[SamplingParams]) -> RowSettings:
    """One array per field, one entry per row."""
    dtypes = {'top_k': np.int32, 'seed': np.uint32}
    columns = {
        f.name: np.array([getattr(row, f.name) for row in rows], dtypes.get(f.name, np.float32))
        for f in dataclasses.fields(SamplingParams)
    }
    return RowSettings(**jax.tree.map(jnp.asarray, columns))


def filtered_logits(
    logits: Float[Array, 'batch vocabulary'], seen: Bool[Array, 'batch vocabulary'], settings: RowSettings
) -> Float[Array, 'batch vocabulary']:
    """Logits of the distribution that is sampled: float32, -inf where a token cannot be drawn.

    Args:
        logits: the model's.
        seen: which tokens occur in the row's prompt or were generated.
        settings: of each row.
    """
    column = jax.tree.map(lambda x: x[:, None], settings)
    logits = logits.astype(jnp.float32)
    penalised = jnp.where(logits > 0, logits / column.repetition_penalty, logits * column.repetition_penalty)
    logits = jnp.where(seen, penalised, logits)

    greedy = column.temperature == 0
    best = jnp.arange(logits.shape[-1])[None, :] == most_probable(logits)[:, None]
    logits = logits / jnp.where(greedy, 1.0, column.temperature)
    logits = jnp.where(greedy & ~best, -jnp.inf, logits)

    # Sorting is the expensive part; a batch in which no row asks for it goes without.
    sorts = jnp.any((settings.top_k > 0) | (settings.top_p < 1))
    logits = jax.lax.cond(sorts, _top_k_top_p, lambda x, _: x, logits, settings)

    relative = logits - jnp.max(logits, axis=-1, keepdims=True)  # log of the ratio to the largest probability
    return jnp.where(relative < jnp.log(column.min_p), -jnp.inf, logits)


def most_probable(logits: Float[Array, 'batch vocabulary']) -> Int[Array, 'batch']:
    """`argmax` over the vocabulary, as two plain reductions: on a CPU several times as fast as one over pairs."""
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, :]
    largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    return jnp.min(jnp.where(largest, ids, logits.shape[-1] - 1), axis=-1)


def _top_k_top_p(logits: Float[Array, 'batch vocabulary'], settings: RowSettings) -> Float[Array, 'batch vocabulary']:
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None, :]
    order = jnp.argsort(logits, axis=-1, stable=True, descending=True).astype(jnp.int32)
    sorted_logits = jnp.take_along_axis(logits, order, axis=-1)

    top_k = settings.top_k[:, None]
    in_top_k = (top_k == 0) | (ids < top_k)
    probabilities = jax.nn.softmax(jnp.where(in_top_k, sorted_logits, -jnp.inf), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    top_p = settings.top_p[:, None]
    in_top_p = (top_p == 1) | (before < top_p)  # rounding must not cost the tail its place when all is to be kept

    # What stays is a prefix of the sorted order, so its last member tells who belongs.
    last = jnp.sum(in_top_k & in_top_p, axis=-1, keepdims=True) - 1
    least = jnp.take_along_axis(sorted_logits, last, axis=-1)
    last_id = jnp.take_along_axis(order, last, axis=-1)
    return jnp.where((logits > least) | ((logits == least) & (ids <= last_id)), logits, -jnp.inf)


def next_token_distribution(
    logits: Float[Array, 'batch vocabulary'], seen: Bool[Array, 'batch vocabulary'], settings: RowSettings
) -> Float[Array, 'batch vocabulary']:
    """Probabilities from which `sample` draws; arguments as for `filtered_logits`."""
    return jax.nn.softmax(filtered_logits(logits, seen, settings), axis=-1)


def sample(
    logits: Float[Array, 'batch vocabulary'],
    seen: Bool[Array, 'batch vocabulary'],
    settings: RowSettings,
    generated: Int[Array, 'batch'],
) -> Int[Array, 'batch']:
    """Draws one token per row.

    A row's random numbers follow from its seed and the number of tokens it has generated, and from nothing else: not
    from the other rows, nor from how the decoding is cut into calls.

    Args:
        logits: the model's.
        seen: which tokens occur in the row's prompt or were generated.
        settings: of each row.
        generated: tokens each row has generated so far.
    """

    def noise(row_logits, seed, count):
        return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), count), row_logits.shape, row_logits.dtype)

    def draw(logits):
        return most_probable(logits + jax.vmap(noise)(logits, settings.seed, generated))

    # A batch in which all are greedy makes no random numbers, which cost more than a small model's step.
    return jax.lax.cond(
        jnp.all(settings.temperature == 0), most_probable, draw, filtered_logits(logits, seen, settings)
    )
