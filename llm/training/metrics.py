"""metrics.jsonl and TensorBoard: where every number of a run is written, once."""

import json
import math
import os
from typing import Any

import jax
import numpy as np

from llm.workdir import Workdir


def means(metrics: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Turns (sum, weight) pairs, fetched from the device, into numbers (lists, for one number per layer)."""
    values = {}
    for name, (total, weight) in jax.device_get(metrics).items():
        mean = np.asarray(total, np.float64) / np.maximum(np.asarray(weight, np.float64), 1e-30)
        values[name] = mean.tolist()
    return values


class MetricsWriter:
    """Appends rows to metrics.jsonl, whole lines only, and mirrors the numbers as TensorBoard events.

    Args:
        workdir: the run's.
        attempt: which start of the run this is, from 1.
        tensorboard: whether to write events.
        start_step: step this attempt starts from; TensorBoard drops what an earlier attempt wrote past it.
    """

    def __init__(self, workdir: Workdir, attempt: int, tensorboard: bool, start_step: int = 0):
        self._file = open(workdir.metrics_file, 'a', encoding='utf-8')  # noqa: SIM115 (closed by `close`)
        self._attempt = attempt
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(workdir.path / 'events'), purge_step=start_step + 1)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Writes one row. What is not finite is written as null, since JSON has no NaN."""
        row = {'kind': kind, 'step': step, 'attempt': self._attempt} | values
        self._file.write(json.dumps(_finite(row)) + '\n')
        self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(f'{kind}/{name}', value, step)
                elif kind == 'sample' and name == 'text':
                    self._events.add_text('sample', value, step)

    def sync(self) -> None:
        """Puts what was written on the disk; called before a checkpoint counts as done."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.sync()
        self._file.close()
        if self._events is not None:
            self._events.close()


class NoWriter:
    """Takes the place of `MetricsWriter` in the processes that leave writing to the first."""

    def write(self, kind: str, step: int, **values: Any) -> None: ...

    def sync(self) -> None: ...

    def close(self) -> None: ...


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
