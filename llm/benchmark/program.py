"""What the compiler says of a program: its operations, its bytes, its memory, and how long it took to make."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.extend import core


class Built(NamedTuple):
    """A compiled program and the seconds that each stage of making it took."""

    compiled: Any
    seconds: dict[str, float]


def build(function: Any, *args: Any, **kwargs: Any) -> Built:
    """Traces, lowers and compiles a jitted function for these arguments (arrays or shapes), timing each stage."""
    start = time.perf_counter()
    traced = function.trace(*args, **kwargs) if hasattr(function, 'trace') else None
    after_trace = time.perf_counter()
    lowered = function.lower(*args, **kwargs) if traced is None else traced.lower()
    after_lower = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    seconds = {'trace': after_trace - start, 'lower': after_lower - after_trace, 'compile': end - after_lower}
    return Built(compiled, seconds | {'total': end - start})


def cost(compiled: Any) -> dict[str, float | None]:
    """The compiled program's own `flops` and `bytes` by XLA's cost analysis; None where it does not say.

    XLA counts the body of a loop once, whatever its number of rounds, and kernels that are calls into a library (cuDNN,
    Pallas) not at all. It adds up what each fused operation reads and writes, as if no cache held anything.
    """
    analysis = compiled.cost_analysis() or {}
    if isinstance(analysis, list):
        analysis = analysis[0] if analysis else {}
    positive = lambda value: float(value) if value is not None and value > 0 else None
    return {'flops': positive(analysis.get('flops')), 'bytes': positive(analysis.get('bytes accessed'))}


def memory(compiled: Any) -> dict[str, int]:
    """Bytes on one device, by the compiled program: arguments, outputs, temporaries; what is donated counts once."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return {}
    names = ('argument', 'output', 'alias', 'temp', 'generated_code')
    sizes = {name: int(getattr(analysis, f'{name}_size_in_bytes')) for name in names}
    return sizes | {'total': sizes['argument'] + sizes['output'] - sizes['alias'] + sizes['temp']}


def unrolled(function: Callable) -> Callable:
    """The same function without loops of a known length, so that cost analysis sees every round of them."""

    def call(*args):
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = core.jaxpr_as_fun(core.ClosedJaxpr(_unroll(traced.jaxpr), traced.consts))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return call


def _unroll(jaxpr: core.Jaxpr) -> core.Jaxpr:
    def inside(value):
        if isinstance(value, core.ClosedJaxpr):
            return core.ClosedJaxpr(_unroll(value.jaxpr), value.consts)
        if isinstance(value, core.Jaxpr):
            return _unroll(value)
        return tuple(map(inside, value)) if type(value) is tuple else value

    def step(equation):
        params = {name: inside(value) for name, value in equation.params.items()}
        if equation.primitive.name == 'scan':
            params['unroll'] = max(params['length'], 1)
        return equation.replace(params=params)

    return jaxpr.replace(eqns=[step(equation) for equation in jaxpr.eqns])
