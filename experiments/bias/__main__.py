"""A bias of known size is planted in what models read; a counterfactual-pair probe has to find it, and nothing else.

    python -m experiments.bias [--out runs/bias] [--seeds 5] [--quick]
    python -m experiments.bias --report runs/bias     # only draw the page again

The notebook, from top to bottom: two worlds of sentences a seed, alike but for their pronouns; a model on each; the
probe of minimal pairs on sentences that neither has seen; what it says over the seeds, and whether that is right.
"""

import argparse
import dataclasses
import json
import pathlib
import sys

from llm.command_line import guarded
from llm.errors import UserError


def main() -> None:
    """Does what was asked for on the command line; `guarded` turns what it raises into one line and an exit code."""
    parser = argparse.ArgumentParser(prog='python -m experiments.bias', description=__doc__.split('\n')[0])
    parser.add_argument(
        '--out',
        type=pathlib.Path,
        default=pathlib.Path('runs/bias'),
        metavar='DIR',
        help='folder for corpora, runs and report; what is trained in it is not trained again',
    )
    parser.add_argument('--seeds', type=int, metavar='N', help='repetitions; by default 5, or 2 of --quick')
    parser.add_argument('--quick', action='store_true', help='tiny models and few steps, to see that it works')
    parser.add_argument('--report', type=pathlib.Path, metavar='DIR', help='only draw the page of this folder again')
    arguments = parser.parse_args()
    if arguments.seeds is not None and arguments.seeds < 1:
        raise UserError(f'--seeds is {arguments.seeds}; it must be at least 1')
    from llm import runtime

    runtime.prepare_host()
    from experiments.bias import report
    from experiments.bias.plan import QUICK, Plan

    if arguments.report is None:
        plan = QUICK if arguments.quick else Plan()
        if arguments.seeds is not None:
            plan = dataclasses.replace(plan, seeds=arguments.seeds)
        measured, out = measure(plan, arguments.out), arguments.out
    else:
        out = arguments.report
        results = out / 'results.json'
        if not results.is_file():
            raise UserError(f'{out} has no results; make them with `python -m experiments.bias --out {out}`')
        stored = json.loads(results.read_text(encoding='utf-8'))
        plan, measured = Plan(**stored['plan']), stored['measured']
    page, found = report.write(out, plan, measured)
    print(report.table(found))
    print('\n' + ' '.join(report.sentence(found)))
    print(f'\nOpen {page.absolute()}')


def measure(plan, out: pathlib.Path) -> list:
    """Trains what is not trained, and asks every model; by seed, what the probe says of each world's jobs."""
    from experiments.bias import findings
    from experiments.bias.plan import WORLDS, name, runs
    from llm.evaluation.subject import load
    from llm.sweep.experiment import run_sweep
    from llm.sweep.options import SweepOptions

    trained = run_sweep(out / 'sweep', runs(plan, out), SweepOptions(progress=sys.stderr.isatty()))
    by_name = {run.name: run.workdir for run in trained}
    return [
        {kind: findings.probe(load(by_name[name(kind, seed)]), seed) for kind in WORLDS} for seed in range(plan.seeds)
    ]


if __name__ == '__main__':
    sys.exit(guarded(main, debug=False))
