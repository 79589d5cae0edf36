"""Train a causal model, a masked one, a prefix LM and two of span corruption alike, and compare them fairly.

The same text in the same order, the same number of parameters, paired seeds. Likelihoods of text exist for two of the
five only, and what the others are trained on are other numbers of other tokens; so what is compared is a thing that
all can do: which of several spans stood in a gap of held-out text. docs/masked.md says what the columns mean.
"""

import dataclasses
import pathlib
from dataclasses import dataclass

from llm.command_line import check_least, parse, script
from llm.sweep.options import SweepOptions

PROGRAM = 'python -m experiments.objectives'


@dataclass(frozen=True)
class Args(SweepOptions):
    out: pathlib.Path = pathlib.Path('runs/objectives')  # folder for runs and report; what is done is not done again
    seeds: int = 3  # runs of each arm, paired: seed i has the same start and the same text in all of them
    steps: int = 200  # updates of a run
    gaps: int = 256  # gaps of held-out text that each model chooses for
    quick: bool = False  # tiny models and few gaps, to see that it works
    report: bool = False  # train nothing: measure the runs of `out` again


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__.split('\n\n')[0])
    check_least(args, 1, 'seeds', 'steps', 'gaps')
    from llm import runtime

    runtime.prepare_host()
    from experiments.objectives import measure, page, plan
    from llm.sweep import registry
    from llm.sweep.experiment import run_sweep

    chosen = dataclasses.replace(plan.QUICK if args.quick else plan.Plan(), seeds=args.seeds, gaps=args.gaps)
    if not args.quick:
        chosen = dataclasses.replace(chosen, steps=args.steps)
    folder = args.out / 'sweep'
    runs = registry.open_sweep(folder) if args.report else run_sweep(folder, plan.runs(chosen), args)
    results = measure.measure(chosen, runs)
    print(page.text(results))
    print(f'\nOpen {page.write(results, args.out).absolute()}')


if __name__ == '__main__':
    script(main)
