"""A traced program as one flat graph: calls opened up, dead and repeated operations left out, as a compiler would.

`jax.make_jaxpr` gives nested calls (`jit`, `checkpoint`, custom derivatives). Here they are one list of operations;
only loops and branches keep programs of their own. Some are not of jax's primitives:

    index_in_dim, stack            of a loop that is unrolled as a whole, and so no loop: what a turn reads and makes
    full_to_shard, shard_to_full   of `shard_map` (over all axes of a mesh): an array as the part of it that one device
                                   has, whose shape the arrays in between are given in (`Result.local`), and back
"""

import dataclasses
import math
from typing import Any

import jax.extend.core as jex

# Primitives that only call another program.
_CALLS = {'jit', 'closed_call', 'checkpoint', 'remat2', 'custom_jvp_call', 'custom_vjp_call'}
# Primitives that run programs of their own, once or many times: which parameters hold them.
_BODIES = {'scan': ('jaxpr',), 'while': ('body_jaxpr',), 'cond': ('branches',)}


@dataclasses.dataclass(eq=False)
class Operation:
    """One operation; also, with no inputs, an 'input' of the program or a 'constant'.

    Attributes:
        name: of the jax primitive.
        inputs: what it reads.
        params: of the primitive.
        bodies: the programs that a loop or a branch runs.
        where: functions and modules it was traced in, outermost first, with slashes.
        results: what it makes.
    """

    name: str
    inputs: list['Result']
    params: dict[str, Any]
    bodies: list['Program'] = dataclasses.field(default_factory=list)
    where: str = ''
    results: list['Result'] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Result:
    """One array that an operation makes; `local`: its shape is that of one device's part."""

    operation: Operation
    shape: tuple[int, ...]
    dtype: Any
    local: bool = False

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * getattr(self.dtype, 'itemsize', 8)  # a random key's dtype has none


@dataclasses.dataclass(eq=False)
class Program:
    """Operations in the order they were traced."""

    inputs: list[Result]
    operations: list[Operation]
    outputs: list[Result]

    def used_inputs(self) -> list[bool]:
        """Which inputs are read or returned; `jax.jit` leaves the others out of the compiled program."""
        used = {id(result) for operation in self.operations for result in operation.inputs}
        used |= {id(result) for result in self.outputs}
        return [id(result) in used for result in self.inputs]


def from_jaxpr(closed: Any, local: bool = False) -> Program:
    """Flattens what `jax.make_jaxpr` returns; `local`: its shapes are those of one device's parts."""
    jaxpr = getattr(closed, 'jaxpr', closed)
    inputs = _results(Operation('input', [], {}), [variable.aval for variable in jaxpr.invars], local)
    trace = _Trace()
    outputs = trace.inline(jaxpr, inputs, '', local)
    return Program(inputs, needed(trace.operations, outputs), outputs)


def needed(operations: list[Operation], outputs: list[Result]) -> list[Operation]:
    """The operations that lead to outputs."""
    wanted = {id(result.operation) for result in outputs}
    kept = []
    for operation in reversed(operations):
        if id(operation) in wanted:
            kept.append(operation)
            wanted.update(id(result.operation) for result in operation.inputs)
    return kept[::-1]


def _results(operation: Operation, avals: list[Any], local: bool) -> list[Result]:
    operation.results = [Result(operation, tuple(aval.shape), aval.dtype, local) for aval in avals]
    return operation.results


def _called(params: dict[str, Any]) -> Any:
    called = params['jaxpr'] if 'jaxpr' in params else params['call_jaxpr']
    return getattr(called, 'jaxpr', called)


class _Trace:
    """The operations of a jaxpr as they are met."""

    def __init__(self):
        self.operations: list[Operation] = []
        self._seen: dict[tuple, list[Result]] = {}

    def inline(self, jaxpr: Any, inputs: list[Result], where: str, local: bool) -> list[Result]:
        """Appends a jaxpr's operations, with its calls opened up. Returns its outputs."""
        constant = lambda atom: _results(Operation('constant', [], {}), [atom.aval], local)[0]
        environment = dict(zip(jaxpr.invars, inputs))
        environment |= {variable: constant(variable) for variable in jaxpr.constvars}

        def read(atom):
            return constant(atom) if isinstance(atom, jex.Literal) else environment[atom]

        for equation in jaxpr.eqns:
            name, params = equation.primitive.name, equation.params
            arguments = [read(atom) for atom in equation.invars]
            made = [variable.aval for variable in equation.outvars]
            inside = f'{where}/{equation.source_info.name_stack}'.strip('/')
            if name in _CALLS:
                results = self.inline(_called(params), arguments, inside, local)
            elif name == 'scan' and params['unroll'] >= params['length']:
                results = self._unrolled(params, arguments, made, inside, local)
            elif name == 'shard_map':
                results = self._on_each_device(params, arguments, made, inside)
            else:
                names = [
                    f'{atom}:{atom.aval.shape}' if isinstance(atom, jex.Literal) else id(argument)
                    for atom, argument in zip(equation.invars, arguments)
                ]
                key = (*names, id(params) if name in _BODIES else str(params))
                results = self._append(name, arguments, params, made, inside, local, key)
            environment.update(zip(equation.outvars, results))
        return [read(atom) for atom in jaxpr.outvars]

    def _unrolled(
        self, params: dict, arguments: list[Result], made: list[Any], where: str, local: bool
    ) -> list[Result]:
        jaxpr, first, carried = _called(params), params['num_consts'], params['num_carry']
        constants, carry = arguments[:first], arguments[first : first + carried]
        stacks, turns = arguments[first + carried :], range(params['length'])
        parts = {}
        for turn in reversed(turns) if params['reverse'] else turns:
            variables = jaxpr.invars[first + carried :]
            slices = [self._part(s, turn, v.aval, where, local) for s, v in zip(stacks, variables)]
            results = self.inline(jaxpr, constants + carry + slices, where, local)
            carry, parts[turn] = results[:carried], results[carried:]
        stacked = zip(*(parts[turn] for turn in turns))
        return carry + [self._own('stack', list(p), {}, a, where, local) for p, a in zip(stacked, made[carried:])]

    def _part(self, stack: Result, turn: int, aval: Any, where: str, local: bool) -> Result:
        """What a turn reads of a stacked array; of one that was made by turns, what that turn made."""
        if stack.operation.name == 'stack':
            return stack.operation.inputs[turn]
        return self._own('index_in_dim', [stack], {'index': turn}, aval, where, local)

    def _append(
        self, name: str, values: list[Result], params: dict, avals: list[Any], where: str, local: bool, key: tuple
    ) -> list[Result]:
        key = (name, local, *key)
        if key not in self._seen:  # what is computed twice, a compiler computes once
            operation = Operation(name, values, params, where=where)
            for parameter in _BODIES.get(name, ()):
                held = params[parameter]
                operation.bodies += [from_jaxpr(x, local) for x in (held if isinstance(held, tuple) else (held,))]
            self.operations.append(operation)
            self._seen[key] = _results(operation, avals, local)
        return self._seen[key]

    def _own(self, name: str, values: list[Result], params: dict, aval: Any, where: str, local: bool) -> Result:
        """An operation that is not jax's."""
        return self._append(name, values, params, [aval], where, local, (*map(id, values), str(params)))[0]

    def _on_each_device(self, params: dict, arguments: list[Result], made: list[Any], where: str) -> list[Result]:
        jaxpr = _called(params)
        parts = [
            self._own('full_to_shard', [value], {'spec': spec}, variable.aval, where, True)
            for value, spec, variable in zip(arguments, params['in_specs'], jaxpr.invars)
        ]
        results = self.inline(jaxpr, parts, where, True)
        return [
            self._own('shard_to_full', [value], {'spec': spec}, aval, where, False)
            for value, spec, aval in zip(results, params['out_specs'], made)
        ]
