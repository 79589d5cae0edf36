"""From the sweep's table to curves, and to where their lowest points are."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.mup.plan import LABELS, Plan


@dataclass(frozen=True)
class Curve:
    """Held-out loss against the learning rate, at one width.

    Attributes:
        width: of the models.
        rates: of the runs that are done, rising.
        losses: in nats per token, means over the seeds.
    """

    width: int
    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def best(self) -> int:
        """Which of the rates was best."""
        return int(np.argmin(self.losses))

    @property
    def inside(self) -> bool:
        """Whether the best rate has neighbours on both sides: at the edge, a better one may lie beyond."""
        return 0 < self.best < len(self.rates) - 1

    @property
    def optimum(self) -> float:
        """The lowest point of the parabola through the best rate and its neighbours, in the rate's logarithm.

        The best rate itself at the edge.
        """
        if not self.inside:
            return self.rates[self.best]
        x = np.log2(self.rates[self.best - 1 : self.best + 2])
        curvature, slope, _ = np.polyfit(x - x[1], self.losses[self.best - 1 : self.best + 2], 2)
        return float(2 ** (x[1] - slope / (2 * curvature)))

    def loss_at(self, rate: float) -> float:
        return self.losses[self.rates.index(rate)]


@dataclass(frozen=True)
class Finding:
    """How one parametrisation did.

    Attributes:
        label: for people.
        curves: by rising width.
        slope: of log optimum against log width; 0 is a learning rate that stays where it is, -1 one in proportion to
            1 / width.
        carried: loss of the widest model at the narrowest one's best rate, less its loss at its own best rate.
    """

    label: str
    curves: tuple[Curve, ...]
    slope: float
    carried: float

    def sentence(self) -> str:
        first, last = self.curves[0], self.curves[-1]
        edge = '' if all(curve.inside for curve in self.curves) else ' (a best rate lies at the edge of those tried)'
        text = (
            f'{self.label}: the best learning rate goes from {first.optimum:.2g} at width {first.width} to '
            f'{last.optimum:.2g} at width {last.width}, a slope of {self.slope:+.2f}{edge}; the rate that was best at '
            f'width {first.width} costs width {last.width} {self.carried:.3f} nats per token'
        )
        return text.replace('-', '−') if self.slope < 0 else text


def curves(plan: Plan, table: list[dict[str, Any]], parametrization: str) -> tuple[Curve, ...]:
    """The curves of the widths that nothing is left to do for; a run that failed is no point of its curve.

    The base width's runs count in both parametrisations.

    Args:
        plan: of the sweep.
        table: `llm.sweep.registry.rows` of it.
        parametrization: 'standard' or 'mup'.
    """
    found = []
    for width in plan.widths:
        kind = 'standard' if width == plan.widths[0] else parametrization
        own = [row for row in table if (row['model.width'], row['model.parametrization']) == (width, kind)]
        by_rate: dict[float, list[float]] = {}
        for row in own:
            if row['status'] == 'done':
                by_rate.setdefault(row['optimizer.learning_rate'], []).append(row['held_out.loss'])
        if by_rate and all(row['status'] in ('done', 'failed') for row in own):
            rates = sorted(by_rate)
            found.append(Curve(width, tuple(rates), tuple(float(np.mean(by_rate[rate])) for rate in rates)))
    return tuple(found)


def finding(plan: Plan, table: list[dict[str, Any]], parametrization: str) -> Finding:
    """What `curves` come to; NaN where there are not enough of them."""
    found = curves(plan, table, parametrization)
    slope = carried = math.nan
    if len(found) > 1:
        points = [(math.log(curve.width), math.log(curve.optimum)) for curve in found]
        slope = float(np.polyfit(*zip(*points), 1)[0])
        narrow, wide = found[0], found[-1]
        rate = narrow.rates[narrow.best]
        carried = wide.loss_at(rate) - min(wide.losses) if rate in wide.rates else math.nan
    return Finding(LABELS[parametrization], found, slope, carried)
