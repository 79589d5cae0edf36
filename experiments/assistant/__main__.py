"""What came of the quickstart's assistant: the three models on prompts from files that none of them has seen.

    python -m experiments.assistant [--runs DIR ...] [--out FILE]

Prints a table, and writes it as a page with answers side by side. docs/assistant.md says what the columns mean.
"""

import pathlib
from dataclasses import dataclass

from llm.command_line import parse, script

PROGRAM = 'python -m experiments.assistant'
RUNS = tuple(pathlib.Path('runs') / name for name in ('quickstart', 'quickstart_sft', 'quickstart_dpo'))


@dataclass(frozen=True)
class Args:
    runs: tuple[pathlib.Path, ...] = RUNS  # workdirs, in the order of the table
    out: pathlib.Path = pathlib.Path('runs/assistant.html')  # the page
    prompts: int = 128  # most held-out prompts of each task
    samples: int = 2  # answers to each prompt
    temperature: float = 0.7  # of the answers


def main(arguments: list[str]) -> None:
    """Does what was asked for on the command line.

    Raises:
        UserError, MachineError, Interrupted: what `script` turns into one line and an exit code.
    """
    args = parse(Args, arguments, PROGRAM, __doc__)
    from llm import runtime
    from llm.workdir import Workdir

    workdirs = [Workdir.open(path) for path in args.runs]
    runtime.prepare_host(workdirs[-1])
    from experiments.assistant import measure

    results = measure.measure(workdirs, args.prompts, args.samples, args.temperature)
    print(measure.text_table(results))
    print(f'\nOpen {measure.write(results, args.out, args.temperature).absolute()}')


if __name__ == '__main__':
    script(main)
