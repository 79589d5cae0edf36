"""Train models of several sizes, or take trained ones, and measure what weights of 8 and 4 bits cost and save."""

import dataclasses
import json
import pathlib
from dataclasses import dataclass
from typing import Any

from llm.command_line import parse, script
from llm.errors import UserError
from llm.sweep.options import SweepOptions

PROGRAM = 'python -m experiments.quantization'


@dataclass(frozen=True)
class Args(SweepOptions):
    out: pathlib.Path = pathlib.Path('runs/quantization')  # folder for runs and report; what is trained is not again
    workdirs: tuple[pathlib.Path, ...] = ()  # trained models to measure instead of training some
    seeds: int = 3  # models of each size
    repeats: int = 9  # of every time that is taken
    scale: float = 1.0  # of all steps; 0.1 to see that it works
    report: bool = False  # measure nothing: draw the page of `out` again


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    for name in ('seeds', 'repeats', 'scale'):
        if not getattr(args, name) > 0:
            raise UserError(f'--{name} is {getattr(args, name):g}; it must be positive')
    from llm import runtime

    runtime.prepare_host()
    from experiments.quantization import report

    results = read(args.out) if args.report else measure(args)
    print(report.table(results))
    for sentence in report.sentences(results):
        print(sentence)
    print(report.write(args.out, results))


def read(out: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((out / 'results.json').read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'{out} has no results yet ({error}); measure some with `{PROGRAM} --out {out}`') from error


def measure(args: Args) -> dict[str, Any]:
    """Trains what is not trained yet, and measures everything."""
    from tqdm import tqdm

    from experiments.quantization import measure as measuring
    from experiments.quantization import plan
    from llm.analysis import memory
    from llm.environment import environment
    from llm.inference.quantization import GROUP
    from llm.runtime import usable_config
    from llm.sweep.experiment import run_sweep
    from llm.training.checkpoint import load_params
    from llm.workdir import Workdir

    if args.workdirs:
        names = [path.resolve().name for path in args.workdirs]
        names = names if len(set(names)) == len(names) else [str(path) for path in args.workdirs]
        groups = {name: [Workdir.open(path)] for name, path in zip(names, args.workdirs, strict=True)}
    else:
        groups = {}
        for run in run_sweep(args.out / 'models', plan.runs(args.seeds, args.scale), args):
            groups.setdefault(run.name.split(',')[0], []).append(run.workdir)
    args.out.mkdir(parents=True, exist_ok=True)
    models, bar = {}, tqdm(total=sum(map(len, groups.values())), desc='measuring', unit='model', disable=None)
    for name, workdirs in groups.items():
        config = usable_config(workdirs[0])
        costs = []
        for workdir in workdirs:
            costs.append({precision: one._asdict() for precision, one in measuring.costs(workdir).items()})
            bar.update()
        models[name] = (config.model, load_params(workdirs[0])[1], costs)
    bar.close()
    if not args.workdirs:
        chosen = config.model.compute_dtype
        for name, model in plan.RANDOM.items():
            model = dataclasses.replace(model, compute_dtype=chosen)
            models[name] = (model, measuring.random_params(model), [])
    return {
        'models': {
            name: {
                'parameters': memory.parameter_count(model),
                'compute_dtype': model.compute_dtype,
                'bytes': measuring.sizes(model, params),
                'times': measuring.times(model, params, args.repeats),
                'costs': costs,
            }
            for name, (model, params, costs) in models.items()
        },
        'facts': {
            'held-out documents': f'at most {measuring.DOCUMENTS}',
            'rows': 1,
            'tokens of the prompt': f'{measuring.PROMPT}, or what the context leaves',
            'tokens written': measuring.NEW_TOKENS,
            'times taken': args.repeats,
            'weights that share a factor in int4': GROUP,
            'computed in, beside integer weights': config.model.compute_dtype,
            'environment': environment(),
        },
    }


if __name__ == '__main__':
    script(main)
