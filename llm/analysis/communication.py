"""What devices send each other so that matrix products meet the operands they need, as operations of the program.

An operand is gathered where it is cut along the axis that is summed over and the other operand is not (as with FSDP, a
layer's weights before they are used), and where both are cut over the same devices along axes that meet in the result,
which has room for one. Where both are cut along the sum, every device has the sum of its own part: those are added up,
and each device keeps what the partition gives it of the total. What every turn of a loop would gather again is gathered
before the loop.
"""

from llm.analysis.partition import Axes, Partition, ties
from llm.analysis.program import Operation, Program, Result, needed


def insert(program: Program, partition: Partition) -> None:
    """Adds 'all_gather' before products of a program and 'all_reduce' after, and tells the partition how they lie."""
    operations = []
    for operation in program.operations:
        for body in operation.bodies:
            insert(body, partition)
        if operation.name == 'scan':
            operations += _hoist(operation, partition)
        if operation.name == 'dot_general':
            summed = _gather(operation, operations, partition)
            operations.append(operation)
            if summed:
                operations.append(_reduce(operation, summed, partition))
        else:
            operations.append(operation)
    program.operations = operations


def _gather(product: Operation, operations: list[Operation], partition: Partition) -> set[str]:
    """Appends the gathering of a product's operands. Returns the axes of the mesh over which its sum is cut."""
    cuts = [list(partition.of(result)) for result in product.inputs]
    summed: set[str] = set()
    for axes in zip(*product.params['dimension_numbers'][0]):
        left, right = (cut[axis] for cut, axis in zip(cuts, axes))
        if left == right:
            summed.update(left)
        else:
            for cut, axis in zip(cuts, axes):
                cut[axis] = ()
    taken = {name for names in partition.of(product.results[0]) for name in names}
    for made, axis, source, at in ties(product):
        cut = cuts[0 if source is product.inputs[0] else 1]
        if cut[at] != partition.of(made)[axis] and taken & set(cut[at]):
            cut[at] = ()
    product.inputs = list(product.inputs)
    for index, (result, cut) in enumerate(zip(product.inputs, cuts)):
        if cut != partition.of(result):
            gather = Operation('all_gather', [result], {}, where=product.where)
            product.inputs[index] = _made(gather, result, cut, partition)
            operations.append(gather)
    return summed


def _reduce(product: Operation, summed: set[str], partition: Partition) -> Operation:
    total = product.results[0]
    cut = [() if summed & set(names) else names for names in partition.of(total)]
    total.operation = Operation('all_reduce', [_made(product, total, cut, partition)], {}, where=product.where)
    total.operation.results = [total]
    return total.operation


def _made(operation: Operation, like: Result, cut: list[Axes], partition: Partition) -> Result:
    result = Result(operation, like.shape, like.dtype)
    partition.of(result)[:] = cut
    operation.results = [result]
    return result


def _hoist(loop: Operation, partition: Partition) -> list[Operation]:
    """Takes the gathering of what is the same in every turn out of a loop. Returns what is to be done before it."""
    body, outside, before = loop.bodies[0], {}, []
    outside.update((id(inner), outer) for inner, outer in zip(body.inputs[: loop.params['num_consts']], loop.inputs))

    def same(result):
        operation = result.operation
        if id(result) in outside or operation.name == 'constant':
            return True
        return bool(operation.inputs) and not operation.bodies and all(map(same, operation.inputs))

    def copy(result):
        if id(result) not in outside and result.operation.name != 'constant':
            old = result.operation
            new = Operation(old.name, [copy(x) for x in old.inputs], old.params, where=old.where)
            new.results = [Result(new, x.shape, x.dtype, x.local) for x in old.results]
            for inner, outer in zip(old.results, new.results):
                partition.of(outer)[:] = partition.of(inner)
                outside[id(inner)] = outer
            before.append(new)
        return outside.get(id(result), result)

    for gather in [operation for operation in body.operations if operation.name == 'all_gather']:
        result = gather.results[0]
        if same(result):
            first = loop.params['num_consts']
            loop.inputs = [*loop.inputs[:first], copy(result), *loop.inputs[first:]]
            body.inputs = [*body.inputs[:first], result, *body.inputs[first:]]
            loop.params = loop.params | {'num_consts': first + 1}
            result.operation = Operation('input', [], {}, results=[result])
    body.operations = needed(body.operations, body.outputs)
    return before
