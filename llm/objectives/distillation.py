"""Distillation: a student learns what a teacher predicts for every token, beside the token that came."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import Distillation
from llm.model.dtypes import wide
from llm.model.transformer import Transformer
from llm.objectives import next_token
from llm.objectives.kl import exact_kl

Batch = dict[str, Array]
Metrics = dict[str, tuple[Array, Array]]
Divergence = Literal['forward', 'reverse', 'jensen_shannon']

TOKENS, LOG_PROBS = 'teacher_tokens', 'teacher_log_probs'  # what a batch has from the teacher


class Hyperparameters(NamedTuple):
    """The numbers of the objective that a compiled step takes as arguments."""

    z_loss: Float[Array, '']
    label_smoothing: Float[Array, '']
    temperature: Float[Array, '']
    teacher_weight: Float[Array, '']


def hyperparameters(config: Distillation) -> Hyperparameters:
    return Hyperparameters(*(jnp.float32(getattr(config, name)) for name in Hyperparameters._fields))


def divergence(
    kind: Divergence,
    teacher: Float[Array, '*batch vocabulary'],
    student: Float[Array, '*batch vocabulary'],
) -> Float[Array, '*batch']:
    """How far two distributions are apart, in nats; 0 if and only if they are equal.

    - forward: KL(teacher || student), the mean over the teacher's tokens (Hinton et al. 2015). Whatever the teacher
      finds likely the student must, too.
    - reverse: KL(student || teacher), the mean over the student's own (Gu et al. 2023, MiniLLM; here for each token of
      a given text). What the teacher finds unlikely the student must, too.
    - jensen_shannon: the mean of both to the mixture of the two, at most log 2 (Agarwal et al. 2023, GKD, at one half).

    Args:
        kind: which.
        teacher, student: normalised log-probabilities, none of them -inf.
    """
    if kind == 'forward':
        return exact_kl(teacher, student)
    if kind == 'reverse':
        return exact_kl(student, teacher)
    mixture = jnp.logaddexp(teacher, student) - jnp.asarray(math.log(2), student.dtype)
    return (exact_kl(teacher, mixture) + exact_kl(student, mixture)) / 2


def likeliest(
    log_probs: Float[Array, '*batch vocabulary'], top_k: int
) -> tuple[Int[Array, '*batch kept'], Float[Array, '*batch kept_and_rest']]:
    """The `top_k` likeliest tokens, and their log-probabilities followed by that of all other tokens together."""
    kept, tokens = jax.lax.top_k(log_probs, top_k)
    return tokens, jnp.concatenate([kept, _rest(log_probs, tokens)], axis=-1)


def of_tokens(
    log_probs: Float[Array, '*batch vocabulary'], tokens: Int[Array, '*batch kept']
) -> Float[Array, '*batch kept_and_rest']:
    """Log-probabilities of some tokens, each once, followed by that of all other tokens together."""
    kept = jnp.take_along_axis(log_probs, tokens, axis=-1)
    return jnp.concatenate([kept, _rest(log_probs, tokens)], axis=-1)


def _rest(log_probs, tokens):
    """A sum over the others: one less the sum of the kept would lose a small rest in rounding."""
    nothing = jnp.full(tokens.shape, -jnp.inf, log_probs.dtype)
    others = jnp.put_along_axis(log_probs, tokens, nothing, axis=-1, inplace=False)
    return jax.nn.logsumexp(others, axis=-1, keepdims=True)


def predictions(
    model: Transformer, params: Any, batch: Batch, temperature: Float[Array, ''], top_k: int
) -> dict[str, Array]:
    """What a teacher adds to a batch.

    Args:
        model, params: the teacher's.
        batch: `inputs`, and `segment_ids` and `positions` if documents are masked.
        temperature: its logits are divided by it.
        top_k: tokens told apart; 0 is the whole vocabulary.

    Returns:
        `teacher_log_probs` (batch, length, vocabulary); with `top_k`, `teacher_tokens` (batch, length, top_k) and
        `teacher_log_probs` (batch, length, top_k + 1), of these tokens and of all others together.
    """
    documents = {name: batch.get(name) for name in ('segment_ids', 'positions')}
    logits = model.apply({'params': params}, batch['inputs'], **documents).logits
    log_probs = _softened(logits, temperature)
    if not top_k:
        return {LOG_PROBS: log_probs}
    tokens, kept = likeliest(log_probs, top_k)
    return {TOKENS: tokens, LOG_PROBS: kept}


def _softened(logits, temperature):
    logits = logits.astype(wide(logits.dtype))
    return jax.nn.log_softmax(logits / temperature.astype(logits.dtype), axis=-1)


def make_loss(config: Distillation, model: Transformer, hyper: Hyperparameters):
    """Builds the objective.

    Summed over positions, with a the weight of the teacher, T the temperature, p_T and q_T the softmax of the teacher's
    and the student's logits divided by T:

        (1 - a) cross_entropy + a T^2 divergence(p_T, q_T)

    The cross-entropy is that of `llm.objectives.next_token`, smoothing and z-loss included. The divergence's gradients
    shrink as 1 / T^2, which T^2 makes up for (Hinton et al. 2015), so `a` means the same at every temperature. With
    `top_k` both distributions are over the teacher's `top_k` tokens and one more, which stands for all others.

    Returns:
        `loss(params, batch, rng) -> (loss_sum, weight, metrics)`. `batch` is that of `next_token.make_loss` with what
        `predictions` of the teacher gave, rounded or not. `metrics` has `loss` (nats,
        the plain cross-entropy) and `accuracy`, `teacher/divergence` (nats, without T^2), and with `top_k`
        `teacher/rest`: the probability that the teacher gives to the tokens that are not told apart.

    Raises:
        KeyError: in the loss, if the batch has nothing from a teacher.
    """
    sums = _SUMS[config.divergence]

    def loss(params: Any, batch: Batch, rng: Array | None) -> tuple[Array, Array, Metrics]:
        hidden = next_token.last_hidden(model, params, batch, rng)
        labels = (batch['targets'], batch['loss_weights'], batch[LOG_PROBS], batch.get(TOKENS))
        head = next_token.head_of(params)
        chunk = config.vocabulary_chunk
        total, (nll, correct, apart, rest) = next_token.chunked_sum(model, sums, chunk, head, hidden, labels, hyper)
        weight = jnp.sum(batch['loss_weights'])
        metrics = {'loss': (nll, weight), 'accuracy': (correct, weight), 'teacher/divergence': (apart, weight)}
        if config.top_k:
            metrics['teacher/rest'] = (rest, weight)
        return total, weight, metrics

    return loss


def _make_sums(kind: Divergence):
    def sums(logits, labels, hyper):
        targets, weights, teacher, tokens = labels
        plain = next_token.Hyperparameters(hyper.z_loss, hyper.label_smoothing)
        minimised, nll, correct = next_token.token_losses(logits, targets, plain)
        student = _softened(logits, hyper.temperature)
        if tokens is not None:
            student = of_tokens(student, tokens)
        teacher = jax.nn.log_softmax(teacher.astype(student.dtype), axis=-1)  # what was stored was rounded
        apart = divergence(kind, teacher, student)
        share, temperature = (h.astype(nll.dtype) for h in (hyper.teacher_weight, hyper.temperature))
        mixed = (1 - share) * minimised + share * jnp.square(temperature) * apart
        of_all = [jnp.sum(values * weights) for values in (mixed, nll, correct, apart, jnp.exp(teacher[..., -1]))]
        return of_all[0], tuple(of_all[1:])

    return sums


_SUMS = {kind: _make_sums(kind) for kind in ('forward', 'reverse', 'jensen_shannon')}
