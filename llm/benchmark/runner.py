"""One run of one kind of benchmark: the hardware's limits first, then case by case."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from llm.benchmark import limits
from llm.benchmark.result import Case, Result, derive, environment
from llm.errors import first_line

MODULES = {
    'train': 'train_step',
    'attention': 'attention',
    'matmul': 'matmul',
    'decode': 'decode',
    'data': 'data',
    'compile': 'compile_time',
}
Show = Callable[[int, int, str], None]


def run(
    kind: str,
    options: Any,
    show: Show = lambda done, total, what: None,
    hardware: dict[str, Any] | None = None,
    known: Mapping[str, Case] | None = None,
) -> Result:
    """Measures every case of the options.

    Args:
        kind: a key of MODULES.
        options: of that kind, see `llm.benchmark.options`.
        show: told (cases done, cases, what comes next).
        hardware: its limits, if they were measured a moment ago; None measures them.
        known: cases by name that were measured a moment ago, to be taken over.

    Raises:
        UserError: if the options ask for something that does not exist here.
    """
    module = importlib.import_module(f'llm.benchmark.{MODULES[kind]}')
    planned = module.plan(options)  # (name, function that returns cases); what is refused is refused now
    show(0, len(planned), "the hardware's limits")
    if hardware is None and kind != 'matmul':
        hardware = limits.quick_limits(module.dtypes(options), options.seed)
    cases: list[Case] = []
    for done, (name, measure_case) in enumerate(planned):
        show(done, len(planned), name)
        if known and name in known:
            cases.append(known[name])
            continue
        try:
            cases += measure_case()
        except jax.errors.JaxRuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error):
                raise
            cases.append(Case(kind=kind, name=name, shape={}, unavailable=f'out of memory: {first_line(error)}'))
    show(len(planned), len(planned), 'done')
    if hardware is None:
        hardware = limits.hardware(cases)
    plain = {n: v for n, v in dataclasses.asdict(options).items() if n not in ('out', 'progress')}
    return Result(kind, plain, environment(), hardware, tuple(derive(case, hardware) for case in cases))
