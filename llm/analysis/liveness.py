"""When each array of a traced program exists, and so how much memory a compiled program needs for them at once.

A model of what XLA does, from the program's structure alone:

- Only what is written to memory takes any (`llm.analysis.fusion`).
- Operations run in the order that XLA's scheduler gives: breadth first on a CPU, as written elsewhere.
- A loop's stacked outputs exist from before it starts until they are last read; its body's arrays for an iteration.
- An elementwise result takes the place of an operand of its size that nobody reads again; a donated input is
  overwritten by the output it is donated to, and until then, if its content had to be copied, lends its place.
- Arrays are put into one block (`llm.analysis.heap`).

What a kernel of a library needs inside is not known here.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence

from llm.analysis.fusion import (
    ALONE,
    COLLECTIVES,
    IN_PLACE,
    LOOPS,
    REDUCTIONS,
    VIEWS,
    Written,
    find_written,
    reads_in_update,
)
from llm.analysis.heap import Stay, block_size, worst_moment
from llm.analysis.program import Operation, Program, Result


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a program needs beside its arguments and outputs.

    Attributes:
        bytes: the block that all temporary arrays fit into.
        worst: the arrays of the moment that needs most, largest first.
    """

    bytes: int
    worst: list[Stay]


def temporaries(
    program: Program, donated: Sequence[int] = (), size: Callable[[Result], int] | None = None, cpu: bool = True
) -> Prediction:
    """Predicts the temporary memory of a compiled program.

    Args:
        program: from `llm.analysis.program.from_jaxpr`.
        donated: inputs, by index, whose memory the output of the same index takes over.
        size: bytes of an array on one device; None is the whole of it.
        cpu: whether it is compiled for a CPU, whose compiler orders and widens as told in the code below.
    """
    simulation = _Simulation(size or (lambda result: result.bytes), cpu)
    arguments = [[simulation.stay(result, 'argument', counted=False)] for result in program.inputs]
    written = find_written(program)
    given = {id(written.of(program.outputs[index])) for index in donated}
    outputs = simulation.run(program, arguments, given)
    stays = simulation.stays
    for index in donated:
        # The update reads the parameter twice (decay, and what is added), so the norm of the update may read it after
        # it is overwritten: XLA works on a copy, and uses the donated memory for other arrays until then.
        if reads_in_update(written, program.outputs[index], program.inputs[index]) > 1:
            copy = simulation.stay(program.inputs[index], 'copy', counted=False)
            copy.start, copy.end = 1, outputs[index][0].start
            lodgers: list[Stay] = []
            for stay in sorted(stays, key=lambda stay: stay.start - stay.end):
                fits = stay.bytes == copy.bytes and stay.end < copy.end and stay.what != 'copy'
                if fits and all(stay.end < other.start or other.end < stay.start for other in lodgers):
                    lodgers.append(stay)
            stays = [stay for stay in stays if stay not in lodgers] + [copy]
    return Prediction(block_size(stays), worst_moment(stays))


def _breadth_first(operations: list[Operation], written: Written) -> list[Operation]:
    """The order of XLA's scheduler for CPUs: first in, first out of a queue of what is ready."""
    before = {id(op): {id(r.operation) for x in op.inputs for r in written.sources(x)} for op in operations}
    known = {id(op) for op in operations}
    users = collections.defaultdict(list)
    missing = {}
    for operation in operations:
        needs = before[id(operation)] & known
        missing[id(operation)] = len(needs)
        for need in needs:
            users[need].append(operation)
    queue = collections.deque(operation for operation in operations if not missing[id(operation)])
    order, waited = [], set()
    while queue:
        operation = queue.popleft()
        to_a_number = operation.name in REDUCTIONS and not operation.results[0].shape
        if to_a_number and id(operation) not in waited:  # done in two passes
            waited.add(id(operation))
            queue.append(operation)
            continue
        order.append(operation)
        for user in users[id(operation)]:
            missing[id(user)] -= 1
            if not missing[id(user)]:
                queue.append(user)
    return order


class _Simulation:
    """Walks through a program, loops once, and notes when each array comes and goes."""

    def __init__(self, size: Callable[[Result], int], cpu: bool):
        self.size, self.cpu = size, cpu
        self.now = 0
        self.stays: list[Stay] = []

    def stay(self, result: Result, what: str, factor: int = 1, counted: bool = True) -> Stay:
        stay = Stay(
            factor * self.size(result),
            self.now,
            self.now,
            what,
            result.shape,
            str(result.dtype),
            result.operation.where,
        )
        if counted:
            self.stays.append(stay)
        return stay

    def run(self, program: Program, inputs: list[list[Stay]], given: frozenset | set = frozenset()) -> list[list[Stay]]:
        """Runs a program on arrays in memory. Returns those that each of its outputs is made of.

        Args:
            program: what to run.
            inputs: for each input, the arrays it is made of.
            given: outputs, by identity, whose memory is somebody else's.
        """
        written = find_written(program)
        at = {id(result): stays for result, stays in zip(program.inputs, inputs)}

        def stays_of(result: Result) -> list[Stay]:
            found = {id(stay): stay for source in written.sources(result) for stay in at.get(id(source), ())}
            return list(found.values())

        operations = [op for op in program.operations if op.name not in VIEWS and written(op)]
        if self.cpu:
            operations = _breadth_first(operations, written)
        last = {}  # the last operation that reads an array
        for index, operation in enumerate(operations):
            last.update((id(source), index) for x in operation.inputs for source in written.sources(x))
        last.update((id(source), len(operations)) for x in program.outputs for source in written.sources(x))
        wide = self._widened(program, written)
        stacked = self._stacked(operations) if self.cpu else {}
        for index, operation in enumerate(operations):
            self.now += 1
            used = [stays_of(x) for x in operation.inputs]
            self._touch(used)
            dying = {
                id(source)
                for x in operation.inputs
                for source in written.sources(x)
                if last.get(id(source), index) <= index and source.operation.name != 'input'
            }
            if operation.bodies:
                made = self._loop(operation, used, [id(written.of(x)) in dying for x in operation.inputs], stacked)
                self._touch(used)
            else:
                free = operation.name not in ALONE | REDUCTIONS or operation.name in IN_PLACE
                candidates = [at[i][0] for i in dying if len(at.get(i, ())) == 1] if free else []
                made = []
                for result in operation.results:
                    if id(result) in given:
                        made.append(self.stay(result, operation.name, counted=False))
                        continue
                    factor = 2 if id(result) in wide else 1
                    room = next((s for s in candidates if s.bytes == factor * self.size(result)), None)
                    made.append(room or self.stay(result, operation.name, factor))
                self._touch([made])
                if operation.name in COLLECTIVES and self.cpu:
                    self._communicate(operation)
            at.update((id(result), [stay]) for result, stay in zip(operation.results, made))
        self.now += 1
        outputs = [stays_of(result) for result in program.outputs]
        self._touch(outputs)
        return outputs

    def _widened(self, program: Program, written: Written) -> set[int]:
        """On a CPU, a product with batch axes, or of operands of two types, is done in float32: its 16-bit operands."""
        products = [op for op in program.operations if op.name == 'dot_general' and self.cpu]
        products = [
            op for op in products if op.params['dimension_numbers'][1][0] or op.inputs[0].dtype != op.inputs[1].dtype
        ]
        return {id(written.of(x)) for op in products for x in op.inputs if x.dtype.itemsize == 2}

    def _touch(self, groups: list[list[Stay]]) -> None:
        for stays in groups:
            for stay in stays:
                stay.end = max(stay.end, self.now)

    def _communicate(self, operation: Operation) -> None:
        """A CPU sends float32, and adds up the whole of a sum of which each device then keeps a part."""
        source, result = operation.inputs[0], operation.results[0]
        narrow = result.dtype.itemsize == 2
        sent = source if operation.name == 'all_reduce' else result
        if narrow or self.size(sent) != self.size(result):
            self.stay(sent, operation.name, factor=2 if narrow else 1)

    def _stacked(self, operations: list[Operation]) -> dict[int, list[Stay]]:
        """The stacked outputs of loops: a CPU's scheduler makes room for them before anything else, as zeros.

        Zeros of a 16-bit type are first made in float32.
        """
        self.now += 1
        loops = [operation for operation in operations if operation.name == 'scan']
        made = {}
        for loop in loops:
            results = loop.results[loop.params['num_carry'] :]
            made[id(loop)] = [self.stay(result, 'stacked') for result in results]
            for result in results:
                if result.dtype.itemsize == 2:
                    self.stay(result, 'zeros', factor=2)
        self.now += 1
        return made

    def _loop(self, operation: Operation, used: list[list[Stay]], dying: list[bool], stacked: dict) -> list[Stay]:
        """Runs the body of a loop once, or each branch of a condition."""
        params, results = operation.params, operation.results
        if operation.name not in LOOPS:
            for body in operation.bodies:
                self.run(body, used[1:])
            return [self.stay(result, operation.name) for result in results]
        if operation.name == 'scan':
            first, carried = params['num_consts'], params['num_carry']
        else:
            first, carried = params['cond_nconsts'] + params['body_nconsts'], len(results)
        carry = []
        for index in range(carried):
            own, result = used[first + index], results[index]
            place = len(own) == 1 and dying[first + index] and own[0].bytes == self.size(result)
            carry.append(own[0] if place else self.stay(result, 'carried'))
        rest = stacked.get(id(operation)) or [self.stay(result, 'stacked') for result in results[carried:]]
        self.now += 1
        constants = used[params.get('cond_nconsts', 0) : first]
        stacks = list(zip(operation.inputs, used))[first + carried :]
        slices, widened = self._slices(operation.bodies[0], stacks)
        self.run(operation.bodies[0], constants + [[stay] for stay in carry] + slices)
        self.now += 1
        self._touch([carry, rest, widened])
        return carry + rest

    def _slices(self, body: Program, stacks: list[tuple[Result, list[Stay]]]) -> tuple[list[list[Stay]], list[Stay]]:
        """What an iteration reads of stacked inputs, and what was made of whole stacks before the first.

        A slice that goes into a product is cut out first; if that is done in float32, of the stack in float32.
        """
        written, slices, widened = find_written(body), [], []
        wide = self._widened(body, written)
        for result, (stack, stays) in zip(body.inputs[len(body.inputs) - len(stacks) :], stacks):
            if id(result) in wide:
                widened.append(self.stay(stack, 'convert_element_type', factor=2))
                stays = [*stays, widened[-1]]
            alone = any(user.name in ALONE - LOOPS for user in written.users[id(result)])
            slices.append([*stays, self.stay(result, 'slice')] if alone else stays)
        return slices, widened
