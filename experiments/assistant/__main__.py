"""What came of the quickstart's assistant: the three models on prompts from files that none of them has seen.

    python -m experiments.assistant [--runs DIR ...] [--out FILE]

Prints a table, and writes it as a page with answers side by side. docs/assistant.md says what the columns mean.
"""

import argparse
import pathlib
import sys

from llm.command_line import guarded

RUNS = ('runs/quickstart', 'runs/quickstart_sft', 'runs/quickstart_dpo')


def main() -> None:
    parser = argparse.ArgumentParser(prog='python -m experiments.assistant', description=__doc__.split('\n')[0])
    parser.add_argument('--runs', nargs='+', default=RUNS, metavar='DIR', help='workdirs, in the order of the table')
    parser.add_argument(
        '--out', type=pathlib.Path, default=pathlib.Path('runs/assistant.html'), metavar='FILE', help='the page'
    )
    parser.add_argument('--prompts', type=int, default=128, metavar='N', help='most held-out prompts of each task')
    parser.add_argument('--samples', type=int, default=2, metavar='N', help='answers to each prompt')
    parser.add_argument('--temperature', type=float, default=0.7, metavar='T', help='of the answers')
    arguments = parser.parse_args()

    from llm import runtime
    from llm.workdir import Workdir

    workdirs = [Workdir.open(path) for path in arguments.runs]
    runtime.prepare_host(workdirs[-1])
    from experiments.assistant import measure

    results = measure.measure(workdirs, arguments.prompts, arguments.samples, arguments.temperature)
    print(measure.text_table(results))
    print(f'\nOpen {measure.write(results, arguments.out, arguments.temperature).absolute()}')


if __name__ == '__main__':
    sys.exit(guarded(main, debug=False))
