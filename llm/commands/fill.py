"""Fill in the blanks of a text with a model that has learned to: a masked one, or one of span corruption."""

import pathlib
import sys
from dataclasses import dataclass

from llm.errors import UserError


@dataclass(frozen=True)
class Args:
    """`python -m llm fill --workdir DIR --prompt 'def ____(path):'` prints what may stand in each blank."""

    workdir: pathlib.Path  # folder of the run
    prompt: str  # text with blanks; - reads all of stdin
    blank: str = '____'  # what stands for a blank in the text
    candidates: int = 10  # to print for each blank, the most probable first
    tokens: int | None = None  # masked: length of each blank (None is 1); span_corruption: the longest (None is 16)
    step: int | None = None  # checkpoint to load, in updates made; None is the last
    ema: bool = False  # load the averaged parameters instead of the raw ones


BAR_WIDTH = 10  # characters of a probability of 1


def run(args: Args) -> None:
    """Prints a table for each blank.

    Raises:
        UserError: for a text without a blank or too long, a missing run, or one that fills no blanks.
    """
    from llm import runtime
    from llm.workdir import Workdir

    if not args.blank:
        raise UserError('--blank is empty; give what stands for a blank in the text')
    prompt = sys.stdin.buffer.read().decode('utf-8', 'replace') if args.prompt == '-' else args.prompt
    pieces = prompt.split(args.blank)
    if len(pieces) < 2:
        raise UserError(f'the prompt has no blank to fill; put {args.blank} where something is missing')
    workdir = Workdir.open(args.workdir)
    runtime.prepare_host(workdir)
    from llm.inference.fill import load_filler

    found = load_filler(workdir, args.step, args.ema).fill(pieces, candidates=args.candidates, tokens=args.tokens)
    for number, candidates in enumerate(found, start=1):
        if len(found) > 1:
            print(f'blank {number} of {len(found)}')
        shown = [repr(candidate.text) for candidate in candidates]
        for text, candidate in zip(shown, candidates, strict=True):
            bar = '█' * round(candidate.probability * BAR_WIDTH)
            print(f'{text:<{max(map(len, shown))}}  {candidate.probability:.4f} {bar}'.rstrip())
