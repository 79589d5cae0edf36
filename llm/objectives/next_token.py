"""Cross-entropy of tokens, with the vocabulary projection cut into chunks when the logits are too large to hold.

The next token's, or with objectives that hide a part of the text that of what is hidden: which tokens are guessed and
what the model sees of the others is in the batch and in the mask (`model_inputs`); the formula is one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import SFT, Corrupted, Masked, NextToken, Objective
from llm.model.dtypes import wide
from llm.model.patches import image_inputs
from llm.model.transformer import Source, Transformer

Batch = dict[str, Array]
Metrics = dict[str, tuple[Array, Array]]


class Hyperparameters(NamedTuple):
    """The numbers of the objective that a compiled step takes as arguments."""

    z_loss: Float[Array, '']
    label_smoothing: Float[Array, '']


def hyperparameters(config: NextToken | SFT | Corrupted) -> Hyperparameters:
    return Hyperparameters(jnp.float32(config.z_loss), jnp.float32(config.label_smoothing))


def token_losses(
    logits: Float[Array, 'batch length vocabulary'], targets: Int[Array, 'batch length'], hyper: Hyperparameters
) -> tuple[Float[Array, 'batch length'], Float[Array, 'batch length'], Float[Array, 'batch length']]:
    """Per position: what is minimised, the negative log-likelihood in nats, and whether the best guess was right.

    What is minimised is (1 - s) nll + s mean over the vocabulary of -log p + z logsumexp^2, with s the label smoothing
    (Szegedy et al. 2016) and z the z-loss (Chowdhery et al. 2022).
    """
    logits = logits.astype(wide(logits.dtype))
    largest = jnp.max(logits, axis=-1)
    log_normalizer = largest + jnp.log(jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1))
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    nll = log_normalizer - chosen
    uniform = log_normalizer - jnp.mean(logits, axis=-1)
    smoothing, z_loss = (h.astype(nll.dtype) for h in (hyper.label_smoothing, hyper.z_loss))
    minimised = nll + smoothing * (uniform - nll) + z_loss * jnp.square(log_normalizer)
    return minimised, nll, (chosen >= largest).astype(nll.dtype)


def model_inputs(config: Objective | None, batch: Batch) -> dict[str, Any]:
    """What the model is called with to read a batch: its rows, and the mask that the objective reads them with.

    Args:
        config: the objective; None reads from left to right.
        batch: `inputs`, and where they are given `segment_ids`, `positions`, `example_ids`; `prefix_lengths` (batch,)
            or, for an encoder, `source`, `source_segment_ids` and `source_positions`, as `llm.data.corruption` has it.
    """
    inputs = {name: batch.get(name) for name in ('segment_ids', 'positions', 'example_ids')}
    inputs['tokens'] = batch['inputs']
    if isinstance(config, Masked):
        inputs['mask_kind'] = 'bidirectional'
    elif 'source' in batch:
        inputs['source'] = Source(batch['source'], batch['source_segment_ids'], batch.get('source_positions'))
    elif isinstance(config, Corrupted):
        inputs |= {'mask_kind': 'prefix', 'prefix_length': batch['prefix_lengths']}
    return inputs


def make_loss(config: NextToken | SFT | Corrupted, model: Transformer, hyper: Hyperparameters):
    """Builds the objective.

    Returns:
        `loss(params, batch, rng) -> (loss_sum, weight, metrics)`. `batch` has `inputs`, `targets` and `loss_weights`,
        optionally `segment_ids` and `positions` (without them a row is one sequence), all (batch, length), optionally
        `example_ids` (batch,), for images `images` and `patches` (see `llm.model.patches`), and what else
        `model_inputs` takes. `rng` switches dropout on; None leaves it off. `metrics` has `loss` (nats, without
        smoothing and z-loss) and `accuracy`.
    """

    def loss(params: Any, batch: Batch, rng: Array | None) -> tuple[Array, Array, Metrics]:
        hidden = last_hidden(model, params, batch, rng, config)
        labels = (batch['targets'], batch['loss_weights'])
        total, (nll, correct) = chunked_sum(
            model, _sums, config.vocabulary_chunk, head_of(params), hidden, labels, hyper
        )
        weight = jnp.sum(batch['loss_weights'])
        return total, weight, {'loss': (nll, weight), 'accuracy': (correct, weight)}

    return loss


def last_hidden(
    model: Transformer, params: Any, batch: Batch, rng: Array | None, config: Objective | None = None
) -> Float[Array, 'batch length width']:
    """What the head reads, for each position of a batch; see `make_loss`."""
    return model.apply(
        {'params': params},
        **model_inputs(config, batch),
        with_logits=False,
        rngs=None if rng is None else {'dropout': rng},
        **image_inputs(model, params, batch),
    ).hidden


def head_of(params: Any) -> Any:
    """The parameters that `Transformer.unembed` reads."""
    return {name: params[name] for name in ('embedding', 'lm_head') if name in params}


def _sums(logits, labels, hyper):
    """Sums over all positions of what is minimised, of the likelihood, and of right guesses."""
    targets, weights = labels
    sums = [jnp.sum(values * weights) for values in token_losses(logits, targets, hyper)]
    return sums[0], tuple(sums[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def chunked_sum(model, sums, chunk, head, hidden, labels, hyper):
    """A sum over positions, never holding the logits of more than `chunk` positions of a row.

    The forward pass computes each chunk's gradient on the spot (the loss is a sum, so its cotangent is one number to
    multiply by later); the projection is not computed twice. Only the first sum has a gradient, the metrics have none.

    Args:
        model: the transformer.
        sums: `sums(logits, labels, hyper)` of some positions gives the sum to minimise, and a tree of other sums. A
            function of a module, so that programs are shared.
        chunk: positions; 0 is all.
        head: see `head_of`.
        hidden: see `last_hidden`.
        labels: a tree of arrays that begin with (batch, length).
        hyper: numbers.
    """
    return _map_chunks(_unembedded(model, sums, hyper), chunk, head, hidden, labels)


def _unembedded(model, sums, hyper):
    return lambda head, hidden, labels: sums(model.apply({'params': head}, hidden, method='unembed'), labels, hyper)


def _chunked_sum_forward(model, sums, chunk, head, hidden, labels, hyper):
    with_gradient = jax.value_and_grad(_unembedded(model, sums, hyper), argnums=(0, 1), has_aux=True)
    found, (head_gradient, hidden_gradient) = _map_chunks(
        with_gradient, chunk, head, hidden, labels, stacked_gradient=True
    )
    return found, (head_gradient, hidden_gradient, labels, hyper)


def _chunked_sum_backward(model, sums, chunk, saved, cotangent):
    head_gradient, hidden_gradient, labels, hyper = saved
    scale = lambda gradient: gradient * cotangent[0].astype(gradient.dtype)
    none = lambda x: jnp.zeros_like(x) if jnp.issubdtype(x.dtype, jnp.floating) else None
    return jax.tree.map(scale, head_gradient), scale(hidden_gradient), *jax.tree.map(none, (labels, hyper))


chunked_sum.defvjp(_chunked_sum_forward, _chunked_sum_backward)


def _map_chunks(function, chunk, head, hidden, labels, stacked_gradient=False):
    """Calls `function(head, hidden, labels)` on chunks of the length axis and adds up what it returns.

    With `stacked_gradient`, the last thing returned is the gradient for the chunk of `hidden`: these are put in a row.
    """
    batch, length, _ = hidden.shape
    if chunk == 0 or chunk >= length:
        return function(head, hidden, labels)
    chunks = -(-length // chunk)

    def cut(x):
        padding = ((0, 0), (0, chunks * chunk - length)) + ((0, 0),) * (x.ndim - 2)
        return jnp.pad(x, padding).reshape(batch, chunks, chunk, *x.shape[2:]).swapaxes(0, 1)

    pieces = jax.tree.map(cut, (hidden, labels))

    def step(total, piece):
        result = function(head, *piece)
        if stacked_gradient:
            sums, (head_gradient, hidden_gradient) = result
            return jax.tree.map(jnp.add, total, (sums, head_gradient)), hidden_gradient
        return jax.tree.map(jnp.add, total, result), None

    first = jax.tree.map(lambda piece: piece[0], pieces)
    shapes = jax.eval_shape(function, head, *first)
    if stacked_gradient:
        shapes = (shapes[0], shapes[1][0])
    start = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    total, hidden_gradients = jax.lax.scan(step, start, pieces)
    if not stacked_gradient:
        return total
    sums, head_gradient = total
    whole = hidden_gradients.swapaxes(0, 1).reshape(batch, chunks * chunk, -1)[:, :length]
    return sums, (head_gradient, whole)
