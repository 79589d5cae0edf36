"""Results of stages on disk, so that a run that was stopped goes on where it was."""

import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
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
        self.seconds: dict[str, float] = {}  # of each stage, when it was computed
        text = json.dumps(settings, sort_keys=True) + code_version() + _own_code()
        self._digest = hashlib.sha256(text.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)

    def stage(self, name: str, compute: Callable[[], Tree]) -> Tree:
        """What `compute` returns, from disk if it is there."""
        path = self.folder / f'{name}.npz'
        if path.exists():
            stored = _load(path)
            if str(stored.pop('digest')) == self._digest:
                self.seconds[name] = float(stored.pop('seconds'))
                print(f'{name}: as computed before', file=sys.stderr)
                return stored
        print(f'{name} …', file=sys.stderr, flush=True)
        start = time.perf_counter()
        tree = jax.device_get(compute())  # waits for what is still being computed
        self.seconds[name] = time.perf_counter() - start
        _save(path, tree | {'digest': np.array(self._digest), 'seconds': np.array(self.seconds[name])})
        print(f'{name}: {self.seconds[name]:.0f} s', file=sys.stderr, flush=True)
        return _load(path)


def read(folder: pathlib.Path) -> tuple[dict[str, Tree], dict[str, float]]:
    """Every stage of a folder, whatever it was made by, and the seconds each took.

    Raises:
        UserError: if there are none.
    """
    stages = {path.stem: _load(path) for path in sorted(folder.glob('*.npz'))}
    if not stages:
        raise UserError(f'{folder} holds no results; make them with `python -m experiments.rlhf --out {folder.parent}`')
    seconds = {name: float(tree.pop('seconds')) for name, tree in stages.items()}
    for tree in stages.values():
        del tree['digest']
    return stages, seconds


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
