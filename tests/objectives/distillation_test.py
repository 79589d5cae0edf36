"""Divergences have their formulas’ values and gradients, the loss mixes them as it says, top-k loses what it says."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import Distillation, ModelConfig, NextToken
from llm.model import Transformer
from llm.objectives import distillation, next_token
from llm.objectives.distillation import LOG_PROBS, TOKENS

STUDENT = ModelConfig(vocab_size=11, context_length=6, num_layers=1, width=8, num_heads=2, feed_forward_width=16)
TEACHER = dataclasses.replace(STUDENT, num_layers=2, width=16)
ROWS, LENGTH = 2, 6
KINDS = ('forward', 'reverse', 'jensen_shannon')


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


def two_distributions(seed=0, rows=5, tokens=7):
    """Logits of a teacher and a student."""
    draw = np.random.default_rng(seed)
    return draw.normal(0, 2, (rows, tokens)), draw.normal(0, 2, (rows, tokens))


def log_softmax(z):
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def by_hand(kind, teacher, student):
    """Value, and gradient by the student's logits, in NumPy.

    d KL(p||q) / dz = q - p;  d KL(q||p) / dz = q (log q - log p - KL(q||p));  with the mixture m of both,
    d JS / dz = q (log q - log m - KL(q||m)) / 2, since what moves through m cancels.
    """
    log_p, log_q = log_softmax(teacher), log_softmax(student)
    p, q, log_m = np.exp(log_p), np.exp(log_q), np.log((np.exp(log_p) + np.exp(log_q)) / 2)
    kl = lambda a, b: (np.exp(a) * (a - b)).sum(-1)
    if kind == 'forward':
        return kl(log_p, log_q), q - p
    if kind == 'reverse':
        return kl(log_q, log_p), q * (log_q - log_p - kl(log_q, log_p)[:, None])
    return (kl(log_p, log_m) + kl(log_q, log_m)) / 2, q * (log_q - log_m - kl(log_q, log_m)[:, None]) / 2


@pytest.mark.parametrize('kind', KINDS)
def test_values_and_gradients_are_those_of_the_formulas(kind):
    teacher, student = two_distributions()
    value, gradient = by_hand(kind, teacher, student)
    told = jax.nn.log_softmax(jnp.asarray(teacher, jnp.float32))
    of = lambda z: distillation.divergence(kind, told, jax.nn.log_softmax(z))
    student = jnp.asarray(student, jnp.float32)
    npt.assert_allclose(of(student), value, rtol=1e-5, atol=1e-6)
    npt.assert_allclose(jax.grad(lambda z: of(z).sum())(student), gradient, rtol=1e-5, atol=1e-6)
    npt.assert_allclose(of(jnp.asarray(teacher, jnp.float32)), 0, atol=1e-6)  # of the teacher with itself


def test_jensen_shannon_is_symmetric_and_bounded():
    teacher, student = (jnp.asarray(log_softmax(5 * x), jnp.float32) for x in two_distributions())
    one, other = (distillation.divergence('jensen_shannon', *pair) for pair in ((teacher, student), (student, teacher)))
    npt.assert_allclose(one, other, rtol=1e-5)
    assert float(one.max()) <= np.log(2)


def test_what_is_not_told_apart_can_only_bring_two_closer():
    """The divergence of coarser distributions is at most the whole one, and grows with k until there is no rest."""
    teacher, student = (jnp.asarray(log_softmax(x), jnp.float32) for x in two_distributions(rows=50))
    for kind in KINDS:
        found = []
        for k in (1, 3, 6):
            tokens, kept = distillation.likeliest(teacher, k)
            npt.assert_allclose(jnp.exp(kept).sum(-1), 1, rtol=1e-5)
            found.append(distillation.divergence(kind, kept, distillation.of_tokens(student, tokens)))
        whole = distillation.divergence(kind, teacher, student)
        assert np.all(np.diff(np.stack([*found]), axis=0) > -1e-5)
        npt.assert_allclose(found[-1], whole, rtol=1e-4, atol=1e-5)  # the rest is one token: nothing is lost


def test_a_small_rest_is_not_lost_in_rounding():
    log_probs = jax.nn.log_softmax(jnp.array([[0.0, 0.0, -30.0, -31.0]], jnp.float32))
    _, kept = distillation.likeliest(log_probs, 2)
    npt.assert_allclose(kept[0, -1], np.log(np.exp(-30.0) + np.exp(-31.0)) - np.log(2), rtol=1e-6)


# ------------------------------------------------------------------------------------------------------------ the loss


@functools.cache
def params_of(model):
    """To be called outside of any trace, which would leak into the cache."""
    init = lambda: Transformer(model).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    draw = np.random.default_rng(model.width)
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(0.2, 0.5, x.shape), x.dtype), jax.eval_shape(init))


@functools.cache
def taught_batch(top_k=0, temperature=1.0, teacher=TEACHER):
    draw = np.random.default_rng(0)
    ids = draw.integers(0, STUDENT.vocab_size, (ROWS, LENGTH + 1))
    batch = {
        'inputs': jnp.asarray(ids[:, :-1], jnp.int32),
        'targets': jnp.asarray(ids[:, 1:], jnp.int32),
        'loss_weights': jnp.asarray(draw.integers(0, 2, (ROWS, LENGTH)), jnp.float32),
    }
    ask = jax.jit(functools.partial(distillation.predictions, Transformer(teacher), top_k=top_k))
    return batch | ask(params_of(teacher), batch, jnp.float32(temperature))


def seen(config, batch):
    """Sum, metrics and gradient of the student. Numbers are no part of the program."""
    numbers = {'z_loss': 0.0, 'label_smoothing': 0.0, 'temperature': 1.0, 'teacher_weight': 0.5}
    program = dataclasses.replace(config, **numbers)
    return _seen(program, distillation.hyperparameters(config), params_of(STUDENT), batch)


@functools.partial(jax.jit, static_argnums=0)
def _seen(config, hyper, params, batch):
    loss = distillation.make_loss(config, Transformer(STUDENT), hyper)

    def summed(params):
        total, _, metrics = loss(params, batch, None)
        return total, metrics

    (total, metrics), gradient = jax.value_and_grad(summed, has_aux=True)(params)
    return total, metrics, gradient


def close(a, b):
    jax.tree.map(lambda x, y: npt.assert_allclose(x, y, rtol=1e-4, atol=1e-5), a, b)


def test_without_the_teacher_it_is_next_token():
    terms = {'z_loss': 0.01, 'label_smoothing': 0.1}
    total, metrics, gradient = seen(Distillation(teacher_weight=0.0, **terms), taught_batch())
    plain = NextToken(**terms)
    loss = next_token.make_loss(plain, Transformer(STUDENT), next_token.hyperparameters(plain))
    with_metrics = lambda p, batch: (lambda total, _, metrics: (total, metrics))(*loss(p, batch, None))
    value, expected = jax.jit(jax.value_and_grad(with_metrics, has_aux=True))(params_of(STUDENT), taught_batch())
    close((total, gradient), (value[0], expected))
    close(metrics['loss'], value[1]['loss'])


@pytest.mark.parametrize('kind', KINDS)
def test_the_mix_is_the_one_that_is_said(kind):
    """(1 - a) cross-entropy + a T^2 divergence of softened distributions, written out in NumPy."""
    share, temperature = 0.3, 2.5
    batch = taught_batch(temperature=temperature)
    config = Distillation(divergence=kind, temperature=temperature, teacher_weight=share)
    logits = [
        np.asarray(Transformer(m).apply({'params': params_of(m)}, batch['inputs']).logits, np.float64)
        for m in (TEACHER, STUDENT)
    ]
    teacher, student = (z.reshape(-1, STUDENT.vocab_size) / temperature for z in logits)
    weights = np.asarray(batch['loss_weights']).reshape(-1)
    apart = by_hand(kind, teacher, student)[0] @ weights
    nll = -np.take_along_axis(log_softmax(logits[1]), np.asarray(batch['targets'])[..., None], -1)[..., 0]
    nll = nll.reshape(-1) @ weights
    total, metrics, _ = seen(config, batch)
    npt.assert_allclose(total, (1 - share) * nll + share * temperature**2 * apart, rtol=1e-4)
    npt.assert_allclose(metrics['teacher/divergence'][0], apart, rtol=1e-4)
    npt.assert_allclose(metrics['loss'][0], nll, rtol=1e-5)


@pytest.mark.parametrize(('kind', 'top_k'), [*((kind, 0) for kind in KINDS), ('reverse', 3)])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind, top_k):
    config = Distillation(divergence=kind, teacher_weight=1.0, temperature=2.0, top_k=top_k)
    total, _, gradient = seen(config, taught_batch(top_k, 2.0, STUDENT))
    close((total, gradient), jax.tree.map(jnp.zeros_like, (total, gradient)))


def test_chunks_change_nothing():
    config = Distillation(divergence='reverse', temperature=1.5, top_k=3)
    batch = taught_batch(3, 1.5)
    close(seen(dataclasses.replace(config, vocabulary_chunk=4), batch), seen(config, batch))


def test_the_rest_is_reported():
    batch = taught_batch(3)
    metrics = seen(Distillation(divergence='reverse', top_k=3), batch)[1]
    assert batch[TOKENS].shape == (ROWS, LENGTH, 3) and batch[LOG_PROBS].shape == (ROWS, LENGTH, 4)
    rest = 1 - jnp.exp(taught_batch()[LOG_PROBS]).sort(-1)[..., -3:].sum(-1)
    npt.assert_allclose(metrics['teacher/rest'][0], (rest * batch['loss_weights']).sum(), rtol=1e-4)
