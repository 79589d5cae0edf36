"""Which operations of a traced program write what they make to memory; the others are computed where they are read.

An elementwise operation is computed inside the operation that reads it (fusion), unless several read it and repeating
it would cost something. Views (reshapes) never write. A model of what XLA does, from the program's structure alone.
"""

import collections

from llm.analysis.program import Operation, Program, Result

# The same bytes under another shape or name.
VIEWS = {'reshape', 'squeeze', 'expand_dims', 'copy', 'stop_gradient', 'layout_constraint', 'optimization_barrier'}
VIEWS |= {'sharding_constraint', 'full_to_shard', 'shard_to_full', 'pvary'}
REDUCTIONS = {'reduce_sum', 'reduce_max', 'reduce_min', 'reduce_and', 'reduce_or', 'reduce_prod', 'argmax', 'argmin'}
LOOPS = {'scan', 'while'}
# What no other operation is computed with: its result is written, and so are its operands.
ALONE = {'dot_general', 'conv_general_dilated', 'cond', 'sort', 'cumsum', 'cummax', 'cumlogsumexp'}
ALONE |= {'scatter', 'scatter-add', 'scatter_mul', 'top_k', 'dynamic_update_slice', 'pallas_call', 'ffi_call'}
ALONE |= {'random_bits', 'threefry2x32', 'custom_partitioning', 'input', 'constant'} | LOOPS
COLLECTIVES = {'all_gather', 'all_reduce'}  # of `llm.analysis.communication`
ALONE |= COLLECTIVES
# Written over the first operand, if nobody else reads that.
IN_PLACE = {'scatter', 'scatter-add', 'scatter_mul', 'dynamic_update_slice'}
# Costs more than reading its result again, so it is not repeated.
_COSTLY = {'exp', 'exp2', 'log', 'log1p', 'expm1', 'tanh', 'sin', 'cos', 'tan', 'sqrt', 'rsqrt', 'cbrt', 'pow', 'div'}
_COSTLY |= {'logistic', 'erf', 'erf_inv', 'rem', 'atan2', 'gather'}


class Written:
    """Which operations of a program write their results to memory, and what a result stands for."""

    def __init__(self):
        self.users: dict[int, list[Operation]] = collections.defaultdict(list)
        self.yes: dict[int, bool] = {}

    def of(self, result: Result) -> Result:
        """The array behind views."""
        while result.operation.name in VIEWS:
            made = result.operation
            result = made.inputs[made.results.index(result) if len(made.inputs) == len(made.results) else 0]
        return result

    def __call__(self, operation: Operation) -> bool:
        return self.yes.get(id(operation), True)

    def sources(self, result: Result) -> list[Result]:
        """The arrays in memory that computing a result reads; itself, if it is in memory."""
        found, stack, seen = [], [self.of(result)], set()
        while stack:
            result = stack.pop()
            if id(result) in seen or result.operation.name == 'constant':
                continue
            seen.add(id(result))
            if self(result.operation):
                found.append(result)
            else:
                stack += map(self.of, result.operation.inputs)
        return found


def find_written(program: Program) -> Written:
    """Decides it for every operation of a program, from the last to the first."""
    written = Written()
    pinned = {id(written.of(result)) for result in program.outputs}
    for operation in program.operations:
        if operation.name == 'optimization_barrier':
            pinned.update(id(written.of(result)) for result in operation.inputs)
        if operation.name not in VIEWS:
            for result in operation.inputs:
                written.users[id(written.of(result))].append(operation)
    sums = {id(operation) for operation in program.operations if operation.name in REDUCTIONS}
    readers: dict[int, set[int]] = {}  # the operations that write something and read this one, fused ones seen through
    for operation in reversed(program.operations):
        if operation.name in VIEWS:
            continue
        users = [user for result in operation.results for user in written.users[id(result)]]
        readers[id(operation)] = set().union(*({id(u)} if written(u) else readers[id(u)] for u in users))
        result = operation.results[0]
        never_fused = operation.name in ALONE | REDUCTIONS or len(operation.results) > 1 or id(result) in pinned
        if _scattered_into_zeros(operation, users) or _zeros_to_scatter_into(operation, users):
            write = False
        elif never_fused or any(user.name in ALONE for user in users):
            write = True
        else:
            into = readers[id(operation)]
            write = len(into) > 1 and _worth_writing(operation, written, not sums.isdisjoint(into))
        written.yes[id(operation)] = write
    return written


def _zeros_to_scatter_into(operation: Operation, users: list[Operation]) -> bool:
    scalar = operation.name == 'broadcast_in_dim' and not operation.inputs[0].shape
    return scalar and len(users) == 1 and users[0].name == 'scatter-add'


def _scattered_into_zeros(operation: Operation, users: list[Operation]) -> bool:
    """A scatter whose result is added to another array: a compiler scatters into that one (0 + x = x)."""
    if operation.name != 'scatter-add' or len(users) != 1 or users[0].name not in ('add', 'add_any'):
        return False
    zeros = operation.inputs[0].operation
    return zeros.name == 'broadcast_in_dim' and not zeros.inputs[0].shape


def _worth_writing(operation: Operation, written: Written, reduced: bool) -> bool:
    """Whether what several operations read is better written once than computed by each.

    Args:
        operation: an elementwise one.
        written: known of those that read it.
        reduced: whether a sum over an axis is among them: a kernel of its own, which does not broadcast.
    """
    if operation.name == 'broadcast_in_dim':
        return reduced and bool(operation.inputs[0].shape)  # of a number it is free
    result = operation.results[0]
    large = [r for r in map(written.of, operation.inputs) if r.shape and 4 * r.bytes >= result.bytes]
    large = [r for r in large if r.operation.name not in ('constant', 'broadcast_in_dim', 'iota')]
    return operation.name in _COSTLY or len(large) > 1


def reads_in_update(written: Written, output: Result, parameter: Result) -> int:
    """How often elementwise operations that lead to an output read an input."""
    count, stack, seen = 0, [written.of(output)], set()
    while stack:
        operation = stack.pop().operation
        if id(operation) in seen or operation.name in ALONE | REDUCTIONS:
            continue
        seen.add(id(operation))
        inputs = [written.of(result) for result in operation.inputs]
        count += sum(result is parameter for result in inputs)
        stack += inputs
    return count
