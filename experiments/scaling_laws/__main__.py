"""Plan runs for a budget, train them, fit scaling laws, predict a larger run, train that too, and state the error."""

import dataclasses
import pathlib
from dataclasses import dataclass
from typing import Literal

from llm.command_line import parse, script
from llm.errors import UserError
from llm.sweep.options import SweepOptions

PROGRAM = 'python -m experiments.scaling_laws'


@dataclass(frozen=True)
class Args(SweepOptions):
    launcher: Literal['here', 'local', 'slurm', 'ray'] = 'local'  # this process, processes here (best), or a cluster
    out: pathlib.Path = pathlib.Path('runs/scaling_laws')  # folder for runs and report
    csv: pathlib.Path | None = None  # train nothing: fit the runs of a table with N, D, loss or N, C, loss
    sweep: pathlib.Path | None = None  # train nothing: fit the runs of a sweep's folder
    report: bool = False  # train nothing: write the report of `out` again, from the runs that are there
    scale: float = 1.0  # of all budgets; 0.5 to see in minutes that it works
    resamples: int = 1000  # of the bootstraps
    dry_run: bool = False  # print the runs and what they would cost, and stop


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    if sum(map(bool, (args.csv, args.sweep, args.report, args.dry_run))) > 1:
        raise UserError('--csv, --sweep, --report and --dry-run each say what to do; give one of them')
    for name in ('scale', 'resamples'):
        if not getattr(args, name) > 0:
            raise UserError(f'--{name} is {getattr(args, name):g}; it must be positive')
    if args.csv or args.sweep:
        from experiments.scaling_laws import stages

        stages.fit_given(args.out, args.csv, args.sweep, args.resamples)
        return
    from llm import runtime

    runtime.prepare_host()
    from experiments.scaling_laws import stages
    from experiments.scaling_laws.plan import Plan

    plan = Plan()
    plan = dataclasses.replace(plan, budgets=tuple(args.scale * budget for budget in plan.budgets))
    if args.dry_run:
        print(stages.forecast(plan))
    elif args.report:
        stages.report(args.out, args.resamples)
    else:
        stages.run(args.out, plan, args.resamples, args)


if __name__ == '__main__':
    script(main)
