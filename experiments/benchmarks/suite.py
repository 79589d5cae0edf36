"""How fast is this machine, how near do we come to it, and what makes a step cost more?

    python experiments/benchmarks/suite.py --out runs/benchmarks [--quick]
    python experiments/benchmarks/suite.py --report runs/benchmarks     # only draw the page again, from its JSON files

First what the hardware can do: matrix products for the peak, large streams for the bandwidth. Everything after is set
against these two numbers. Then one base model, and one thing changed at a time: width, depth, length, batch, devices.
Then attention by itself, reading and writing text, and compiling.

The measuring needs jax, flax and optax only; where matplotlib or jinja2 is missing, the JSON and Markdown files are
written, and --report draws the page elsewhere.
"""

import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # a bare machine has the checkout, not the package

from llm.benchmark import options as ask
from llm.benchmark.command_line import prepare_host, show_progress
from llm.errors import MachineError, UserError

# One base per kind of device; what is changed from it is a list per axis. Quick takes the ends of each list.
CPU = {
    'base': {'presets': ('cpu-4x128',)},
    'matmul': ask.Matmul(sizes=(256, 512, 1024, 2048), shapes=('2048x128x512', '2048x384x1536')),
    'axes': {
        'width': (64, 128, 256),
        'layers': (1, 2, 4),
        'length': (64, 128, 256),
        'batch': (4, 16, 32),
    },
    'models': ask.Train(presets=('cpu-4x128', 'cpu-6x384'), masking=('on', 'off')),
    'attention': ask.Attention(batch=(8,), heads=(4,), length=(128, 512), head_dim=(32,)),
    'decode': ask.Decode(presets=('cpu-6x384',), batch=(1, 16), context=(128,)),
    'compile': ask.Compile(presets=('cpu-4x128',), layers=(2, 8)),
    'repeats': 5,
}
ACCELERATOR = {
    'base': {'presets': ('gpt2-124m',)},
    'matmul': ask.Matmul(shapes=('32768x768x3072', '16384x2048x8192')),
    'axes': {
        'width': (512, 768, 1024, 1536, 2048),
        'layers': (6, 12, 24, 48),
        'length': (512, 1024, 2048, 4096),
        'batch': (4, 8, 16, 32),
    },
    'models': ask.Train(presets=('gpt2-124m', 'gpt-1.3b'), length=(1024, 2048), masking=('on', 'off')),
    'attention': ask.Attention(batch=(8,), heads=(16,), length=(1024, 2048, 4096), head_dim=(64, 128)),
    'decode': ask.Decode(presets=('gpt2-124m', 'gpt-1.3b'), batch=(1, 8, 32), context=(512,)),
    'compile': ask.Compile(presets=('gpt2-124m',), layers=(6, 12, 24)),
    'repeats': 20,
}


def questions(plan: dict, quick: bool, devices: int) -> dict[str, tuple[str, object]]:
    """What is measured, in order: name → (kind, options)."""
    import dataclasses

    ends = lambda values: values[:: max(1, len(values) - 1)] if quick and isinstance(values, tuple) else values
    brief = lambda options: dataclasses.replace(
        options,
        repeats=3 if quick else plan['repeats'],
        **{
            n: ends(getattr(options, n)) for n in ('sizes', 'width', 'length', 'batch', 'layers') if hasattr(options, n)
        },
    )
    asked = {'matmul': ('matmul', brief(plan['matmul']))}
    axes = plan['axes'] | {'devices': tuple(2**i for i in range(devices.bit_length()) if 2**i <= devices)}
    for axis, values in axes.items():
        if len(values) > 1:
            # The compiler's own count is taken along one axis; elsewhere it would only cost compile time.
            options = ask.Train(**plan['base'], **{axis: values}, compiled_cost=axis == 'width')
            asked[f'train-{axis}'] = ('train', brief(options))
    for name in ('models', 'attention', 'decode', 'compile'):
        options = dataclasses.replace(plan[name], **({'compiled_cost': plan is not CPU} if name == 'models' else {}))
        asked['train-models' if name == 'models' else name] = (type(options).__name__.lower(), brief(options))
    return asked


def measure(out: pathlib.Path, quick: bool) -> None:
    """Answers every question, and writes each answer down before the next one."""
    prepare_host()
    import jax

    from llm.benchmark import runner, tables

    plan = CPU if jax.default_backend() == 'cpu' else ACCELERATOR
    hardware, steps = None, {}  # the base model lies on every axis, and is measured once
    for name, (kind, options) in questions(plan, quick, jax.device_count()).items():
        start = time.perf_counter()
        with show_progress(True) as show:
            result = runner.run(kind, options, show, hardware, steps if kind == 'train' else None)
        hardware = hardware or result.hardware
        if kind == 'train':
            steps |= {case.name: case for case in result.cases if case.seconds}
        result.save(out, name)
        tables.save(result, out, name)
        print(f'{name}: {len(result.cases)} cases in {time.perf_counter() - start:.0f} s', file=sys.stderr)


def report(out: pathlib.Path) -> pathlib.Path | None:
    """Draws the page from the JSON files of a folder."""
    from llm.benchmark.report import write_report
    from llm.benchmark.result import Result

    results = {path.stem: Result.load(path) for path in sorted(out.glob('*.json'), key=lambda p: p.stat().st_mtime)}
    if 'matmul' not in results:
        raise UserError(
            f'{out} has no matmul.json, the limits that everything is set against; measure with --out {out}'
        )
    try:
        return write_report(results, out / 'report.html')
    except ImportError as error:
        print(f'no report: {error.name} is not installed; --report {out} draws it elsewhere', file=sys.stderr)
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument('--out', type=pathlib.Path, metavar='DIR', help='folder for the results and the report')
    where.add_argument('--report', type=pathlib.Path, metavar='DIR', help='only draw the report of this folder again')
    parser.add_argument('--quick', action='store_true', help='few points and repeats, to see that everything works')
    arguments = parser.parse_args()
    try:
        if arguments.out:
            measure(arguments.out, arguments.quick)
        page = report(arguments.out or arguments.report)
        if page:
            print(page)
    except (UserError, MachineError) as error:
        print('error:', *str(error).split(), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == '__main__':
    main()
