"""What the token embeddings of a model know: neighbours, analogies against chance, and a map."""

import pathlib
from dataclasses import dataclass
from typing import Literal

from llm.command_line import parse, script

PROGRAM = 'python -m experiments.embeddings'


@dataclass(frozen=True)
class Args:
    workdir: pathlib.Path  # a trained run
    out: pathlib.Path = pathlib.Path('runs/embeddings')  # folder for the report and its numbers
    step: int | None = None  # which checkpoint; None is the newest
    map: Literal['pca', 'umap'] = 'pca'  # how the map is made; umap is the extra of that name
    draws: int = 200  # of random words for each relation, for what chance reaches


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
    from experiments.embeddings import measure, page

    results = measure.measure(workdir, args.step, args.map, args.draws)
    print(page.text(results))
    print(f'\nOpen {page.write(results, args.out).absolute()}')


if __name__ == '__main__':
    script(main)
