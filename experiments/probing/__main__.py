"""What linear probes find in each layer of a model of Python, against control tasks, and what its neurons fire on."""

import pathlib
from dataclasses import dataclass

from llm.command_line import parse, script

PROGRAM = 'python -m experiments.probing'


@dataclass(frozen=True)
class Args:
    workdir: pathlib.Path  # a run trained on Python source
    out: pathlib.Path = pathlib.Path('runs/probing')  # folder for the report and its numbers
    step: int | None = None  # which checkpoint; None is the newest
    tokens: int = 12_000  # of each task, that probes learn from and are tested on together
    folds: int = 3  # that the documents are dealt into
    seeds: int = 1  # control tasks, and untrained models
    neurons: int = 6  # of each layer that the page shows
    contexts: int = 4  # of each neuron


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    from llm import runtime
    from llm.workdir import Workdir

    workdir = Workdir.open(args.workdir)
    runtime.prepare_host(workdir)
    from experiments.probing import measure, page

    settings = measure.Settings(**{name: getattr(args, name) for name in measure.Settings._fields})
    results = measure.measure(workdir, args.step, settings)
    print(page.text(results))
    print(f'\nOpen {page.write(results, args.out).absolute()}')


if __name__ == '__main__':
    script(main)
