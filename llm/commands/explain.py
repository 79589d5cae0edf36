"""Write one HTML file that shows a prompt on its way through a trained model, to be opened without a server."""

import pathlib
import sys
from dataclasses import dataclass

from llm.errors import UserError


@dataclass(frozen=True)
class Args:
    """`python -m llm explain --workdir DIR --prompt TEXT --out FILE.html`: the page of `explore`, of one prompt."""

    workdir: pathlib.Path  # folder of the run whose model reads
    prompt: str  # text to read; - reads all of stdin, its last newline included
    out: pathlib.Path = pathlib.Path('explain.html')  # the page to write
    step: int | None = None  # checkpoint to load, in updates made; None is the last


def run(args: Args) -> None:
    """Writes the file, as a whole or not at all.

    Raises:
        UserError: for a run that cannot be shown, a prompt that is not text or does not fit, or a file that cannot be
            written.
    """
    from llm import runtime
    from llm.workdir import Workdir

    runtime.prepare_host(Workdir.open(args.workdir))
    from llm.explorer import static
    from llm.explorer.explorer import Explorer
    from llm.explorer.runs import open_runs

    prompt = args.prompt
    if prompt == '-':
        try:
            prompt = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise UserError(f'stdin is not UTF-8 text ({error.reason} at byte {error.start})') from error
    if args.out.is_dir() or not args.out.parent.is_dir():
        raise UserError(f'cannot write {args.out}: it is a folder, or its folder does not exist')
    runs = open_runs([args.workdir])
    step, _ = runs.params(0, args.step)
    found = static.write(Explorer(runs, prompt), prompt, step, args.out)
    if found.left_out:
        print(
            f'{found.left_out} views are not in the file, which would be too large; explore shows them', file=sys.stderr
        )
    print(f'wrote {args.out} ({args.out.stat().st_size / 2**20:.1f} MiB, {len(found.responses)} answers)')
