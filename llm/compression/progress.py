"""What people see of a compression: a bar while it runs, and a line at its end."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator

import tqdm

from llm.analysis import units
from llm.compression.archive import Made


@contextlib.contextmanager
def bar(what: str, size: int) -> Iterator[Callable[[int, int], None]]:
    """A bar over bytes on stderr, with the ratio so far; yields what is told bytes of the file and of the code."""
    with tqdm.tqdm(desc=what, total=size, unit='B', unit_scale=True, file=sys.stderr, disable=None) as shown:

        def tell(done: int, coded: int) -> None:
            if not shown.disable:
                shown.set_postfix_str(f'to {coded / max(done, 1):.1%}', refresh=False)
                shown.update(done - shown.n)

        yield tell


def summary(out: pathlib.Path, made: Made, seconds: float) -> str:
    """One line about an archive that was made."""
    size, coding = made.header.size, made.header.coding
    line = f'{out}: {len(made.data):,} bytes for {size:,}'
    if size:
        line += f', {len(made.data) / size:.1%}, {8 * len(made.data) / size:.3f} bits per byte'
    if coding is None:
        return f'{line}; stored as it is'
    speed = f'{units.duration(seconds)}, {size / seconds / 1000:.1f} kB/s'
    return f'{line}; {coding.tokens:,} tokens in {coding.streams} streams, {speed}'
