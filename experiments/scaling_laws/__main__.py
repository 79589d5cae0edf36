"""Plan runs for a budget, train them, fit scaling laws, predict a larger run, train that too, and state the error."""

import dataclasses
import json
import os
import pathlib
import sys
import time
from dataclasses import dataclass

from llm.command_line import guarded, parse
from llm.errors import UserError
from llm.sweep.options import SweepOptions

PROGRAM = 'python -m experiments.scaling_laws'
SPEED = 25e9  # FLOP/s that small models reach on two cores of a Xeon, to say how long it will take
AROUND = 5  # seconds of a run that are not training: compiling, evaluating, saving


@dataclass(frozen=True)
class Args(SweepOptions):
    out: pathlib.Path = pathlib.Path('runs/scaling_laws')  # folder for runs and report
    csv: pathlib.Path | None = None  # train nothing: fit the runs of a table with N, D, loss or N, C, loss
    sweep: pathlib.Path | None = None  # train nothing: fit the runs of a sweep's folder
    scale: float = 1.0  # of all budgets; 0.1 to see that it works
    resamples: int = 1000  # of the bootstraps
    dry_run: bool = False  # print the runs and what they would cost, and stop


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `guarded` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    if args.csv and args.sweep:
        raise UserError('--csv and --sweep both name the runs to fit; give one of them')
    if not args.scale > 0:
        raise UserError(f'--scale is {args.scale:g}; it must be positive')
    if args.csv or args.sweep:
        from llm.analysis.scaling_laws.analysis import analyse

        args.out.mkdir(parents=True, exist_ok=True)
        finish(args, analyse(given(args), args.resamples), None, {})
        return
    from llm import runtime

    runtime.prepare_host()
    from experiments.scaling_laws.plan import Plan, configs

    plan = Plan()
    plan = dataclasses.replace(plan, budgets=tuple(args.scale * budget for budget in plan.budgets))
    if args.dry_run:
        print(forecast(plan, configs(plan)))
        return
    run(args, plan)


def given(args: Args):
    """The runs that somebody else made."""
    if args.csv:
        from llm.analysis.scaling_laws.runs import read_csv

        return read_csv(args.csv)
    from llm.sweep import registry, scaling

    return scaling.table(registry.open_sweep(args.sweep))


def run(args: Args, plan) -> None:
    """From the plan to the error of the prediction. What is done already is not done again."""
    from experiments.scaling_laws import held_out
    from experiments.scaling_laws.plan import configs
    from llm.analysis.scaling_laws.analysis import analyse
    from llm.sweep import scaling
    from llm.sweep.experiment import run_sweep

    args.out.mkdir(parents=True, exist_ok=True)
    with Clock(args.out / 'times.jsonl') as clock:
        table = scaling.table(run_sweep(args.out / 'sweep', configs(plan), args))
        analysis = analyse(table, args.resamples)
        larger = held_out.choose(plan, analysis)
        prediction = held_out.predicted(larger, analysis)
        print(f'predicted for {prediction.name}: {prediction.loss}', file=sys.stderr)
        prediction = held_out.measured(args.out, larger, prediction, args)
    finish(args, analysis, prediction, {'plan': dataclasses.asdict(plan), 'seconds': clock.all()})


def finish(args: Args, analysis, prediction, facts: dict) -> None:
    from llm.analysis.scaling_laws import page

    path = page.write(args.out, analysis, prediction, facts)
    for sentence in page.sentences(analysis, prediction):
        print(sentence)
    for warning in analysis.warnings:
        print(f'warning: {warning}', file=sys.stderr)
    print(path)


def forecast(plan, runs) -> str:
    """The plan as a table, with the held-out run's budget, FLOPs and time."""
    from llm.analysis import units
    from llm.sweep import forecast as forecasts

    predicted = forecasts.forecasts(runs, SPEED)
    last = plan.beyond * max(plan.budgets)
    total = sum(one.seconds for one in predicted) + last / SPEED + AROUND * (len(runs) + 1)
    return (
        f'{forecasts.text(predicted)}\nthen a held-out run of {units.flops(last)}, its size chosen by the fit; '
        f'about {units.duration(total)} in all at {SPEED / 1e9:g} GFLOP/s (two cores)'
    )


class Clock:
    """Seconds, of the wall and of processors (children's too), of every start of the command."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def __enter__(self) -> 'Clock':
        self._wall, self._processor = time.monotonic(), sum(os.times()[:4])
        return self

    def __exit__(self, *exception) -> None:
        spent = {'wall': time.monotonic() - self._wall, 'processor': sum(os.times()[:4]) - self._processor}
        with open(self._path, 'a', encoding='utf-8') as file:
            file.write(json.dumps(spent) + '\n')

    def all(self) -> dict[str, float]:
        """The sums."""
        rows = [json.loads(line) for line in self._path.read_text(encoding='utf-8').splitlines()]
        return {name: round(sum(row[name] for row in rows), 1) for name in ('wall', 'processor')}


if __name__ == '__main__':
    sys.exit(guarded(lambda: main([a for a in sys.argv[1:] if a != '--debug']), '--debug' in sys.argv))
