"""The table of a sweep's runs while it goes: how far each is, its loss, and the time left."""

import sys
import time
from collections.abc import Sequence
from typing import Any

from llm.analysis import units
from llm.sweep import registry
from llm.sweep.registry import Run

EVERY = 1.0  # seconds between looks at the disk
MOST = 30  # lines; of larger sweeps the running and failed runs come first


class LiveTable:
    """Draws on stderr, on a terminal only; elsewhere one line whenever the counts change."""

    def __init__(self, runs: Sequence[Run], shown: bool):
        self._runs, self._shown = runs, shown
        self._terminal = shown and sys.stderr.isatty()
        self._live: Any = None
        self._last, self._said = 0.0, ''
        self._steps = {run: run.workdir.config().training.steps for run in runs} if shown else {}
        self._first: dict[Run, tuple[float, int]] = {}  # when a run was first seen in this launch, and at which step

    def __enter__(self) -> 'LiveTable':
        if self._terminal:
            from rich.console import Console
            from rich.live import Live

            # It looks and draws from a thread of its own: with runs in this process, nobody else has the time.
            self._live = Live(
                get_renderable=self._draw,
                console=Console(stderr=True),
                refresh_per_second=1 / EVERY,
                vertical_overflow='crop',
            )
            self._live.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*failure)

    def refresh(self) -> None:
        """Says how the runs stand, where no table does, if it is time to and they stand otherwise than before."""
        if not self._shown or self._terminal or time.monotonic() < self._last + EVERY:
            return
        self._last = time.monotonic()
        line = _counts({run: registry.status(run.workdir) for run in self._runs})
        if line != self._said:
            print(line, file=sys.stderr, flush=True)
        self._said = line

    def _draw(self) -> Any:
        from rich.table import Table

        standing = {run: registry.status(run.workdir) for run in self._runs}
        line = _counts(standing)
        table = Table('run', 'status', box=None, title=line, title_justify='left')
        for header in ('step', 'loss', 'tokens/s', 'left'):
            table.add_column(header, justify='right')
        order = {'running': 0, 'failed': 1, 'interrupted': 2}
        shown = sorted(self._runs, key=lambda run: order.get(standing[run], 3))[:MOST]
        for run in [run for run in self._runs if run in set(shown)]:
            table.add_row(run.name, standing[run], *self._progress(run, standing[run]))
        return table

    def _progress(self, run: Run, standing: str) -> tuple[str, str, str, str]:
        row = registry.last_row(run.workdir)
        if not row:
            return '', '', '', ''
        steps, now = self._steps[run], time.monotonic()
        since, at = self._first.setdefault(run, (now, row['step']))
        pace = (now - since) / (row['step'] - at) if row['step'] > at else None
        left = units.duration(pace * (steps - row['step'])) if pace and standing == 'running' else ''
        speed = row.get('tokens_per_second')
        return (
            f'{row["step"]:,}/{steps:,}',
            f'{row["loss"]:.3f}' if row.get('loss') is not None else '',
            f'{speed:,.0f}' if speed else '',
            left,
        )


def _counts(standing: dict[Run, str]) -> str:
    states = list(standing.values())
    return ', '.join(f'{states.count(name)} {name}' for name in dict.fromkeys(states)) + f' of {len(states)} runs'
