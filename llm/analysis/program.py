"""A traced program as one flat graph: calls opened up, dead and repeated operations left out, as a compiler would.

`jax.make_jaxpr` gives nested calls (`jit`, `checkpoint`, custom derivatives). Here they are one list of operations;
only loops and branches keep programs of their own.
"""

import dataclasses
import math
from typing import Any

import jax.extend.core as jex

# Primitives that only call another program.
_CALLS = {'jit', 'closed_call', 'checkpoint', 'remat2', 'custom_jvp_call', 'custom_vjp_call'}
# Primitives that run programs of their own, once or many times: which parameters hold them.
_BODIES = {'scan': ('jaxpr',), 'while': ('body_jaxpr',), 'cond': ('branches',), 'shard_map': ('jaxpr',)}


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
    """One array that an operation makes."""

    operation: Operation
    shape: tuple[int, ...]
    dtype: Any

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


def from_jaxpr(closed: Any) -> Program:
    """Flattens what `jax.make_jaxpr` returns."""
    jaxpr = getattr(closed, 'jaxpr', closed)
    inputs = [_source('input', variable.aval) for variable in jaxpr.invars]
    operations: list[Operation] = []
    outputs = _inline(jaxpr, inputs, operations, {}, '')
    needed = {id(result.operation) for result in outputs}
    kept = []
    for operation in reversed(operations):
        if id(operation) in needed:
            kept.append(operation)
            needed.update(id(result.operation) for result in operation.inputs)
    return Program(inputs, kept[::-1], outputs)


def _source(name: str, aval: Any) -> Result:
    return _results(Operation(name, [], {}), [aval])[0]


def _results(operation: Operation, avals: list[Any]) -> list[Result]:
    operation.results = [Result(operation, tuple(aval.shape), aval.dtype) for aval in avals]
    return operation.results


def _called(params: dict[str, Any]) -> Any:
    called = params['jaxpr'] if 'jaxpr' in params else params['call_jaxpr']
    return getattr(called, 'jaxpr', called)


def _inline(jaxpr: Any, inputs: list[Result], operations: list[Operation], seen: dict, where: str) -> list[Result]:
    """Appends a jaxpr's operations, with its calls opened up. Returns its outputs."""
    environment = dict(zip(jaxpr.invars, inputs))
    environment |= {variable: _source('constant', variable.aval) for variable in jaxpr.constvars}

    def read(atom):
        return _source('constant', atom.aval) if isinstance(atom, jex.Literal) else environment[atom]

    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        arguments = [read(atom) for atom in equation.invars]
        inside = f'{where}/{equation.source_info.name_stack}'.strip('/')
        if name in _CALLS:
            results = _inline(_called(params), arguments, operations, seen, inside)
        else:
            names = [
                f'{atom}:{atom.aval.shape}' if isinstance(atom, jex.Literal) else id(argument)
                for atom, argument in zip(equation.invars, arguments)
            ]
            key = (name, *names, id(params) if name in _BODIES else str(params))
            if key not in seen:  # what is computed twice, a compiler computes once
                operation = Operation(name, arguments, params, where=inside)
                for parameter in _BODIES.get(name, ()):
                    held = params[parameter]
                    operation.bodies += map(from_jaxpr, held if isinstance(held, tuple) else (held,))
                operations.append(operation)
                seen[key] = _results(operation, [variable.aval for variable in equation.outvars])
            results = seen[key]
        environment.update(zip(equation.outvars, results))
    return [read(atom) for atom in jaxpr.outvars]
