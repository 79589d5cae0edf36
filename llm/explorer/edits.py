"""What a user changes inside the model: parts scaled, switched off, or replaced by what they were on another prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm.analysis import lens
from llm.config import ModelConfig
from llm.errors import UserError
from llm.model.taps import Edit, Edits

# The site that each part of a block is changed at; the number is the part's axis in the value of one row, if it is one
# of several there.
SITES = {
    'head': ('head_outputs', 0),
    'neuron': ('neurons', 1),
    'attention': ('attention_output', None),
    'feed_forward': ('feed_forward_output', None),
    'residual': ('residual_after', None),
}
MOST_EDITS = 256
MOST_SCALE = 1e6  # beyond it float32 runs out of numbers somewhere behind


@dataclass(frozen=True)
class Scale:
    """A part multiplied by a number at all positions; 0 switches it off."""

    part: str  # 'head', 'neuron', 'attention' or 'feed_forward'
    layer: int
    index: int | None  # of the head or the neuron
    factor: float

    def json(self) -> dict[str, Any]:
        return {'kind': self.part, 'layer': self.layer, **_index(self.part, self.index), 'scale': self.factor}


@dataclass(frozen=True)
class Patch:
    """A part replaced, at one position, by what it is at a position of another prompt."""

    part: str  # of `SITES`
    layer: int
    index: int | None  # of the head or the neuron
    position: int
    source: tuple[int, ...]  # ids of the other prompt
    prompt: str  # the same as it was typed
    source_position: int

    def json(self) -> dict[str, Any]:
        return {
            'kind': 'patch',
            'site': self.part,
            'layer': self.layer,
            **_index(self.part, self.index),
            'position': self.position,
            'prompt': self.prompt,
            'from_position': self.source_position,
        }


def _index(part, index):
    return {} if index is None else {part: index}


Change = Scale | Patch


def check(changes: Sequence[Change], model: ModelConfig, length: int) -> None:
    """Refuses what the model has not.

    Args:
        changes: of a prompt.
        model: the config.
        length: tokens of the prompt.

    Raises:
        UserError: naming the number and its range.
    """
    if len(changes) > MOST_EDITS:
        raise UserError(f'{len(changes)} edits are more than {MOST_EDITS}; remove some')
    for change in changes:
        require('layer', change.layer, model.num_layers)
        if change.part in ('neuron', 'feed_forward') and not model.hidden_width:
            raise UserError('the model has no feed-forward networks (model.feed_forward_width 0)')
        if change.part in ('head', 'neuron'):
            require(change.part, change.index, model.num_heads if change.part == 'head' else model.hidden_width)
        if isinstance(change, Scale) and not abs(change.factor) <= MOST_SCALE:
            raise UserError(f'scale is {change.factor:g}; give one from {-MOST_SCALE:g} to {MOST_SCALE:g}')
        if isinstance(change, Patch):
            require('position', change.position, length)
            require('from_position', change.source_position, len(change.source))


def require(name: str, value: int | None, size: int) -> None:
    """Raises UserError unless `value` is one of `size` numbers from 0."""
    if value is None:
        raise UserError(f'{name} is missing; give one from 0 to {size - 1}')
    if not 0 <= value < size:
        raise UserError(f'there is no {name} {value}; give one from 0 to {size - 1}')


def of_layer(
    changes: Sequence[Change],
    model: ModelConfig,
    layer: int,
    padded: int,
    values: Callable[[Patch], np.ndarray],
) -> Edits | None:
    """What `Block` is given to make the changes of one layer; None if there are none.

    It has every site and every position, so that one compiled program makes all changes. A patch wins over a scale.

    Args:
        changes: of all layers.
        model: the config.
        layer: which.
        padded: tokens of the prompt with its padding.
        values: of a patch, what its part was on the other prompt.
    """
    mine = [change for change in changes if change.layer == layer]
    if not mine:
        return None
    shapes = {
        'head_outputs': ((model.num_heads, padded, 1), (model.num_heads, padded, model.key_size)),
        'neurons': ((padded, model.hidden_width),) * 2,
        **dict.fromkeys(('attention_output', 'residual_after'), ((padded, 1), (padded, model.width))),
        'feed_forward_output': ((padded, 1), (padded, model.width)),
    }
    if not model.hidden_width:
        del shapes['neurons'], shapes['feed_forward_output']
    edits = {
        name: Edit(*(make(shape, np.float32) for make, shape in zip((np.ones, np.zeros), pair)))
        for name, pair in shapes.items()
    }
    for change in sorted(mine, key=lambda change: isinstance(change, Patch)):
        site, axis = SITES[change.part]
        place: list[Any] = [slice(None)] * edits[site].scale.ndim
        if axis is not None:
            place[axis] = change.index
        if isinstance(change, Scale):
            edits[site].scale[tuple(place)] *= change.factor
            continue
        place[1 if site == 'head_outputs' else 0] = change.position
        edits[site].scale[tuple(place)] = 0
        edits[site].offset[tuple(place)] = values(change)
    return {name: Edit(edit.scale[None], edit.offset[None]) for name, edit in edits.items()}


def stacked(changes: Sequence[Scale], model: ModelConfig) -> Edits | None:
    """The same for `Transformer`, of all layers and for prompts of any length: changes that name no position.

    Only sites that are changed: without changes a step of decoding is as fast as ever.
    """
    made = (
        lens.scale(model, SITES[change.part][0], change.factor, layers=change.layer, units=change.index)
        for change in changes
    )
    return lens.combine(*made) or None


def plain(changes: Sequence[Change]) -> list[dict[str, Any]]:
    """The changes as JSON has them."""
    return [change.json() for change in changes]


def first_layer(changes: Sequence[Change]) -> int:
    """The first block that is changed; those before it are as without changes."""
    return min(change.layer for change in changes)
