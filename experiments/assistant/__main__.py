"""What came of the quickstart's assistant: the three models on prompts from files that none of them has seen.

    python -m experiments.assistant [--runs DIR DIR DIR] [--out FILE]

Prints a table, and writes it as a page with answers side by side. See docs/assistant.md.
"""

import sys
from dataclasses import dataclass

from llm.command_line import guarded, parse


@dataclass(frozen=True)
class Args:
    """`python -m experiments.assistant`."""

    runs: tuple[str, ...] = ('runs/quickstart', 'runs/quickstart_sft', 'runs/quickstart_dpo')  # in their order
    out: str = 'runs/assistant.html'  # the page
    prompts: int = 128  # held-out prompts of each task
    samples: int = 4  # answers to each of them
    temperature: float = 0.7  # of the answers; what `llm chat` starts with


def run(args: Args) -> None:
    from llm import runtime
    from llm.workdir import Workdir

    workdirs = [Workdir.open(path) for path in args.runs]
    runtime.prepare_host(workdirs[-1])
    from experiments.assistant import measure

    results = measure.measure(workdirs, args.prompts, args.samples, args.temperature)
    print(measure.text_table(results))
    page = measure.write(results, args.out, args.temperature)
    print(f'\nOpen {page}')


if __name__ == '__main__':
    sys.exit(guarded(lambda: run(parse(Args, sys.argv[1:], 'python -m experiments.assistant', __doc__)), debug=False))
