"""`benchmark matmul`: squares, other shapes, streams. The best are the measured peak and bandwidth."""

import functools
from collections.abc import Callable

import jax

from llm.benchmark import limits
from llm.benchmark.options import Matmul
from llm.benchmark.result import Case
from llm.errors import UserError


def dtypes(options: Matmul) -> tuple[str, ...]:
    return options.dtypes or ('float32', 'bfloat16')


def plan(options: Matmul) -> list[tuple[str, Callable[[], list[Case]]]]:
    """Every size and shape in every type by both implementations, and every stream."""
    default = (256, 512, 1024, 2048) if jax.default_backend() == 'cpu' else (1024, 2048, 4096, 8192, 16384)
    sizes = options.sizes or (() if options.shapes else default)
    shapes = [(size, size, size) for size in sizes] + [_shape(text) for text in options.shapes]
    settings = {'repeats': options.repeats, 'warmup': options.warmup, 'seed': options.seed}
    planned = []
    for dtype in dtypes(options):
        for shape in shapes:
            for name in limits.IMPLEMENTATIONS:
                case = functools.partial(limits.product_case, name, dtype, shape, **settings)
                planned.append((f'{name} {"x".join(map(str, shape))} {dtype}', lambda case=case: [case()]))
    for megabytes in options.megabytes or limits.default_megabytes():
        for operation in limits.STREAMS:
            case = functools.partial(limits.stream_case, operation, megabytes, **settings)
            planned.append((f'{operation} {megabytes} MB', lambda case=case: [case()]))
    return planned


def _shape(text: str) -> tuple[int, int, int]:
    parts = text.lower().split('x')
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UserError(f'--shapes has {text!r}; write ROWSxINNERxOUTER, such as 2048x768x3072')
    rows, inner, outer = map(int, parts)
    return rows, inner, outer
