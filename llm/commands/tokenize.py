"""Show how a tokenizer cuts a text (pieces, ids, bytes; the round trip is checked), or what is trained on in
conversations."""

import glob
import os
import pathlib
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from llm.errors import MachineError, UserError

_TEXT_HELP = 'what to tokenize; - reads stdin'


@dataclass(frozen=True)
class Args:
    text: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar='[TEXT]', help=_TEXT_HELP)] = ()
    workdir: str = ''  # take the tokenizer of this run
    tokenizer: pathlib.Path | None = None  # or this model file of ours, or directory with a tokenizer.json
    chat: str = ''  # show the conversations, preferences or prompts of this JSONL file, or of tfds:NAME or task:NAME
    window: int = 0  # with --chat: cut off what data.sequence_length of this would; 0 cuts nothing


def run(args: Args) -> None:
    from llm.tokenizer import open_any, open_workdir
    from llm.workdir import Workdir

    if bool(args.workdir) == bool(args.tokenizer):
        raise UserError('tokenize needs a tokenizer: give either --workdir DIR or --tokenizer FILE')
    if len(args.text) + bool(args.chat) != 1:
        raise UserError('tokenize takes one text, quoted if it has spaces, or --chat FILE')
    if args.window < 0 or (args.window and not args.chat):
        raise UserError(f'--window is {args.window}; it must be a number of tokens, and belongs to --chat')
    tokenizer = open_any(args.tokenizer) if args.tokenizer else open_workdir(Workdir.open(args.workdir).path)
    if args.chat:
        show_conversations(args.chat, tokenizer, args.window)
    else:
        show_pieces(args.text[0], tokenizer)


def show_pieces(text: str, tokenizer) -> None:
    """A table of the tokens of a text."""
    from llm.analysis import units

    data = sys.stdin.buffer.read() if text == '-' else text.encode('utf-8', 'surrogateescape')
    ids = tokenizer.encode(data)
    exact = tokenizer.decode_bytes(ids) == data
    if tokenizer.exact and not exact:
        raise MachineError('the round trip failed: decoding the ids gives other bytes; please report the text')
    rows = [[i, tokenizer.piece(i), tokenizer.token_bytes(i).hex(' ')] for i in ids]
    print(units.table(['id', 'piece', 'bytes'], rows, left=3))
    ratio = f': {len(data) / len(ids):.3f} bytes per token' if ids else ''
    verdict = 'the round trip is exact' if exact else 'NOT EXACT: this tokenizer gives back another text'
    print(f'\n{len(data):,} bytes in {len(ids):,} tokens{ratio}; {verdict}')


def show_conversations(source: str, tokenizer, window: int) -> None:
    """Every row of a file or source, what is trained on marked, then the counts."""
    from llm.config import DataConfig
    from llm.data.rows import open_rows
    from llm.data.viewer import Viewer

    if not source.startswith(('jsonl:', 'tfds:', 'task:')):
        source = f'jsonl:{glob.escape(source)}'
    viewer = Viewer(tokenizer, window, colour=sys.stdout.isatty() and 'NO_COLOR' not in os.environ)
    for line in viewer.show(open_rows(source, DataConfig())):
        print(line)
    print(viewer.counts)
    if viewer.counts.wrong:
        raise UserError(f'{viewer.counts.wrong} of {viewer.counts.rows} rows are wrong; repair or remove them')
