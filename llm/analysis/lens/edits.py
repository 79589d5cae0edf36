"""Edits of what a model computes: switch off, scale, put in what another run computed, or the mean of many.

Each function returns edits for `run`, a dictionary from the site to an `Edit` (scale, offset); `combine` makes one of
several. `layers`, `units` and `positions` choose where they act; what is not chosen stays as it is. A unit is a head
(of keys and values: a key head), a neuron, or where the site is a stream one of its dimensions; a position of scores
and pattern is that of the query.

Their arrays are as small as the choice allows, so edits of the same kind share one compiled program.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from llm.config import ModelConfig
from llm.errors import UserError
from llm.model.taps import SITES, Edit, Edits, sites_of

Choice = int | Sequence[int] | None  # None is all


def ablate(
    config: ModelConfig,
    site: str,
    *,
    layers: Choice = None,
    units: Choice = None,
    positions: Choice = None,
    length: int | None = None,
) -> dict[str, Edit]:
    """Sets the chosen values to 0. See `scale` for the arguments."""
    return scale(config, site, 0.0, layers=layers, units=units, positions=positions, length=length)


def scale(
    config: ModelConfig,
    site: str,
    factor: float,
    *,
    layers: Choice = None,
    units: Choice = None,
    positions: Choice = None,
    length: int | None = None,
) -> dict[str, Edit]:
    """Multiplies the chosen values by a factor.

    Args:
        config: the model's.
        site: one of `SITES`.
        factor: 1 changes nothing.
        layers: which; negative ones count from the end. Sites outside of the blocks have none.
        units: which heads, neurons or dimensions.
        positions: which places of the row; needs `length`.
        length: of the row.

    Raises:
        UserError: for a site, layer, unit or position that does not exist.
    """
    chosen = _chosen(config, site, layers, units, positions, length)
    return {site: Edit(1.0 - chosen * (1.0 - factor), jnp.zeros([len(chosen)] + [1] * (chosen.ndim - 1)))}


def patch(
    config: ModelConfig,
    site: str,
    value: Float[Array | np.ndarray, '...'],
    *,
    layers: Choice = None,
    units: Choice = None,
    positions: Choice = None,
) -> dict[str, Edit]:
    """Puts values in the place of what the model computes: those of another run, say (activation patching).

    Args:
        config: the model's.
        site: one of `SITES`.
        value: what `run` returned for the site, or an array that broadcasts to it with the same number of axes.
        layers: as in `scale`; so are `units` and `positions`.

    Raises:
        UserError: as `scale` does, or for a value of the wrong shape.
    """
    value = jnp.asarray(value)
    axes = _axes(config, site)
    if value.ndim != len(axes):
        raise UserError(f'a patch of {site} has axes {" ".join(axes)}; this one has shape {value.shape}')
    places = value.shape[next(i for i, name in enumerate(axes) if name in _POSITION)]
    chosen = _chosen(config, site, layers, units, positions, places)
    # A value where nothing is chosen cannot matter so, even if it is not finite.
    return {site: Edit(1.0 - chosen, jnp.where(chosen > 0, value, 0.0))}


def mean_ablate(
    config: ModelConfig,
    site: str,
    value: Float[Array | np.ndarray, '...'],
    *,
    layers: Choice = None,
    units: Choice = None,
    positions: Choice = None,
    length: int | None = None,
    real: Bool[Array | np.ndarray, 'batch length'] | None = None,
) -> dict[str, Edit]:
    """Puts the mean of what `run` returned for the site in its place: a head, say, that no longer knows the text.

    The mean is over rows and places; of scores and pattern over rows. The arguments are those of `patch`, and `length`,
    which `positions` need, and `real`: which places are no padding and count (None is all).
    """
    value = jnp.asarray(value)
    axes = _axes(config, site)
    over = tuple(i for i, name in enumerate(axes) if name in ('batch', 'length'))
    chosen = _chosen(config, site, layers, units, positions, length)
    real = jnp.ones((1, 1), bool) if real is None else jnp.asarray(real)
    others = [i for i, name in enumerate(axes) if name not in ('batch', *_POSITION)]
    counted = jnp.broadcast_to(jnp.expand_dims(real, others), value.shape)
    count = jnp.maximum(jnp.sum(counted, axis=over, keepdims=True), 1)
    mean = jnp.sum(value, axis=over, keepdims=True, where=counted) / count
    return {site: Edit(1.0 - chosen, chosen * mean)}


def combine(*several: Edits) -> dict[str, Edit]:
    """One after the other: on a site that two of them have, the second acts on what the first left."""
    made = {}
    for edits in several:
        for site, second in edits.items():
            first = made.get(site)
            made[site] = (
                second
                if first is None
                else Edit(first.scale * second.scale, first.offset * second.scale + second.offset)
            )
    return made


_UNITS = {
    'heads': lambda config: config.num_heads,
    'kv_heads': lambda config: config.kv_heads,
    'hidden': lambda config: config.hidden_width,
    'width': lambda config: config.width,
}
_POSITION = ('length', 'query')
_CALLED = {'heads': 'head', 'kv_heads': 'key head', 'hidden': 'neuron', 'width': 'dimension'}


def _axes(config, site):
    if site not in sites_of(config):
        raise UserError(f'this model has no site {site!r}; it has {", ".join(sites_of(config))}')
    axes = SITES[site].axes.split()
    return ['layer', *axes] if SITES[site].layered else axes


def _chosen(config, site, layers, units, positions, length):
    """1 where an edit acts and 0 elsewhere, as small an array as broadcasts to the site's values."""
    axes = _axes(config, site)
    if not SITES[site].layered and layers is not None:
        raise UserError(f'site {site} is not inside the layers; leave layers out')
    if positions is not None and length is None:
        raise ValueError('positions are chosen of a row: give its length')
    unit = next(name for name in axes if name in _UNITS)
    chosen = jnp.ones([1] * len(axes))
    for axis, name in enumerate(axes):
        if name == 'layer':
            along = _indicator('layer', layers, config.num_layers)
        elif name == unit and units is not None:
            along = _indicator(_CALLED[unit], units, _UNITS[unit](config))
        elif name in _POSITION and positions is not None:
            along = _indicator('position', positions, length)
        else:
            continue
        chosen = chosen * along.reshape([-1 if i == axis else 1 for i in range(len(axes))])
    return chosen


def _indicator(what, choice, size):
    """A vector of 1 at each chosen place."""
    if choice is None:
        return jnp.ones(size)
    places = [choice] if isinstance(choice, int | np.integer) else list(choice)
    for place in places:
        if not -size <= place < size:
            raise UserError(f'{what} {place} does not exist; there are {size}, from 0 to {size - 1}')
    found = np.zeros(size, np.float32)
    found[places] = 1
    return jnp.asarray(found)
