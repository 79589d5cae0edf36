"""From the arguments of `benchmark` to files and a table."""

import contextlib
import difflib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from llm.benchmark import options as options_lib
from llm.errors import UserError


def main(arguments: list[str]) -> None:
    """Runs `benchmark KIND OPTIONS`: progress on stderr; the table on stdout; the files where `--out` says.

    Raises:
        UserError, MachineError: see `llm.errors`.
        SystemExit: 0, after `--help`.
    """
    if not arguments or arguments[0] in ('-h', '--help'):
        print(options_lib.overview())
        if not arguments:
            raise UserError(f'benchmark needs a kind; choose one of {", ".join(options_lib.KINDS)}')
        raise SystemExit(0)
    kind = arguments[0]
    if kind not in options_lib.KINDS:
        close = difflib.get_close_matches(kind, options_lib.KINDS, n=1)
        hint = f'perhaps you meant {close[0]}' if close else f'choose one of {", ".join(options_lib.KINDS)}'
        raise UserError(f'there is no benchmark {kind!r}; {hint}')
    options = options_lib.parse(kind, arguments[1:])
    if kind == 'compare':
        from llm.benchmark import compare

        print(compare.compare_files(options.files))
        return
    prepare_host()
    from llm.benchmark import tables

    result = run(kind, options)
    folder = pathlib.Path(options.out or f'benchmarks/{time.strftime("%Y%m%d-%H%M%S")}-{kind}')
    paths = [result.save(folder), tables.save(result, folder)]
    print(tables.markdown(result))
    print(f'wrote {" and ".join(map(str, paths))}', file=sys.stderr)


def prepare_host() -> None:
    """Fixes what XLA reads once, when jax is imported. The cache of compiled programs stays off: compiling is timed."""
    from llm.environment import prepare_process

    prepare_process()


def run(kind: str, options: Any) -> Any:
    """Measures; returns the `Result`. Needs `prepare_host` first."""
    from llm.benchmark import runner

    with show_progress(options.progress) as show:
        return runner.run(kind, options, show)


@contextlib.contextmanager
def show_progress(wanted: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Shows (cases done, cases, what comes next) on stderr: as a bar where tqdm is installed, else as lines."""
    if not wanted:
        yield lambda done, total, what: None
        return
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda done, total, what: print(f'{done}/{total} {what}', file=sys.stderr)
        return
    with tqdm(unit='case', file=sys.stderr, dynamic_ncols=True, disable=None) as bar:

        def show(done: int, total: int, what: str) -> None:
            bar.total, bar.n = total, done
            bar.set_description_str(what, refresh=True)

        yield show
