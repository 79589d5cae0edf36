"""Over which axes of a mesh each array of a traced program is cut: a sketch of the compiler's own propagation.

Known are the arguments, the results, and what the model pins (`llm.parallel.axes.constrain`). Most operations tie an
axis of what they make to an axis of what they read; along these ties a cut spreads until everything reached is cut
alike. Where that leaves a product with operands cut differently, `llm.analysis.communication` says what is sent.
"""

import collections
import math
from collections.abc import Iterable, Iterator, Sequence

from jax.sharding import Mesh, PartitionSpec

from llm.analysis.program import Operation, Program, Result

Axes = tuple[str, ...]
Tie = tuple[Result, int, Result, int]  # this axis of this array is that axis of that one


class Partition:
    """Where each array of a program lies. Call it with a `Result` for its bytes on one device."""

    def __init__(
        self, program: Program, mesh: Mesh, inputs: Sequence[PartitionSpec], outputs: Sequence[PartitionSpec | None]
    ):
        """
        Args:
            program: the traced step.
            mesh: its devices.
            inputs: how each input is cut.
            outputs: how each output is cut; None leaves it open.
        """
        self._sizes = dict(mesh.shape)
        self._cut: dict[int, list[Axes]] = {}
        self._ties: dict[tuple[int, int], list[tuple[Result, int]]] = collections.defaultdict(list)
        pins: list[tuple[Result, PartitionSpec]] = []
        wanted: list[tuple[Result, PartitionSpec]] = []  # by what every device runs on its part
        self._read(program, pins, wanted)
        self._pinned = {id(result) for result, _ in pins}
        self._spread(pins)  # first: where activations meet parameters, it is the rows that stay cut
        known = [(result, spec) for result, spec in zip(program.outputs, outputs) if spec is not None]
        self._spread([*zip(program.inputs, inputs), *known, *wanted])

    def _spread(self, seeds: Iterable[tuple[Result, PartitionSpec]]) -> None:
        queue = collections.deque()
        for result, spec in seeds:
            for axis, names in enumerate(spec):
                names = (names,) if isinstance(names, str) else tuple(names or ())
                if self._place(result, axis, names):
                    queue.append((result, axis))
        while queue:
            result, axis = queue.popleft()
            names = self.of(result)[axis]
            for other, at in self._ties[id(result), axis]:
                if id(other) not in self._pinned and self._place(other, at, names):
                    queue.append((other, at))

    def __call__(self, result: Result) -> int:
        parts = [math.prod(self._sizes[name] for name in names) for names in self.of(result)]
        shape = [-(-size // part) for size, part in zip(result.shape, parts)]
        return math.prod(shape) * getattr(result.dtype, 'itemsize', 8)

    def of(self, result: Result) -> list[Axes]:
        """The axes of the mesh that each axis of an array is cut over, to read and to change."""
        return self._cut.setdefault(id(result), [() for _ in result.shape])

    def _place(self, result: Result, axis: int, names: Axes) -> bool:
        """Cuts an axis that is whole so far, if that is possible. Returns whether anything changed."""
        if result.local:
            return False
        cut = self.of(result)
        names = tuple(name for name in names if self._sizes[name] > 1)
        parts = math.prod(self._sizes[name] for name in names)
        taken = {name for other in cut for name in other}
        if cut[axis] or not names or taken & set(names) or result.shape[axis] % parts:
            return False
        cut[axis] = names
        return True

    def _read(self, program: Program, pins: list, wanted: list) -> None:
        for operation in program.operations:
            if operation.name == 'sharding_constraint':
                pins.append((operation.results[0], operation.params['sharding'].spec))
            if operation.name == 'shard_to_full':
                pins.append((operation.results[0], operation.params['spec']))
            if operation.name == 'full_to_shard':
                wanted.append((operation.inputs[0], operation.params['spec']))
            for body in operation.bodies:
                self._read(body, pins, wanted)
            for left, i, right, j in ties(operation):
                if left.shape[i] == right.shape[j] or operation.name == 'reshape':
                    self._ties[id(left), i].append((right, j))
                    self._ties[id(right), j].append((left, i))


def ties(operation: Operation) -> Iterator[Tie]:
    """Which axes of an operation's results are which axes of its inputs."""
    name, params, inputs, results = operation.name, operation.params, operation.inputs, operation.results
    if name == 'scan':
        yield from _scan_ties(operation)
    elif name == 'dot_general':
        ((left_summed, right_summed), (left_batch, right_batch)) = params['dimension_numbers']
        left, right = inputs
        left_free = [i for i in range(len(left.shape)) if i not in (*left_summed, *left_batch)]
        right_free = [i for i in range(len(right.shape)) if i not in (*right_summed, *right_batch)]
        for at, (i, j) in enumerate(zip(left_batch, right_batch)):
            yield results[0], at, left, i
            yield results[0], at, right, j
        for at, i in enumerate(left_free, len(left_batch)):
            yield results[0], at, left, i
        for at, j in enumerate(right_free, len(left_batch) + len(left_free)):
            yield results[0], at, right, j
    elif name == 'broadcast_in_dim':
        for i, at in enumerate(params['broadcast_dimensions']):
            yield results[0], at, inputs[0], i
    elif name == 'transpose':
        for at, i in enumerate(params['permutation']):
            yield results[0], at, inputs[0], i
    elif name == 'reshape':
        yield from _reshape_ties(results[0], inputs[0])
    elif name in ('squeeze', 'expand_dims') or 'axes' in params:
        dropped = params.get('dimensions', params.get('axes'))
        more, fewer = (results[0], inputs[0]) if name == 'expand_dims' else (inputs[0], results[0])
        if len(more.shape) - len(dropped) == len(fewer.shape):
            for at, i in enumerate(i for i in range(len(more.shape)) if i not in dropped):
                yield fewer, at, more, i
    elif name in ('index_in_dim', 'stack'):
        for one, all_ in [(results[0], inputs[0])] if name == 'index_in_dim' else [(x, results[0]) for x in inputs]:
            yield from _alike(one, all_, True)
    elif name == 'gather':
        numbers = params['dimension_numbers']
        places = [at for at in range(len(results[0].shape)) if at not in numbers.offset_dims]
        for i, at in enumerate(places):
            yield results[0], at, inputs[1], i
    elif not operation.bodies:
        for result in results:
            for source in inputs[:1] if name.startswith('scatter') else inputs:
                if len(source.shape) == len(result.shape):
                    for axis in range(len(result.shape)):
                        yield result, axis, source, axis


def _scan_ties(operation: Operation) -> Iterator[Tie]:
    body, params = operation.bodies[0], operation.params
    first, carried = params['num_consts'], params['num_carry']
    for index, (outer, inner) in enumerate(zip(operation.inputs, body.inputs)):
        yield from _alike(inner, outer, index >= first + carried)
    for index, (outer, inner) in enumerate(zip(operation.results, body.outputs)):
        yield from _alike(inner, outer, index >= carried)
        if index < carried:
            yield from _alike(body.inputs[first + index], outer, False)


def _alike(inner: Result, outer: Result, stacked: bool) -> Iterator[Tie]:
    for axis in range(len(inner.shape)):
        yield inner, axis, outer, axis + stacked


def _reshape_ties(new: Result, old: Result) -> Iterator[Tie]:
    """Where axes are merged or split, the first of them carries the cut."""
    i = j = 0
    while i < len(new.shape) and j < len(old.shape):
        yield new, i, old, j
        left, right = new.shape[i], old.shape[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right and i < len(new.shape):
                left, i = left * new.shape[i], i + 1
            elif right < left and j < len(old.shape):
                right, j = right * old.shape[j], j + 1
            else:
                return
