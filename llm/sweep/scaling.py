"""The runs of a sweep as a table for scaling laws."""

import math
from collections.abc import Sequence

import numpy as np
from absl import logging

from llm.analysis import memory
from llm.analysis.scaling_laws.envelope import Curve
from llm.analysis.scaling_laws.runs import Runs
from llm.config import Config
from llm.errors import UserError
from llm.sweep import registry
from llm.sweep.registry import Run
from llm.training.schedule import learning_rate_factor


def table(runs: Sequence[Run]) -> Runs:
    """Reads every run that is done: parameters with and without embedding tables, tokens, FLOPs, held-out loss, curve.

    'with embeddings' is every parameter; 'without embeddings' leaves out the tables that ids and positions are looked
    up in (Kaplan et al. 2020), a tied head with them. FLOPs are those of the library's default convention, in which
    the head counts either way.

    Raises:
        UserError: if no run is done.
    """
    rows = {row['workdir']: row for row in registry.rows(runs)}
    done = [run for run in runs if rows[str(run.workdir.path)]['status'] == 'done']
    if len(done) < len(runs):
        logging.warning('%d of %d runs are not done and are left out', len(runs) - len(done), len(runs))
    done = [run for run in done if rows[str(run.workdir.path)].get('held_out.loss') is not None]
    if not done:
        raise UserError('no run of the sweep is done and has a held-out loss; finish it, then fit')
    tables = [rows[str(run.workdir.path)] for run in done]
    configs = [run.workdir.config() for run in done]
    column = lambda values: np.array([float(value) for value in values])
    total = column(row['parameters'] for row in tables)
    inner = total - column(embeddings(config) for config in configs)
    unique = [run.workdir.summary().get('data', {}).get('train', {}).get('tokens', math.nan) for run in done]
    return Runs(
        names=tuple(run.name for run in done),
        counts={'with embeddings': total, 'without embeddings': inner},
        d=column(row['tokens'] for row in tables),
        loss=column(row['held_out.loss'] for row in tables),
        flops=column(row['flops'] for row in tables),
        unique=column(unique),
        decayed=column(left(config) for config in configs),
        curves=tuple(curve(run, n) for run, n in zip(done, total, strict=True)),
        measured=True,
    )


def embeddings(config: Config) -> int:
    """Parameters of the tables that ids and positions are looked up in, and of the patch encoder; text meets none."""
    parts = {row.part.split('/')[0]: row.count for row in memory.parameter_table(config.model)}
    return sum(parts.get(name, 0) for name in ('embedding', 'positions', 'patches'))


def left(config: Config) -> float:
    """What is left of the peak learning rate at the last step."""
    return float(learning_rate_factor(config.schedule, config.training.steps))


def curve(run: Run, n: float) -> Curve:
    """The training losses of a run, as logged."""
    rows = [row for row in run.workdir.rows('train') if row.get('loss') is not None]
    tokens, spent, loss = (np.array([row[name] for row in rows], np.float64) for name in ('tokens', 'flops', 'loss'))
    return Curve(n, spent, tokens, loss)
