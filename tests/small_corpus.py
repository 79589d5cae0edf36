"""A corpus of a few kilobytes that a tiny model learns in seconds."""

import pathlib
import random

WORDS = ('def', 'return', 'class', 'import', 'self', 'value', 'list', 'dict', 'print', 'open', 'close', 'read', 'write')


def write_corpus(folder: pathlib.Path) -> str:
    """Writes forty short files, of which three are held out. Returns the name of the corpus."""
    draw = random.Random(0)
    for i in range(40):
        lines = [' '.join(draw.choices(WORDS, k=draw.randint(2, 6))) for _ in range(draw.randint(2, 8))]
        (folder / f'file{i}.txt').write_text('\n'.join(lines) + '\n')
    return f'text:{folder}/*.txt'
