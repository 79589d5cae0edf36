"""Teach a small model to read handwritten digits as tokens beside text, and ask it about digits it has not seen.

    python -m experiments.images [--out runs/images] [--seeds 3]

A transformer of bytes learns, from images cut into patches and words in one sequence, to name a digit and to compare
and add two. It is held against linear probes of the pixels; ablations take away the second dimension of positions, the
mask in which patches see each other, and the patches themselves.
"""

import dataclasses
import pathlib
from dataclasses import dataclass

from llm.command_line import check_least, parse, script
from llm.sweep.options import SweepOptions

PROGRAM = 'python -m experiments.images'


@dataclass(frozen=True)
class Args(SweepOptions):
    out: pathlib.Path = pathlib.Path('runs/images')  # folder for runs and report; what is done in it is not done again
    seeds: int = 3  # repetitions of every run
    quick: bool = False  # few steps and one ablation, to see that it works
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
    from experiments.images import measure, report
    from experiments.images import plan as plans
    from llm.data import tasks_digits
    from llm.sweep import registry
    from llm.sweep.experiment import run_sweep

    tasks_digits.digits()  # what is missing is said before anything is trained
    plan = dataclasses.replace(plans.QUICK if args.quick else plans.Plan(), seeds=args.seeds)
    if args.report:
        runs = registry.open_sweep(args.out / 'sweep')
    else:
        runs = run_sweep(args.out / 'sweep', plans.runs(plan), args)
    results = measure.measure(args.out, runs, plan)
    page = report.write(args.out, results)
    print(report.text(results))
    print(page)


if __name__ == '__main__':
    script(main)
