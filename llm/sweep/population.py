"""Populations: runs that differ only in numbers, trained together in one compiled program."""

import os
from collections.abc import Sequence

from llm.sweep.registry import Run


def groups(runs: Sequence[Run], mode: str) -> list[list[Run]]:
    """The jobs of a sweep: runs that are trained together."""
    return [[run] for run in runs]


def train_population(paths: Sequence[str | os.PathLike], progress: bool = True) -> None:
    """Trains the runs in these workdirs together."""
