"""Ask what a change of the model, its data or its training is worth, with the uncertainty of the answer."""

import dataclasses
import importlib
import pathlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from llm.command_line import parse, script
from llm.errors import Interrupted, MachineError, UserError
from llm.sweep.options import SweepOptions

if TYPE_CHECKING:
    from llm.ablation.plan import Ablation

PROGRAM = 'python -m experiments.ablations'
HERE = pathlib.Path(__file__).parent
NOT_QUESTIONS = ('__main__', 'base')


@dataclass(frozen=True)
class Args(SweepOptions):
    name: tyro.conf.Positional[str] = ''  # of the ablation, see --list; or a Python file that defines ABLATION
    list: bool = False  # print the ablations that there are, and stop
    seeds: int = 5  # runs of each arm, paired: seed i has one start and one order of data in all of them
    budget: Literal['tokens', 'flops'] = 'tokens'  # what is equal among the arms
    tune: bool = False  # find each arm's learning rate first, on another seed
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()  # FIELD=VALUE in the base, and so in every arm
    out: pathlib.Path | None = None  # folder for runs and report; None is runs/ablations/NAME
    dry_run: bool = False  # print the runs and what they would cost, and stop
    report: bool = False  # only write the report of the folder again, from the runs that are there


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    if args.list:
        for name in names():
            print(f'{name:18} {load(name).question}')
        return
    if not args.name:
        raise UserError(f'which ablation? {", ".join(names())}; or a Python file that defines ABLATION')
    name = pathlib.Path(args.name).stem
    folder = args.out or pathlib.Path('runs/ablations') / name
    if args.report:
        report(folder)
        return
    ablation = with_base(load(args.name), args.set)
    from llm import runtime

    runtime.prepare_host()
    from llm.ablation import plan as machinery

    if args.dry_run:
        print(machinery.forecast_text(ablation, folder, args.seeds, args.budget, args.tune))
        return
    try:
        machinery.run(name, ablation, folder, seeds=args.seeds, budget=args.budget, tuned=args.tune, options=args)
    except (MachineError, Interrupted):
        if (folder / machinery.PLAN).is_file():  # of what is done
            report(folder)
        raise
    report(folder)


def names() -> list[str]:
    return sorted(one.name for one in pkgutil.iter_modules([str(HERE)]) if one.name not in NOT_QUESTIONS)


def load(name: str) -> 'Ablation':
    """The ablation of this folder, or of a Python file.

    Raises:
        UserError: if there is none.
    """
    from llm.ablation.plan import Ablation
    from llm.config_file import load_value

    if name in names():
        return importlib.import_module(f'experiments.ablations.{name}').ABLATION
    if not name.endswith('.py'):
        raise UserError(f'there is no ablation {name!r}; choose one of {", ".join(names())}, or a Python file')
    found = load_value(name, 'ABLATION')
    if not isinstance(found, Ablation):
        raise UserError(f'{name}: ABLATION is a {type(found).__name__}; it must be a llm.ablation.plan.Ablation')
    return found


def with_base(ablation: 'Ablation', settings: tuple[str, ...]) -> 'Ablation':
    """The same question of a base with some fields set."""
    from llm import config_json
    from llm.sweep import space

    values = {}
    for text in settings:
        axis = space.parse_axis(text)
        if len(axis) != 1:
            raise UserError(f'--set {text} gives {len(axis)} values; the base has one')
        values |= dict(axis[0].values)
    return dataclasses.replace(ablation, base=config_json.override(ablation.base, values)) if values else ablation


def report(folder: pathlib.Path) -> None:
    """Writes the report, and prints the verdicts."""
    from llm.ablation import report as ablation_report
    from llm.ablation import results as ablation_results

    results = ablation_results.read(folder)
    page, _ = ablation_report.write(results)
    for one in results.comparisons:
        print(f'{one.arm.label}: {one.verdict}')
    print(results.summary)
    print(page)


if __name__ == '__main__':
    script(main)
