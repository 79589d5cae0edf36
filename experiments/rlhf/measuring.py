"""What a policy does: its responses, their exact KL from the reference, and what reward models say of them."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rlhf import wishlist
from experiments.rlhf.training import MODEL
from llm.inference.rollout import rollout
from llm.model import Transformer
from llm.objectives import reward_model
from llm.objectives.kl import exact_kl
from llm.objectives.log_probs import masked_sum, response_mask

TRANSFORMER = Transformer(MODEL)
ROWS_AT_ONCE = 4096  # of one member, which bounds the memory


class Sampled(NamedTuple):
    """Responses of every member of a population.

    Attributes:
        tokens: (members, prompts, samples, LENGTH).
        lengths: (members, prompts, samples).
        kl: (members, prompts, samples) nats, of the whole response: at each of its tokens the exact KL between the two
            distributions over the vocabulary, given the tokens drawn so far. Its mean is KL(policy ‖ reference).
    """

    tokens: np.ndarray
    lengths: np.ndarray
    kl: np.ndarray

    @property
    def gold(self) -> np.ndarray:
        """(members, prompts, samples)."""
        return wishlist.gold_reward(self.tokens, self.lengths)


def sample(policies: Any, references: Any, prompts: np.ndarray, samples: int, seed: int) -> Sampled:
    """Draws responses at temperature 1.

    Args:
        policies, references: stacked parameters, as many of the one as of the other.
        prompts: (prompts, PROMPT_LENGTH).
        samples: to each prompt.
        seed: of the random numbers; the members' differ.
    """
    members = jax.tree.leaves(policies)[0].shape[0]
    at_once = max(1, min(samples, ROWS_AT_ONCE // len(prompts)))
    if samples % at_once:
        at_once = next(size for size in range(at_once, 0, -1) if samples % size == 0)
    parts = []
    for part in range(samples // at_once):
        random = np.random.default_rng((seed, part))
        seeds = random.integers(0, 2**32, (members, len(prompts) * at_once), np.uint32)
        drawn = jax.device_get(_sample(policies, references, jnp.asarray(prompts), jnp.asarray(seeds)))
        parts.append([x.reshape(members, len(prompts), at_once, *x.shape[2:]) for x in drawn])
    return Sampled(*(np.concatenate(pieces, axis=2) for pieces in zip(*parts)))


@jax.jit
def _sample(policies, references, prompts, seeds):
    lengths = jnp.full(prompts.shape[:1], wishlist.PROMPT_LENGTH, jnp.int32)

    def one(member):
        policy, reference, seeds = member
        drawn = rollout(TRANSFORMER, policy, prompts, lengths, seeds, wishlist.MAX_RESPONSE, 1.0)
        kl = exact_kl(_distributions(policy, drawn.tokens), _distributions(reference, drawn.tokens))
        mask = response_mask(drawn.prompt_lengths, drawn.lengths, drawn.tokens.shape[1])
        return drawn.tokens, drawn.lengths, masked_sum(kl, mask[:, 1:])

    return jax.lax.map(one, (policies, references, seeds))


def _distributions(params, tokens):
    """Log-probabilities (rows, length - 1, vocabulary) of what comes after each token but the last."""
    return jax.nn.log_softmax(TRANSFORMER.apply({'params': params}, tokens[:, :-1]).logits, axis=-1)


def score(models: Any, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Raw rewards, (members, ...), that each of several stacked reward models gives its rows.

    Args:
        models: stacked reward models.
        tokens: (members, ..., LENGTH).
        lengths: (members, ...).
    """
    members = lengths.shape[0]
    flat, count = tokens.reshape(members, -1, tokens.shape[-1]), lengths.reshape(members, -1)
    pieces = [
        _score(models, flat[:, start : start + ROWS_AT_ONCE], count[:, start : start + ROWS_AT_ONCE])
        for start in range(0, flat.shape[1], ROWS_AT_ONCE)
    ]
    return np.concatenate(pieces, axis=1).reshape(lengths.shape)


@jax.jit
def _score(models, tokens, lengths):
    return jax.lax.map(lambda one: reward_model.rewards(TRANSFORMER, *one), (models, tokens, lengths))


@functools.partial(jax.jit, static_argnums=())
def _log_probs(params, tokens, lengths):
    from llm.objectives.dpo import response_log_probs

    prompt_lengths = jnp.full(lengths.shape[1:], wishlist.PROMPT_LENGTH, jnp.int32)
    one = lambda member: response_log_probs(TRANSFORMER, member[0], member[1], prompt_lengths, member[2])
    return jax.lax.map(one, (params, tokens, lengths))


def log_probs(params: Any, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Log-probability of each response in nats: (members, rows, 2) of pairs (members, rows, 2, LENGTH)."""
    pieces = [
        _log_probs(params, tokens[:, start : start + ROWS_AT_ONCE], lengths[:, start : start + ROWS_AT_ONCE])
        for start in range(0, lengths.shape[1], ROWS_AT_ONCE)
    ]
    return np.concatenate(pieces, axis=1)
