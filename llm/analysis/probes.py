"""Linear probes: what can be read off activations by one matrix, and whether the matrix or the activations knew it.

A probe is multinomial logistic regression on standardised activations with a small L2 penalty, fitted to the optimum by
L-BFGS. A high accuracy alone says little: a probe of many numbers can learn by heart which label each kind of token
has. The control task (Hewitt & Liang 2019, "Designing and Interpreting Probes with Control Tasks") gives every kind of
token a random label of its own, drawn as the real labels are spread; what is reached there is memory. Selectivity is
accuracy less that. Accuracies belong to tokens of documents that the probe was not fitted to.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

PENALTY = 1e-3  # of half the squared weights, beside the mean loss in nats
STEPS = 300  # of L-BFGS, at most
TOLERANCE = 1e-4  # of the gradient's norm, at which it stops
_PADDED_TO = 2048  # tokens, with rows that do not count: so that samples of about a size share a compiled program


class Probe(NamedTuple):
    """A linear classifier of activations.

    Attributes:
        weights: of standardised features.
        bias: of the classes.
        mean, scale: what standardises a feature.
    """

    weights: Float[np.ndarray, 'features classes']
    bias: Float[np.ndarray, 'classes']
    mean: Float[np.ndarray, 'features']
    scale: Float[np.ndarray, 'features']

    def logits(self, activations: Float[np.ndarray, 'tokens features']) -> Float[np.ndarray, 'tokens classes']:
        return (np.asarray(activations, np.float32) - self.mean) / self.scale @ self.weights + self.bias

    def predict(self, activations: Float[np.ndarray, 'tokens features']) -> Int[np.ndarray, 'tokens']:
        """The most probable class of each token."""
        return self.logits(activations).argmax(axis=1)


def fit(
    activations: Float[np.ndarray, 'tokens features'],
    labels: Int[np.ndarray, 'tokens'],
    classes: int,
    penalty: float = PENALTY,
) -> Probe:
    """The probe with the least mean cross-entropy plus penalty; the problem is convex, so there is one.

    Args:
        activations: of the tokens to learn from.
        labels: below `classes`.
        classes: how many there are, seen or not.
        penalty: weight of half the squared weights (the bias is free).
    """
    x = np.asarray(activations, np.float32)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1).astype(np.float32)  # a feature that never changes says nothing
    missing = -len(x) % _PADDED_TO
    padded = np.pad((x - mean) / scale, ((0, missing), (0, 0)))
    counts = np.pad(np.full(len(x), 1 / len(x), np.float32), (0, missing))
    labels = np.pad(np.asarray(labels, np.int32), (0, missing))
    weights, bias = jax.device_get(_optimum(padded, labels, counts, classes, penalty))
    return Probe(weights, bias, mean, scale)


@functools.partial(jax.jit, static_argnames='classes')
def _optimum(x: Array, labels: Array, counts: Array, classes: int, penalty: float) -> tuple[Array, Array]:
    def loss(params):
        weights, bias = params
        logits = x @ weights + bias[None, :]
        fit = jnp.sum(counts * optax.softmax_cross_entropy_with_integer_labels(logits, labels))
        return fit + 0.5 * penalty * jnp.sum(jnp.square(weights))

    optimizer = optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)

    def step(carry):
        params, state = carry
        value, gradient = value_and_gradient(params, state=state)
        updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(params, updates), state

    def unfinished(carry):
        state = carry[1]
        done = optax.tree.get(state, 'count')
        error = optax.tree.norm(optax.tree.get(state, 'grad'))
        return (done == 0) | ((done < STEPS) & (error >= TOLERANCE))

    start = (jnp.zeros((x.shape[1], classes), jnp.float32), jnp.zeros((classes,), jnp.float32))
    return jax.lax.while_loop(unfinished, step, (start, optimizer.init(start)))[0]


def control_labels(
    kinds: Int[np.ndarray, 'tokens'], labels: Int[np.ndarray, 'tokens'], classes: int, seed: int
) -> Int[np.ndarray, 'tokens']:
    """Labels of the control task: each kind of token has one, at random, wherever it stands.

    Args:
        kinds: the id of each token.
        labels: the real ones, whose spread over classes the random ones follow.
        classes: how many there are.
        seed: another seed is another control task.
    """
    spread = np.bincount(labels, minlength=classes) / len(labels)
    names, place = np.unique(kinds, return_inverse=True)
    return np.random.default_rng(seed).choice(classes, size=len(names), p=spread)[place]


def by_kind(
    kinds: Int[np.ndarray, 'tokens'], labels: Int[np.ndarray, 'tokens'], asked: Int[np.ndarray, 'others']
) -> Int[np.ndarray, 'others']:
    """What knowing the token alone gives: the label it mostly had, or the commonest of all for one never seen."""
    counts: dict[int, np.ndarray] = {}
    classes = int(labels.max()) + 1
    for kind in np.unique(kinds):
        counts[int(kind)] = np.bincount(labels[kinds == kind], minlength=classes)
    commonest = int(np.bincount(labels).argmax())
    return np.array([int(counts[k].argmax()) if k in counts else commonest for k in asked.tolist()])
