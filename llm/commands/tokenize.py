"""Show how a tokenizer cuts a text: pieces, ids, bytes; the round trip is checked."""

import pathlib
import sys
from dataclasses import dataclass

import tyro

from llm.errors import MachineError, UserError


@dataclass(frozen=True)
class Args:
    text: tyro.conf.Positional[str]  # what to tokenize; - reads stdin
    workdir: str = ''  # take the tokenizer of this run
    tokenizer: pathlib.Path | None = None  # or this model file


def run(args: Args) -> None:
    from llm.analysis import units
    from llm.tokenizer import Tokenizer
    from llm.workdir import Workdir

    if bool(args.workdir) == bool(args.tokenizer):
        raise UserError('tokenize needs a tokenizer: give either --workdir DIR or --tokenizer FILE')
    tokenizer = Tokenizer.load(args.tokenizer or Workdir.open(args.workdir).tokenizer_file)
    data = sys.stdin.buffer.read() if args.text == '-' else args.text.encode('utf-8', 'surrogateescape')
    ids = tokenizer.encode(data)
    if tokenizer.decode_bytes(ids) != data:
        raise MachineError('the round trip failed: decoding the ids gives other bytes; please report the text')
    rows = [[i, tokenizer.piece(i), tokenizer.token_bytes(i).hex(' ')] for i in ids]
    print(units.table(['id', 'piece', 'bytes'], rows, left=3))
    ratio = f': {len(data) / len(ids):.3f} bytes per token' if ids else ''
    print(f'\n{len(data):,} bytes in {len(ids):,} tokens{ratio}; the round trip is exact')
