"""What a policy does: its responses, their exact KL from the reference, and what reward models say of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.rlhf import wishlist
from experiments.rlhf.training import MODEL, members_of, pick
from llm.inference.rollout import rollout
from llm.model import Transformer
from llm.objectives import dpo, reward_model
from llm.objectives.kl import exact_kl
from llm.objectives.log_probs import masked_sum, response_mask

TRANSFORMER = Transformer(MODEL)
ROWS_AT_ONCE = 2048  # of one member, which bounds the memory


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
    rows = np.repeat(prompts, samples, axis=0)
    members = []
    for member in range(members_of(policies)):
        seeds = np.random.default_rng((seed, member)).integers(0, 2**32, len(rows), np.uint32)
        draw = lambda rows, seeds, own=member: _sample(pick(policies, own), pick(references, own), rows, seeds)
        members.append(_in_pieces(draw, rows, seeds))
    shape = len(members), len(prompts), samples
    return Sampled(*(np.stack(parts).reshape(*shape, *parts[0].shape[1:]) for parts in zip(*members)))


@jax.jit
def _sample(policy, reference, prompts, seeds):
    lengths = jnp.full(prompts.shape[:1], wishlist.PROMPT_LENGTH, jnp.int32)
    drawn = rollout(TRANSFORMER, policy, prompts, lengths, seeds, wishlist.MAX_RESPONSE, 1.0)
    kl = exact_kl(_distributions(policy, drawn.tokens), _distributions(reference, drawn.tokens))
    mask = response_mask(drawn.prompt_lengths, drawn.lengths, drawn.tokens.shape[1])
    return drawn.tokens, drawn.lengths, masked_sum(kl, mask[:, 1:])


def _distributions(params, tokens):
    """Log-probabilities (rows, length - 1, vocabulary) of what comes after each token but the last."""
    return jax.nn.log_softmax(TRANSFORMER.apply({'params': params}, tokens[:, :-1]).logits, axis=-1)


def score(models: Any, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Raw rewards that each of several stacked reward models gives its rows: (members, ...) like `lengths`.

    Args:
        models: stacked reward models.
        tokens: (members, ..., LENGTH).
        lengths: (members, ...).
    """
    return _each_member(_score, models, tokens, lengths, lengths.shape[1:])


_score = jax.jit(lambda params, tokens, lengths: reward_model.rewards(TRANSFORMER, params, tokens, lengths))


def log_probs(policies: Any, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Log-probabilities of responses in nats under stacked policies; arguments and result as for `score`."""
    return _each_member(_log_probs, policies, tokens, lengths, lengths.shape[1:])


@jax.jit
def _log_probs(params, tokens, lengths):
    prompt_lengths = jnp.full((len(lengths), 1), wishlist.PROMPT_LENGTH, jnp.int32)
    return dpo.response_log_probs(TRANSFORMER, params, tokens[:, None], prompt_lengths, lengths[:, None])[:, 0]


def _each_member(function, params, tokens, lengths, shape) -> np.ndarray:
    results = []
    for member in range(len(tokens)):
        own = pick(params, member)
        flat = tokens[member].reshape(-1, tokens.shape[-1]), lengths[member].reshape(-1)
        results.append(_in_pieces(lambda *rows, own=own: (function(own, *rows),), *flat)[0].reshape(shape))
    return np.stack(results)


def _in_pieces(function: Callable[..., tuple], *arrays: np.ndarray) -> list[np.ndarray]:
    """Calls the function on equal pieces of rows, the last one filled up, so that it is compiled for one shape."""
    rows = len(arrays[0])
    size = min(rows, ROWS_AT_ONCE)
    pieces = []
    for start in range(0, rows, size):
        piece = [array[start : start + size] for array in arrays]
        real = len(piece[0])
        if real < size:
            piece = [np.concatenate([x, np.repeat(x[:1], size - real, axis=0)]) for x in piece]
        pieces.append([np.asarray(x)[:real] for x in function(*piece)])
    return [np.concatenate(parts) for parts in zip(*pieces)]
