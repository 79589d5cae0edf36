"""Where a parameter of ours is among the tensors of theirs: one row a parameter, the table of a family.

A parameter of ours is stacked over the layers, kernels are (in, out); theirs has a tensor for each layer, most kernels
are (out, in), and some hold several of ours side by side.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from llm.errors import UserError
from llm.tree import named_leaves

LAYER = '{layer}'  # where a name of theirs has the number of the layer


class Row(NamedTuple):
    """One line of a family's table.

    Attributes:
        ours: path of the parameter, 'blocks/attention/query/kernel'.
        theirs: name of the tensor, with `{layer}` where there is one for each.
        transposed: theirs has its two axes the other way round.
        part: which of how many equal parts of their last axis is ours, (0, 3).
    """

    ours: str
    theirs: str
    transposed: bool = False
    part: tuple[int, int] = (0, 1)

    @property
    def stacked(self) -> bool:
        """Whether there is a tensor for each layer."""
        return LAYER in self.theirs

    def name(self, layer: int) -> str:
        """The tensor of a layer."""
        return self.theirs.replace(LAYER, str(layer))

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that their tensor must have.

        Args:
            ours: the parameter's, of one layer.
        """
        whole = (*ours[:-1], ours[-1] * self.part[1])
        return whole[::-1] if self.transposed else whole

    def index(self, ours: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
        """Where in their tensor a stretch of the parameter is.

        Args:
            ours: the stretch, with a start and a stop on each axis.
            shape: the parameter's, of one layer.
        """
        offset = self.part[0] * shape[-1]
        last = slice(ours[-1].start + offset, ours[-1].stop + offset)
        whole = (*ours[:-1], last)
        return whole[::-1] if self.transposed else whole


class Placed(NamedTuple):
    """A row, with the parameter it is for.

    Attributes:
        row: of the table.
        leaf: shape, dtype and, if it has one, sharding of the parameter, all layers of it.
    """

    row: Row
    leaf: Any

    @property
    def layers(self) -> int:
        return self.leaf.shape[0] if self.row.stacked else 1

    @property
    def layer_shape(self) -> tuple[int, ...]:
        return self.leaf.shape[1:] if self.row.stacked else self.leaf.shape

    def names(self) -> Iterator[str]:
        """The tensors that hold the parameter."""
        return (self.row.name(layer) for layer in range(self.layers))


def place(table: Iterable[Row], params: Any) -> list[Placed]:
    """The rows for a model's parameters, in the order of the tree.

    Args:
        table: of a family; rows for what this model has not (biases, say) are left out.
        params: shapes of the parameters.

    Raises:
        UserError: for a parameter that the family has no tensor for.
    """
    rows = {row.ours: row for row in table}
    leaves = named_leaves(params)
    if strangers := [name for name, _ in leaves if name not in rows]:
        raise UserError(f'the family has no tensor for {listed(strangers)}')
    return [Placed(rows[name], leaf) for name, leaf in leaves]


def expected_shapes(placed: list[Placed]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of theirs has."""
    return {name: p.row.shape(p.layer_shape) for p in placed for name in p.names()}


def listed(names: list[str], most: int = 6) -> str:
    """The first few of many names, in one line."""
    shown = ', '.join(name if name.isprintable() else repr(name) for name in names[:most])
    return shown if len(names) <= most else f'{shown} and {len(names) - most} more'
