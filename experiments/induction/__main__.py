"""Watch induction heads appear: attention-only models of one and two layers on sequences that repeat themselves."""

import dataclasses
import pathlib
from dataclasses import dataclass

from llm.command_line import check_least, parse, script
from llm.sweep.options import SweepOptions

PROGRAM = 'python -m experiments.induction'


@dataclass(frozen=True)
class Args(SweepOptions):
    out: pathlib.Path = pathlib.Path('runs/induction')  # folder for runs and report; what is done is not done again
    seeds: int = 3  # repetitions of every run
    quick: bool = False  # tiny models and few steps, to see that it works
    report: bool = False  # train nothing: measure the runs of `out` again, and write their report


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    check_least(args, 1, 'seeds')
    from llm import runtime

    runtime.prepare_host()
    from experiments.induction import plan as plans
    from experiments.induction import report, sequences
    from llm.sweep.experiment import run_sweep

    plan = dataclasses.replace(plans.QUICK if args.quick else plans.Plan(), seeds=args.seeds)
    if not args.report:
        data = args.out.absolute() / 'data'
        sequences.write_corpora(data, plan.documents)
        run_sweep(args.out / 'sweep', plans.runs(plan, data), args)
    findings = report.measure(args.out, plan)
    page = report.write(args.out, plan, findings)
    print(report.table(findings))
    for sentence in report.sentences(findings):
        print(sentence)
    print(page)


if __name__ == '__main__':
    script(main)
