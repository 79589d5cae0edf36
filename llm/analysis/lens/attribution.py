"""Direct logit attribution: a logit as a sum, one term for each thing that was written into the residual stream.

The stream is a sum, and from it to the logit everything is linear but the norms. With the size that each norm divides
by held at what it was, the logit is exactly a sum over the embeddings, every head of every layer, every feed-forward
network and the biases (Elhage et al. 2021, "A mathematical framework for transformer circuits"). With norms before the
blocks' functions only the final norm is on the way; norms behind them ('both') and on the stream itself ('post') are
passed in the same manner. A term is what a part writes by itself; what later parts make of it counts as theirs.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.norms import Norm
from llm.model.parametrization import output_multiplier
from llm.model.taps import sites_of

_EXACT = jax.lax.Precision.HIGHEST


class Attribution(NamedTuple):
    """The terms of a logit, or of the difference of two. `place` is each position that was asked for.

    Attributes:
        logit: what the head says, before a soft-cap if there is one.
        token_embedding: the term of the token itself.
        position_embedding: of the vector added to it; 0 where the model adds none.
        heads: of each head, through its part of the output projection.
        attention_bias: of that projection's bias (and of its norm's, with norms behind attention).
        feed_forward: of each layer's network, its bias included; 0 where there is none.
        cross_attention: of what each layer reads from an encoder; 0 where there is none.
        norm_bias: of the biases of norms on the stream, the final norm's among them.
        head_bias: of the head's own.
    """

    logit: Float[Array, 'batch place']
    token_embedding: Float[Array, 'batch place']
    position_embedding: Float[Array, 'batch place']
    heads: Float[Array, 'layers batch heads place']
    attention_bias: Float[Array, 'layers batch place']
    feed_forward: Float[Array, 'layers batch place']
    cross_attention: Float[Array, 'layers batch place']
    norm_bias: Float[Array, 'batch place']
    head_bias: Float[Array, 'batch place']

    @property
    def total(self) -> Float[Array, 'batch place']:
        """The sum of all terms."""
        single = self.token_embedding + self.position_embedding + self.norm_bias + self.head_bias
        layers = self.attention_bias + self.feed_forward + self.cross_attention
        return single + jnp.sum(self.heads, (0, 2)) + jnp.sum(layers, 0)

    @property
    def unexplained(self) -> Float[Array, 'batch place']:
        """Logit less total: rounding (under 1e-4 in float32), and what edits wrote into the stream itself."""
        return self.logit - self.total


class NeuronAttribution(NamedTuple):
    """The terms of one feed-forward network: they add up to its entry in `Attribution.feed_forward`.

    Attributes:
        neurons: of each neuron, through its row of the down projection.
        bias: of that projection's bias (and of its norm's, with norms behind the network).
    """

    neurons: Float[Array, 'batch place hidden']
    bias: Float[Array, 'batch place']


def attribution_sites(config: ModelConfig) -> tuple[str, ...]:
    """What `run` has to be asked for. Neurons besides, for `neuron_attribution`."""
    needed = ('token_embedding', 'position_embedding', 'residual_before', 'head_outputs', 'attention_output')
    needed += ('residual_between', 'cross_attention_output', 'feed_forward_output', 'residual_after', 'hidden')
    return tuple(name for name in needed if name in sites_of(config))


def direct_logit_attribution(
    params: Any,
    config: ModelConfig,
    activations: dict[str, Array],
    token: Int[Array | np.ndarray, 'batch place'] | int,
    against: Int[Array | np.ndarray, 'batch place'] | int | None = None,
    positions: Sequence[int] | None = None,
) -> Attribution:
    """Splits the logit of a token, read off each place, into its terms, in float32.

    Args:
        params: the model's.
        config: the model's.
        activations: from `run`, with `attribution_sites(config)`.
        token: whose logit; one, or one for each row and place.
        against: a token whose logit is subtracted: what speaks for the one and not for the other.
        positions: places of the row; None is all.
    """
    activations, directions = _prepare(params, config, activations, token, against, positions)
    return _attribute(params, activations, directions, config)


def neuron_attribution(
    params: Any,
    config: ModelConfig,
    activations: dict[str, Array],
    layer: int,
    token: Int[Array | np.ndarray, 'batch place'] | int,
    against: Int[Array | np.ndarray, 'batch place'] | int | None = None,
    positions: Sequence[int] | None = None,
) -> NeuronAttribution:
    """Splits the term of one layer's feed-forward network into its neurons'.

    Args:
        params: the model's.
        config: the model's.
        activations: from `run`, with `attribution_sites(config)` and 'neurons', all layers' or this one's alone as
            `run_layer` gives them.
        layer: from 0.
        token: as in `direct_logit_attribution`; so are `against` and `positions`.
    """
    neurons = activations['neurons']
    neurons = _at(neurons if neurons.ndim == 3 else neurons[layer], positions, axis=1)
    activations, directions = _prepare(params, config, activations, token, against, positions)
    return _attribute_neurons(params, activations, neurons, directions, jnp.int32(layer), config)


def _prepare(params, config, activations, token, against, positions):
    """Activations at the places asked for, and the head's column for the token (less the other's) with its bias."""
    found = {}
    for name in attribution_sites(config):
        value = activations[name]
        found[name] = _at(value, positions, axis=value.ndim - 2)
    places = found['hidden'].shape[:2]
    full = lambda token: jnp.broadcast_to(jnp.asarray(token, jnp.int32), places)
    return found, _head(params, full(token), None if against is None else full(against), config)


def _at(value, positions, axis):
    return value if positions is None else jnp.take(value, jnp.asarray(positions), axis=axis)


@functools.partial(jax.jit, static_argnames='config')
def _head(params, token, against, config):
    def column(token):
        if config.tied_embeddings:
            return params['embedding']['table'][token].astype(jnp.float32), jnp.zeros(token.shape)
        bias = params['lm_head'].get('bias', jnp.zeros(config.vocab_size))
        return params['lm_head']['kernel'].T[token].astype(jnp.float32), bias[token].astype(jnp.float32)

    vector, bias = column(token)
    if against is not None:
        other, its_bias = column(against)
        vector, bias = vector - other, bias - its_bias
    return vector * output_multiplier(config), bias


@functools.partial(jax.jit, static_argnames='config')
def _attribute(params, activations, head, config):
    terms = _walk(params, activations, head, config)
    return terms._replace(logit=_dot(activations['hidden'], head[0]) + head[1])


@functools.partial(jax.jit, static_argnames='config')
def _attribute_neurons(params, activations, neurons, head, layer, config):
    direction = _walk(params, activations, head, config, with_directions=True)[layer]
    feed_forward = jax.tree.map(lambda x: x[layer], params['blocks']['feed_forward'])
    kernel, bias = feed_forward['down']['kernel'].astype(jnp.float32), _bias(feed_forward['down'], config.width)
    constant = jnp.zeros(direction.shape[:2])
    if config.norm_placement == 'both':
        norm = jax.tree.map(lambda x: x[layer], params['blocks']['feed_forward_post_norm'])
        raw = jnp.matmul(neurons, kernel, precision=_EXACT) + bias
        direction, constant = _back_through(norm, config, raw, direction)
    value = jnp.einsum('hw,bpw->bph', kernel, direction, precision=_EXACT)
    return NeuronAttribution(neurons * value, constant + _dot(bias, direction))


def _walk(params, activations, head, config, with_directions=False):
    """From the head back to the embedding: what a unit of anything written on the way adds to the logit.

    Returns the terms; with `with_directions` what each layer's feed-forward output is multiplied with instead.
    """
    placement, direction = config.norm_placement, head[0]
    direction, norm_bias = _back_through(params['final_norm'], config, activations['residual_after'][-1], direction)

    def layer(carry, inputs):
        direction, norm_bias = carry
        block, found = inputs
        feed_forward = cross_attention = jnp.zeros(direction.shape[:2])
        middle, written = found['residual_between'], found.get('cross_attention_output')
        if config.hidden_width:
            if placement == 'post':
                stream = middle if written is None else _normalised(block, config, middle + written)
                stream = stream + found['feed_forward_output']
                direction, constant = _back_through(block['feed_forward_norm'], config, stream, direction)
                norm_bias = norm_bias + constant
            feed_forward = _dot(found['feed_forward_output'], direction)
        behind_feed_forward = direction
        if written is not None:
            if placement == 'post':
                norm = block['cross_attention_norm']
                direction, constant = _back_through(norm, config, middle + written, direction)
                norm_bias = norm_bias + constant
            cross_attention = _dot(written, direction)
        if placement == 'post':
            stream = found['residual_before'] + found['attention_output']
            direction, constant = _back_through(block['attention_norm'], config, stream, direction)
            norm_bias = norm_bias + constant
        heads, attention_bias = _heads(block, found['head_outputs'], direction, config)
        terms = behind_feed_forward if with_directions else (heads, attention_bias, feed_forward, cross_attention)
        return (direction, norm_bias), terms

    of_layers = {name: activations[name] for name in _LAYERED if name in activations}
    scanned = (params['blocks'], of_layers)
    (direction, norm_bias), terms = jax.lax.scan(layer, (direction, norm_bias), scanned, reverse=True)
    if with_directions:
        return terms
    token, position = activations['token_embedding'], activations.get('position_embedding')
    if config.embedding_norm:
        entered = token if position is None else token + position
        direction, constant = _back_through(params['embedding_norm'], config, entered, direction)
        norm_bias = norm_bias + constant
    return Attribution(
        logit=norm_bias,  # the caller's to fill
        token_embedding=_dot(token, direction),
        position_embedding=jnp.zeros(norm_bias.shape) if position is None else _dot(position, direction),
        heads=terms[0],
        attention_bias=terms[1],
        feed_forward=terms[2],
        cross_attention=terms[3],
        norm_bias=norm_bias,
        head_bias=head[1],
    )


_LAYERED = ('residual_before', 'head_outputs', 'attention_output', 'residual_between', 'cross_attention_output')
_LAYERED += ('feed_forward_output',)


def _normalised(block, config, x):
    """The stream behind cross-attention's norm, where that stands on it."""
    return Norm(config).apply({'params': block['cross_attention_norm']}, x)


def _heads(block, outputs, direction, config):
    """The term of each head, (batch, heads, place), and of what attention adds whatever the heads say."""
    output = block['attention']['output']
    kernel = output['kernel'].astype(jnp.float32).reshape(config.num_heads, config.key_size, config.width)
    bias, constant = _bias(output, config.width), jnp.zeros(direction.shape[:2])
    outputs = outputs.astype(jnp.float32)
    if config.norm_placement == 'both':
        raw = jnp.einsum('bhpd,hdw->bpw', outputs, kernel, precision=_EXACT) + bias
        direction, constant = _back_through(block['attention_post_norm'], config, raw, direction)
    read = jnp.einsum('hdw,bpw->bhpd', kernel, direction, precision=_EXACT)
    return jnp.sum(outputs * read, axis=-1), constant + _dot(bias, direction)


def _back_through(norm, config, x, direction):
    """What a direction behind a norm is before it, its divisor held, and the term of the norm's bias.

    Args:
        norm: its parameters.
        config: the model's.
        x: what the norm read.
        direction: behind it; the logit is the dot product with this.
    """
    x, scale = x.astype(jnp.float32), norm['scale'].astype(jnp.float32)
    if config.norm_unit_offset:
        scale = 1 + scale
    centred = x - jnp.mean(x, axis=-1, keepdims=True) if config.norm == 'layernorm' else x
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + config.norm_epsilon)
    before = direction * scale * inverse
    if config.norm == 'layernorm':
        before = before - jnp.mean(before, axis=-1, keepdims=True)
    return before, _dot(_bias(norm, config.width), direction)


def _bias(layer, width):
    return layer.get('bias', jnp.zeros(width)).astype(jnp.float32)


def _dot(x, direction):
    return jnp.sum(x.astype(jnp.float32) * direction, axis=-1)
