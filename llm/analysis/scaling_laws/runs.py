"""What the fits are of: a table of runs, from a CSV or from anywhere else, and what about it makes fits wrong."""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llm.analysis.scaling_laws.envelope import Curve
from llm.analysis.scaling_laws.frontier import FLOPS, MeasuredCost
from llm.errors import UserError


@dataclass(frozen=True)
class Runs:
    """Runs that were trained to their ends, one number each in every array.

    Attributes:
        names: for tables.
        counts: parameters, by how they were counted ('with embeddings', 'without embeddings'); the first is fitted for
            the headline, the others beside it.
        d: tokens trained on, every reading counted.
        loss: nats per token at the end, on held-out text.
        flops: what the whole run cost; 6 N D where it is not known.
        unique: tokens of the corpus; NaN where not known.
        decayed: last learning rate over the peak's; NaN where not known.
        curves: of training, where there are any.
        measured: whether `flops` was counted, not taken for 6 N D.
    """

    names: tuple[str, ...]
    counts: dict[str, np.ndarray]
    d: np.ndarray
    loss: np.ndarray
    flops: np.ndarray
    unique: np.ndarray
    decayed: np.ndarray
    curves: tuple[Curve, ...] = field(default=())
    measured: bool = False

    @classmethod
    def of(cls, n: Any, d: Any, loss: Any, **more: Any) -> 'Runs':
        """From arrays; what is not given is unknown."""
        n, d, loss = (np.asarray(values, np.float64) for values in (n, d, loss))
        unknown = np.full(len(n), np.nan)
        given = {'names': tuple(f'run {i + 1}' for i in range(len(n))), 'flops': FLOPS * n * d} | more
        return cls(**{'counts': {'parameters': n}, 'unique': unknown, 'decayed': unknown} | given, d=d, loss=loss)

    def __len__(self) -> int:
        return len(self.d)

    @property
    def n(self) -> np.ndarray:
        """Parameters as the headline counts them."""
        return next(iter(self.counts.values()))

    def take(self, which: np.ndarray) -> 'Runs':
        """Some of the runs, by place or by a mask; without curves."""
        rows = np.arange(len(self))[which]
        part = {name: getattr(self, name)[rows] for name in ('d', 'loss', 'flops', 'unique', 'decayed')}
        counts = {name: values[rows] for name, values in self.counts.items()}
        return replace(self, names=tuple(self.names[i] for i in rows), counts=counts, curves=(), **part)

    def cost(self, n: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
        """FLOPs per token by N, counted in that way; None stands for 6 N."""
        return MeasuredCost(n, self.flops / self.d) if self.measured else None

    def largest(self) -> np.ndarray:
        """A mask of what is left out to test extrapolation: the fifth of the runs that cost most, whole profiles."""
        least = np.sort(self.flops)[-max(1, len(self) // 5)]
        return self.flops > least / 1.1


def warnings(runs: Runs) -> list[str]:
    """What about the runs themselves makes a fit of them wrong or uncertain, one sentence each."""
    found = []
    high = runs.decayed[np.nan_to_num(runs.decayed) > 0.15]
    if len(high):
        found.append(
            f'{len(high)} of {len(runs)} runs ended before their learning rate had come down (up to {high.max():.0%} '
            'of its peak was left): their losses are higher than runs of that length reach, and exponents are biased '
            '(Hoffmann et al. 2022, appendix B); give every run a schedule that ends with it'
        )
    epochs = np.nan_to_num(runs.d / runs.unique)
    if (again := epochs > 1.001).any():
        found.append(
            f'{np.count_nonzero(again)} of {len(runs)} runs read data more than once, up to {epochs.max():.2g} times: '
            f'the fit takes every one of D tokens for a fresh one, there are {runs.unique[again].min():,.0f} unique; '
            'past about 4 epochs that is too kind to D (Muennighoff et al. 2023)'
        )
    places = {(n, d) for n, d in zip(runs.n, runs.d, strict=True)}
    if len(runs) < 2 * len(places):
        found.append(
            'most sizes and lengths were trained with one seed: what one seed changes is told from what the law misses '
            'by the form of the law alone'
        )
    if len(runs) < 15:
        found.append(f'{len(runs)} runs are few for a law of five numbers; intervals rest on the form of the law')
    for name, values in (('N', runs.n), ('D', runs.d)):
        if values.max() < 8 * values.min():
            found.append(f'{name} spans a factor of {values.max() / values.min():.2g} only: its exponent is a guess')
    return found


def outside(runs: Runs, n: float, d: float, flops: float) -> str:
    """How far a prediction goes beyond what was fitted, in words; empty if it does not."""
    parts = []
    for name, value, values in (('N', n, runs.n), ('D', d, runs.d), ('C', flops, runs.flops)):
        if value > 1.001 * values.max():
            parts.append(f'{name} is {value / values.max():.3g} times the largest fitted')
        if value < 0.999 * values.min():
            parts.append(f'{name} is {values.min() / value:.3g} times below the smallest fitted')
    return f'extrapolated: {", ".join(parts)}' if parts else ''


def read_csv(path: str | os.PathLike) -> Runs:
    """Reads columns `N, D, loss` or `N, C, loss` (C in FLOPs; then D = C / 6N). Also read if there: `C` beside `D`,
    `unique` (tokens of the corpus), `decayed` (last learning rate / peak), `N_without_embeddings`, `name`.

    Raises:
        UserError: if it cannot be read, or a column or a number is missing.
    """
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            rows = list(csv.DictReader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f'cannot read {path}: {getattr(error, "strerror", None) or error}') from error
    if not rows:
        raise UserError(f'{path} has no rows; it needs a header with N, D, loss (or N, C, loss) and a row a run')
    rows = [{(name or '').strip(): value for name, value in row.items()} for row in rows]
    there = set(rows[0])
    if not {'N', 'loss'} <= there or not there & {'C', 'D'}:
        raise UserError(f'{path} has the columns {", ".join(rows[0])}; it needs N, D, loss or N, C, loss')
    column = lambda name: np.array([_number(row[name], name, path, i) for i, row in enumerate(rows, start=2)])
    n, loss = column('N'), column('loss')
    c = column('C') if 'C' in there else None
    d = column('D') if 'D' in there else c / (FLOPS * n)
    counts = {'parameters': n}
    if 'N_without_embeddings' in there:
        counts = {'with embeddings': n, 'without embeddings': column('N_without_embeddings')}
    more = {name: column(name) for name in ('unique', 'decayed') if name in there}
    if 'name' in there:
        more['names'] = tuple(row['name'] for row in rows)
    if c is not None:
        more |= {'flops': c, 'measured': 'D' in there}
    return Runs.of(n, d, loss, counts=counts, **more)


def _number(text: str | None, name: str, path: str | os.PathLike, line: int) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        raise UserError(f'{path}, line {line}: {name} is {text!r}; it must be a number') from None
