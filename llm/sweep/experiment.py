"""How an experiment gets its runs: create, group, launch; the same call goes on where it stopped."""

import os
import pathlib
from collections.abc import Mapping

from llm.config import Config
from llm.errors import MachineError, UserError
from llm.sweep import page, population, registry, scheduler
from llm.sweep.options import SweepOptions
from llm.sweep.registry import Run


def run_sweep(folder: str | os.PathLike, configs: Mapping[str, Config], options: SweepOptions) -> list[Run]:
    """Trains every config that is not done yet, and writes the sweep's table.

    Args:
        folder: of the sweep.
        configs: by the runs' names, as from `llm.sweep.space.configs`.
        options: where and how.

    Returns:
        The runs, all of them done.

    Raises:
        UserError: if runs failed, all of them by mistakes in their configs.
        MachineError: if runs failed for good; what is done stays, and the same call tries the others again.
        Interrupted: if a signal came; what was running is saved.
    """
    if not configs:
        raise UserError('the sweep has no run')
    runs = registry.create(folder, configs)
    launcher = options.make_launcher(folder)
    processes = options.launcher != 'here'
    jobs = population.groups(runs, options.population, launcher.slots, processes)
    try:
        given_up = scheduler.run_all(runs, jobs, launcher, options.retries, options.progress)
    finally:
        table = registry.rows(runs)
        registry.export(table, folder)
        page.write(runs, table, pathlib.Path(folder))
    if given_up:
        (run, outcome), count = next(iter(given_up.items())), len(given_up)
        error = UserError if all(one.code == 2 for one in given_up.values()) else MachineError
        raise error(
            f'{count} of {len(runs)} runs failed; {run.name}: {outcome.message} (their last lines are in '
            f'{folder}/failures.jsonl; the same command tries them again)'
        )
    return runs
