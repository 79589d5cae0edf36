"""Best-of-n: draw n responses, keep the one with the highest score. The policy that needs no training, and the measure
for those that do (Stiennon et al. 2020; Gao et al. 2022)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from llm.inference.rollout import Rollout, rollout
from llm.model.transformer import Transformer


def best_of_n(
    model: Transformer,
    params: Any,
    score: Callable[[Rollout], Float[Array, 'rows']],
    prompts: Int[Array, 'prompts prompt_length'],
    prompt_lengths: Int[Array, 'prompts'],
    seeds: UInt32[Array, 'rows'],
    max_new_tokens: int,
    temperature: float | Float[Array, ''],
) -> tuple[Rollout, Float[Array, 'prompts']]:
    """Draws len(seeds) / len(prompts) responses to each prompt and keeps the best.

    Args:
        score: of each row of a rollout, higher is better; traced where this function is.
        model, params, prompts, prompt_lengths, seeds, max_new_tokens, temperature: as for `rollout`.

    Returns:
        One row per prompt, and its score. Of equal ones the first drawn is kept, which prefers none.
    """
    drawn = rollout(model, params, prompts, prompt_lengths, seeds, max_new_tokens, temperature)
    scores = score(drawn).reshape(prompts.shape[0], -1)
    best = jnp.argmax(scores, axis=1)
    rows = jnp.arange(prompts.shape[0]) * scores.shape[1] + best
    return jax.tree.map(lambda x: x[rows], drawn), jnp.max(scores, axis=1)


def expected_best(scores: np.ndarray, n: int, values: np.ndarray | None = None) -> np.ndarray:
    """What the best of n has on average, without bias, from N >= n samples: the mean over all sets of n of them.

    The i-th smallest of N scores is the largest of C(i - 1, n - 1) of the C(N, n) sets (Nakano et al. 2021). Samples
    with the same score share their places: among equals, best-of-n takes any.

    Args:
        scores: (..., N), what the choice is made by.
        n: 1 to N.
        values: (..., N), what is averaged, such as the gold reward of what the proxy chose; None is `scores`.

    Returns:
        (...) in float64.

    Raises:
        ValueError: if there are fewer than n samples.
    """
    scores = np.asarray(scores, np.float64)
    values = scores if values is None else np.asarray(values, np.float64)
    size = scores.shape[-1]
    if not 1 <= n <= size:
        raise ValueError(f'the best of {n} cannot be told from {size} samples; draw at least {max(n, 1)}')
    # From the largest down: n / N, then times (i - n + 1) / i for i = N - 1, N - 2, ...
    below = np.arange(size - 1, 0, -1)
    weights = np.cumprod(np.concatenate([[n / size], np.maximum(below - n + 1, 0) / below]))[::-1]
    order = np.argsort(scores, axis=-1, kind='stable')
    ranked, values = (np.take_along_axis(x, order, axis=-1) for x in (scores, values))
    cumulative = np.concatenate([[0.0], np.cumsum(weights)])
    first = np.concatenate([np.ones_like(ranked[..., :1], bool), ranked[..., 1:] != ranked[..., :-1]], axis=-1)
    last = np.concatenate([first[..., 1:], np.ones_like(first[..., :1])], axis=-1)
    places = np.broadcast_to(np.arange(size), ranked.shape)
    start = np.maximum.accumulate(np.where(first, places, 0), axis=-1)
    stop = np.minimum.accumulate(np.where(last, places, size - 1)[..., ::-1], axis=-1)[..., ::-1] + 1
    shared = (cumulative[stop] - cumulative[start]) / (stop - start)
    return np.sum(shared * values, axis=-1)


def kl_bound(n: float | np.ndarray) -> float | np.ndarray:
    """KL in nats of best-of-n from the policy it draws from: log n - (n - 1) / n.

    Exact where no response is probable and no two have the same score; else an upper bound (Beirami et al. 2024).
    """
    return np.log(n) - (n - 1) / n


def distribution(
    probabilities: Float[np.ndarray, 'responses'], scores: Float[np.ndarray, 'responses'], n: int
) -> Float[np.ndarray, 'responses']:
    """The exact probability that best-of-n gives each of all possible responses.

    A score r is the best with probability F(r)^n - F(r-)^n; responses with the same score share it as the policy does.
    """
    probabilities, scores = np.asarray(probabilities, np.float64), np.asarray(scores)
    _, group = np.unique(scores, return_inverse=True)
    mass = np.bincount(group, probabilities)
    up_to = np.minimum(np.cumsum(mass), 1.0)
    best = up_to**n - np.concatenate([[0.0], up_to[:-1]]) ** n
    share = np.divide(best, mass, out=np.zeros_like(best), where=mass > 0)
    return probabilities * share[group]
