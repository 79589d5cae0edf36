"""Feed-forward layers as key-value memories (Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value
Memories").

A neuron is a key, the pattern it fires on, and a value, the row of the down projection that it then adds to the
residual stream. What the key is shows in the texts on which it fires most (`Triggers`); what the value says, in the
tokens whose logits it raises (`promoted`).

A value reaches the logits through norms: the final one, and with `norm_placement` 'both' or 'post' those of blocks.
Each one's scale is applied to it; the division by the size of what is normalised is left out, as it is the same for all
tokens and so changes no order.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.errors import UserError
from llm.model.transformer import Transformer


def value_rows(
    params: Any, config: ModelConfig, layer: int, neurons: Sequence[int] | None = None
) -> Float[Array, 'neurons width']:
    """What neurons of a layer (None is all) add, per unit of activation, to what the final norm reads.

    Raises:
        UserError: if there is no such layer, or layers have no neurons.
    """
    if 'feed_forward' not in params['blocks']:
        raise UserError('this model has no feed-forward layers, so no neurons; look at its heads instead')
    if not 0 <= layer < config.num_layers:
        raise UserError(f'there is no layer {layer}; they go from 0 to {config.num_layers - 1}')
    blocks = params['blocks']
    rows = blocks['feed_forward']['down']['kernel'][layer]
    if neurons is not None:
        rows = rows[np.asarray(neurons, np.int32)]
    if config.norm_placement == 'both':
        rows = _frozen_norm(rows, blocks['feed_forward_post_norm']['scale'][layer], config)
    if config.norm_placement == 'post':  # the stream itself is normalised, here and in every later block
        rows = _frozen_norm(rows, blocks['feed_forward_norm']['scale'][layer], config)
        for later in range(layer + 1, config.num_layers):
            for name in ('attention_norm', 'cross_attention_norm', 'feed_forward_norm'):
                if name in blocks:
                    rows = _frozen_norm(rows, blocks[name]['scale'][later], config)
    return rows


def promoted(
    params: Any, config: ModelConfig, layer: int, neurons: Sequence[int], n: int = 10
) -> tuple[Int[np.ndarray, 'neurons n'], Float[np.ndarray, 'neurons n']]:
    """The tokens whose logits the neurons raise most, and by how much per unit of activation over the stream's size.

    Args:
        params: the model's tree as `load_params` gives it (not prepared for reading).
        config: the model's.
        layer: from 0.
        neurons: their numbers; a neuron with negative activation lowers these instead.
        n: tokens of each.

    Returns:
        Token ids, best first, and logits before any soft-cap, without the head's bias.

    Raises:
        UserError: if there is no such layer or neuron.
    """
    return _extremes(params, config, layer, neurons, n, 1)


def suppressed(
    params: Any, config: ModelConfig, layer: int, neurons: Sequence[int], n: int = 10
) -> tuple[Int[np.ndarray, 'neurons n'], Float[np.ndarray, 'neurons n']]:
    """The tokens whose logits the neurons lower most, the lowest first; see `promoted`."""
    ids, logits = _extremes(params, config, layer, neurons, n, -1)
    return ids, -logits


def _extremes(params, config, layer, neurons, n, sign):
    rows = value_rows(params, config, layer)
    wrong = [i for i in neurons if not 0 <= i < len(rows)]
    if wrong:
        raise UserError(f'there is no neuron {wrong[0]} in a layer; they go from 0 to {len(rows) - 1}')
    logits, ids = _best(params, config, sign * rows[np.asarray(neurons, np.int32)], min(n, config.vocab_size))
    return np.asarray(ids), np.asarray(logits)


@functools.partial(jax.jit, static_argnames=('config', 'n'))
def _best(params, config, rows, n):
    return jax.lax.top_k(read_out(params, config, rows), n)


def read_out(params: Any, config: ModelConfig, rows: Float[Array, '*batch width']) -> Float[Array, '*batch vocabulary']:
    """The logits that directions of the residual stream stand for, the final norm's division left out.

    Linear: no soft-cap, no bias.
    """
    rows = _frozen_norm(jnp.asarray(rows), params['final_norm']['scale'], config)
    model = Transformer(dataclasses.replace(config, logit_softcap=None))
    unembed = functools.partial(model.apply, {'params': params}, method='unembed')
    return unembed(rows) - unembed(jnp.zeros_like(rows))


def _frozen_norm(rows, scale, config):
    """A norm without its division: linear, so that what it makes of parts adds up."""
    rows = rows.astype(jnp.float32)
    if config.norm == 'layernorm':
        rows = rows - jnp.mean(rows, axis=-1, keepdims=True)
    scale = scale.astype(jnp.float32)
    return rows * jnp.broadcast_to(1 + scale if config.norm_unit_offset else scale, rows.shape)


class Trigger(NamedTuple):
    """A place in a text where a neuron fired.

    Attributes:
        activation: how strongly.
        row: of all rows that were read, from 0.
        position: of the last token the neuron had seen.
    """

    activation: float
    row: int
    position: int


class Triggers:
    """Keeps, batch by batch, the places where each neuron fired most. Memory does not grow with the text."""

    def __init__(self, n: int):
        """Keeps `n` places of each neuron, each from another row, so that one text does not fill the list."""
        self._n, self._rows = n, 0
        self._values: np.ndarray | None = None  # (layers, neurons, n), sorted, largest first
        self._places: np.ndarray | None = None  # the same of (row, position)

    def add(self, neurons: Float[Array, 'layers rows length neurons'], real: Float[Array, 'rows length']) -> None:
        """Takes the activations of further rows.

        Args:
            neurons: after the activation function, before the down projection.
            real: 0 where a row is padding or a place is not to be counted.
        """
        values, positions = jax.device_get(_strongest(neurons, jnp.asarray(real, bool)))
        rows = np.broadcast_to(self._rows + np.arange(values.shape[-1]), values.shape)
        places = np.stack([rows, positions], axis=-1)
        self._rows += values.shape[-1]
        if self._values is not None:
            values = np.concatenate([self._values, values], axis=-1)
            places = np.concatenate([self._places, places], axis=-2)
        order = np.argsort(-values, axis=-1, kind='stable')[..., : self._n]
        self._values = np.take_along_axis(values, order, axis=-1)
        self._places = np.take_along_axis(places, order[..., None], axis=-2)

    def of(self, layer: int, neuron: int) -> list[Trigger]:
        """Where a neuron fired most, strongest first; nowhere if it never did."""
        found = zip(self._values[layer, neuron], self._places[layer, neuron])
        return [Trigger(float(value), int(row), int(at)) for value, (row, at) in found if value > 0]

    def strongest(self) -> tuple[Float[np.ndarray, 'layers neurons'], Int[np.ndarray, 'layers neurons 2']]:
        """The largest activation of each neuron, and its (row, position)."""
        return self._values[..., 0], self._places[..., 0, :]


@jax.jit
def _strongest(neurons, real):
    """For each layer, neuron and row: its largest activation among real places, and where."""
    masked = jnp.where(real[None, :, :, None], neurons.astype(jnp.float32), -jnp.inf)
    value, place = jnp.max(masked, axis=2), jnp.argmax(masked, axis=2)
    return jnp.moveaxis(value, 1, -1), jnp.moveaxis(place, 1, -1)
