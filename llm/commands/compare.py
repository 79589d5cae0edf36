"""Set runs side by side: what differs in their configs, curves, throughput, one table and one page."""

import pathlib
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Args:
    workdirs: Annotated[tuple[str, ...], tyro.conf.Positional] = ()  # two or more workdirs
    out: pathlib.Path = pathlib.Path('compare.html')  # the page to write


def run(args: Args) -> None:
    from llm.analysis import compare

    runs = compare.open_runs(args.workdirs)
    page = compare.write_comparison(runs, args.out)
    print(compare.text_table(runs))
    print(f'wrote {page}', file=sys.stderr)
