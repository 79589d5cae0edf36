"""Train models of several widths at several learning rates, in the standard parametrisation and in μP, and compare."""

import dataclasses
import pathlib
from dataclasses import dataclass

from llm.command_line import check_least, parse, script
from llm.sweep.options import SweepOptions

PROGRAM = 'python -m experiments.mup'


@dataclass(frozen=True)
class Args(SweepOptions):
    out: pathlib.Path = pathlib.Path('runs/mup')  # folder for runs and report; what is done in it is not done again
    seeds: int = 1  # repetitions of every run
    quick: bool = False  # tiny models and few steps, to see that it works
    report: bool = False  # train nothing: write the report of `out` again, from the runs that are there


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    check_least(args, 1, 'seeds')
    from llm import runtime

    runtime.prepare_host()
    from experiments.mup import plan as plans
    from experiments.mup import report
    from llm.sweep.experiment import run_sweep

    plan = dataclasses.replace(plans.QUICK if args.quick else plans.Plan(), seeds=args.seeds)
    if not args.report:
        run_sweep(args.out / 'sweep', plans.runs(plan), args)
    page, findings = report.write(args.out, plan)
    for one in findings:
        print(one.sentence())
    print(page)


if __name__ == '__main__':
    script(main)
