"""A bias of known size is planted in what models read; a counterfactual-pair probe has to find it, and nothing else.

    python -m experiments.bias [--out runs/bias] [--seeds 5] [--quick]
    python -m experiments.bias --report     # only draw the page again

The notebook, from top to bottom: two worlds of sentences a seed, alike but for their pronouns; a model on each; the
probe of minimal pairs on sentences that neither has seen; what it says over the seeds, and whether that is right.
"""

import dataclasses
import json
import pathlib
from dataclasses import dataclass

from llm.command_line import check_least, parse, script
from llm.errors import UserError
from llm.sweep.options import SweepOptions

PROGRAM = 'python -m experiments.bias'


@dataclass(frozen=True)
class Args(SweepOptions):
    out: pathlib.Path = pathlib.Path('runs/bias')  # folder for runs and report; what is done in it is not done again
    seeds: int | None = None  # repetitions; None is 5, or 2 with --quick
    quick: bool = False  # tiny models and few steps, to see that it works
    report: bool = False  # train nothing: draw the page of `out` again


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    check_least(args, 1, 'seeds')
    from llm import runtime

    runtime.prepare_host()
    from experiments.bias import report
    from experiments.bias.plan import QUICK, Plan

    if args.report:
        results = args.out / 'results.json'
        if not results.is_file():
            raise UserError(f'{args.out} has no results; make them with `{PROGRAM} --out {args.out}`')
        stored = json.loads(results.read_text(encoding='utf-8'))
        plan, measured = Plan(**stored['plan']), stored['measured']
    else:
        plan = QUICK if args.quick else Plan()
        if args.seeds is not None:
            plan = dataclasses.replace(plan, seeds=args.seeds)
        measured = measure(plan, args)
    page, found = report.write(args.out, plan, measured)
    print(report.table(found))
    print('\n' + ' '.join(report.sentence(found)))
    print(f'\nOpen {page.absolute()}')


def measure(plan, args: Args) -> list:
    """Trains what is not trained, and asks every model; by seed, what the probe says of each world's jobs."""
    from experiments.bias import findings
    from experiments.bias.plan import WORLDS, name, runs
    from llm.evaluation.subject import load
    from llm.sweep.experiment import run_sweep

    trained = run_sweep(args.out / 'sweep', runs(plan, args.out), args)
    by_name = {run.name: run.workdir for run in trained}
    return [
        {kind: findings.probe(load(by_name[name(kind, seed)]), seed) for kind in WORLDS} for seed in range(plan.seeds)
    ]


if __name__ == '__main__':
    script(main)
