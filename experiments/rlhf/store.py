"""Results of stages on disk, so that a run that was stopped goes on where it was."""

import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from llm.environment import code_version
from llm.errors import UserError
from llm.tree import named_leaves

HERE = pathlib.Path(__file__).parent
DRAWING = (
    '__main__.py',
    'report.py',
    'findings.py',
    'statistics.py',
)  # change how results are shown, not what they are

Tree = dict[str, Any]  # nested, of arrays


class Store:
    """A folder of `NAME.npz`, each a nested dictionary of arrays with the digest of what it was made by.

    The digest covers the settings and the code, the library's and this experiment's: whatever changed is made again.
    """

    def __init__(self, folder: pathlib.Path, settings: dict[str, Any]):
        self.folder = folder
        text = json.dumps(settings, sort_keys=True) + code_version() + _own_code()
        self._digest = hashlib.sha256(text.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)

    def stage(self, name: str, compute: Callable[[], Tree]) -> Tree:
        """What `compute` returns, from disk if it is there."""
        path = self.folder / f'{name}.npz'
        if path.exists():
            stored = _load(path)
            if str(stored.pop('digest')) == self._digest:
                del stored['seconds'], stored['processor_seconds']
                print(f'{name}: as computed before', file=sys.stderr)
                return stored
        print(f'{name} …', file=sys.stderr, flush=True)
        wall, processor = time.perf_counter(), time.process_time()
        tree = jax.device_get(compute())  # waits for what is still being computed
        times = {'seconds': time.perf_counter() - wall, 'processor_seconds': time.process_time() - processor}
        _save(
            path, tree | {name: np.array(value) for name, value in times.items()} | {'digest': np.array(self._digest)}
        )
        print(f'{name}: {times["seconds"]:.0f} s, {times["processor_seconds"]:.0f} of the processors', file=sys.stderr)
        return tree


def read(folder: pathlib.Path, names: Sequence[str] = ()) -> tuple[dict[str, Tree], dict[str, tuple[float, float]]]:
    """Every stage of a folder, whatever it was made by, and the seconds each took: by the clock, and of processors.

    Args:
        folder: a `Store`'s.
        names: of stages that have to be there.

    Raises:
        UserError: if there are none, or one is missing.
    """
    stages = {path.stem: _load(path) for path in sorted(folder.glob('*.npz'))}
    if not stages:
        raise UserError(f'{folder} holds no results; make them with `python -m experiments.rlhf --out {folder.parent}`')
    if missing := [name for name in names if name not in stages]:
        raise UserError(
            f'{folder} has no {missing[0]} yet; go on with `python -m experiments.rlhf --out {folder.parent}`'
        )
    times = {}
    for name, tree in stages.items():
        del tree['digest']
        times[name] = float(tree.pop('seconds')), float(tree.pop('processor_seconds'))
    return stages, times


def _own_code() -> str:
    paths = [path for path in sorted(HERE.glob('*.py')) if path.name not in DRAWING]
    return hashlib.sha256(b'\0'.join(path.read_bytes() for path in paths)).hexdigest()


def _save(path: pathlib.Path, tree: Tree) -> None:
    temporary = path.with_suffix(f'.{os.getpid()}.tmp')
    with open(temporary, 'wb') as file:
        np.savez_compressed(file, **{name: np.asarray(leaf) for name, leaf in named_leaves(tree)})
    os.replace(temporary, path)


def _load(path: pathlib.Path) -> Tree:
    tree: Tree = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            *folders, leaf = name.split('/')
            branch = tree
            for folder in folders:
                branch = branch.setdefault(folder, {})
            branch[leaf] = arrays[name]
    return tree
