"""The hardware's limits, measured here and now: matrix products for the peak, large copies for the bandwidth."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from llm.analysis import hardware as data_sheets
from llm.benchmark import program
from llm.benchmark.measure import measure, summary
from llm.benchmark.result import Case
from llm.config import ModelConfig
from llm.model.dtypes import activation_dtype
from llm.model.linear import matmul

IMPLEMENTATIONS = ('jnp.matmul', 'llm.model.linear.matmul')
STREAMS = {'scale': 2, 'triad': 3}  # arrays read and written: a = s a, and a = a + s b


def default_sizes() -> tuple[int, ...]:
    """Sides of the squares that find the peak: large enough to hide everything else, small enough to be quick."""
    return (1024, 2048) if jax.default_backend() == 'cpu' else (4096, 8192)


def default_megabytes() -> tuple[int, ...]:
    """Far beyond any cache."""
    return (256,) if jax.default_backend() == 'cpu' else (2048,)


def product_case(
    implementation: str, dtype: str, shape: tuple[int, int, int], *, repeats: int, warmup: int, seed: int = 0
) -> Case:
    """(rows x inner) @ (inner x outer), one product, with random normal operands.

    Args:
        implementation: 'jnp.matmul', with operands and result of `dtype` (on a CPU the result is float32), or
            'llm.model.linear.matmul', as the model calls it: activations of its own type, parameters in `dtype`.
        dtype: of the operands.
        shape: rows, inner, outer.
        repeats, warmup, seed: see `measure`.
    """
    rows, inner, outer = shape
    model = ModelConfig(compute_dtype=dtype)
    if implementation == 'jnp.matmul':
        result = activation_dtype(model)
        left = jnp.dtype(dtype)
        function = lambda x, y: jnp.matmul(x, y, preferred_element_type=result)
    else:
        left = activation_dtype(model)
        function = lambda x, y: matmul(x, y, model)

    @jax.jit
    def operands(key):
        a, b = jax.random.split(key)
        return (
            jax.random.normal(a, (rows, inner), jnp.float32).astype(left),
            jax.random.normal(b, (inner, outer), jnp.float32).astype(dtype),
        )

    key = jax.random.key(seed)
    inputs = lambda i: operands(jax.random.fold_in(key, i))
    built = program.build(jax.jit(function), *jax.eval_shape(operands, key))
    timing = measure(built.compiled, inputs, repeats=repeats, warmup=warmup)
    cost = program.cost(built.compiled)
    itemsize = jnp.dtype(dtype).itemsize
    moved = rows * inner * jnp.dtype(left).itemsize + inner * outer * itemsize + rows * outer * _itemsize(model)
    return Case(
        kind='matmul',
        name=f'{rows}x{inner} @ {inner}x{outer} {dtype}',
        shape={'rows': rows, 'inner': inner, 'outer': outer},
        dtype=dtype,
        backend=implementation,
        kernel=implementation,
        flops={'matmul': 2.0 * rows * inner * outer, 'compiled': cost['flops']},
        bytes={'minimum': float(moved), 'compiled': cost['bytes']},
        memory=program.memory(built.compiled),
        compile_seconds=built.seconds,
    ).timed(timing)


def stream_case(operation: str, megabytes: int, *, repeats: int, warmup: int, seed: int = 0) -> Case:
    """A large scale or triad in float32 (McCalpin 1995, STREAM), in place, so that no new page has to be found.

    Args:
        operation: one of STREAMS.
        megabytes: of each array.
        repeats, warmup, seed: see `measure`.
    """
    count = megabytes * 10**6 // 4
    factor = 0.999

    def stream(a, *others):
        return (a * factor if operation == 'scale' else a + factor * others[0]), ()

    fill = jax.jit(lambda key: jax.random.uniform(key, (count,)))
    key = jax.random.key(seed)
    start = fill(key)
    others = (fill(jax.random.fold_in(key, 1)),) if operation == 'triad' else ()
    built = program.build(jax.jit(stream, donate_argnums=0), start, *others)
    timing = measure(built.compiled, lambda i: others, repeats=repeats, warmup=warmup, carry=start)
    return Case(
        kind='matmul',
        name=f'{operation} of {megabytes} MB float32',
        shape={'megabytes': megabytes},
        dtype='float32',
        backend=operation,
        kernel=operation,
        bytes={'minimum': 4.0 * count * STREAMS[operation]},
        memory=program.memory(built.compiled),
        compile_seconds=built.seconds,
        notes=('scale and triad run in place; every call reads what the one before wrote',),
    ).timed(timing)


def measured_limits(cases: Sequence[Case]) -> dict[str, Any]:
    """The best medians: FLOP/s by type of the operands, and bytes per second; with which case each was."""
    products, best, bandwidth = {}, {}, None
    for case in cases:
        median = summary(case.seconds)['median']
        if 'matmul' in case.flops:
            rate = case.flops['matmul'] / median
            if rate > products.get(case.dtype, 0):
                products[case.dtype] = rate
                best[case.dtype] = f'{case.name}, {case.kernel}'
        else:
            rate = case.bytes['minimum'] / median
            if rate > (bandwidth or 0):
                bandwidth, best['bytes'] = rate, case.name
    return {'flops_per_second': products, 'bytes_per_second': bandwidth, 'best': best}


def hardware(cases: Sequence[Case]) -> dict[str, Any]:
    """The data sheet's limits of one device, and those measured by these cases."""
    device = jax.devices()[0]
    kind = device.device_kind
    sheet = data_sheets.data_sheet(kind)
    datasheet = {
        'flops_per_second': {d: p for d in ('bfloat16', 'float16') if (p := data_sheets.peak_flops(kind, d))},
        'bytes_per_second': data_sheets.memory_bandwidth(kind),
    }
    note = '' if sheet else f'{kind} is not in the table of data sheets: peak and bandwidth are measured ones only'
    return {
        'device_kind': kind,
        'platform': device.platform,
        'datasheet': datasheet,
        'measured': measured_limits(cases),
        'note': note,
    }


def quick_limits(dtypes: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """`hardware`, from the few cases that find the peak: what every benchmark measures before its own cases."""
    cases = []
    for dtype in dict.fromkeys(dtypes):
        for size in default_sizes():
            names = IMPLEMENTATIONS if jax.default_backend() == 'cpu' else IMPLEMENTATIONS[:1]
            for name in names:
                cases.append(product_case(name, dtype, (size, size, size), repeats=7, warmup=2, seed=seed))
    for operation in STREAMS:
        cases.append(stream_case(operation, default_megabytes()[0], repeats=7, warmup=2, seed=seed))
    return hardware(cases)


def _itemsize(model: ModelConfig) -> int:
    return jnp.dtype(activation_dtype(model)).itemsize
