"""What a few seeds can say about a difference between two arms of an ablation, and what they cannot.

Seeds are paired: both arms see the same data in the same order from the same initial weights (where shapes agree), so
what is tested are the n differences, one per seed. They are taken as independent draws of one normal distribution: with
few seeds nothing else gives an interval that holds, and nothing can check it.

    interval      Student's t on the differences (Student 1908): the one that verdicts rest on
    bootstrap     expanded percentile interval (Hesterberg 2015, section 5.3): without the normal distribution, but it
                  can hardly reach beyond the differences that were seen; below about 10 seeds it is a second opinion
    effect size   mean / standard deviation of the differences, d_z, with Hedges' (1981) correction for small samples
    p values      of the two-sided paired t test; Holm's (1979) correction over the arms of one question

What is measured on one model over many samples (an accuracy, bits per byte) has other errors, at the end of this file.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy.special

CONFIDENCE = 0.95
POWER = 0.8
MOST_SEEDS = 100_000  # beyond which a number of seeds is not worth telling
_ROUNDING = 1e-12  # differences that spread less than this part of what was measured are rounding, not spread

Outcome = Literal['better', 'worse', 'not distinguishable', 'untested']


class Interval(NamedTuple):
    """A mean with the ends of its interval; None where there is one value only."""

    mean: float
    low: float | None
    high: float | None


class Difference(NamedTuple):
    """What paired seeds say about an arm less its base. Fields that cannot be computed are None.

    Attributes:
        mean: of the differences.
        low, high: Student's t interval; None for one seed, and where all seeds differ by the same amount but 0.
        bootstrap_low, bootstrap_high: expanded percentile interval; None where the other is.
        p_value: two-sided, not corrected; None where there is no interval, 1 where the arms are identical.
        effect_size: d_z with Hedges' correction; None for less than three seeds, or without spread.
        seeds_needed: to find a difference of this size with 80% power; None where that cannot be said.
        n: seeds.
    """

    mean: float
    low: float | None
    high: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None
    p_value: float | None
    effect_size: float | None
    seeds_needed: int | None
    n: int

    @property
    def identical(self) -> bool:
        """Whether the arms agreed to the last bit in every seed."""
        return self.mean == 0 and self.low == 0 == self.high


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean over seeds with Student's interval.

    Raises:
        ValueError: for no value, or one that is not finite.
    """
    x = _finite(values)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, None, None)
    half = _quantile(confidence, len(x)) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(mean, mean - half, mean + half)


def paired_difference(
    arm: Sequence[float],
    base: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    comparisons: int = 1,
    resamples: int = 10_000,
) -> Difference:
    """Compares two arms over the same seeds.

    Args:
        arm: one number per seed.
        base: one number per seed, in the same order.
        confidence: of both intervals, each by itself.
        comparisons: how many arms are compared with this base; `seeds_needed` is for the level that Holm's correction
            asks of the first of them, (1 - confidence) / comparisons.
        resamples: of the bootstrap, which draws them from a fixed seed.

    Raises:
        ValueError: if the arms have not the same number of seeds, none, or a value that is not finite.
    """
    a, b = _finite(arm), _finite(base)
    if len(a) != len(b):
        raise ValueError(f'paired arms have {len(a)} and {len(b)} seeds; they must have the same')
    x = a - b
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Difference(mean, None, None, None, None, None, None, None, 1)
    if not x.any():
        return Difference(0.0, 0.0, 0.0, 0.0, 0.0, 1.0, None, None, n)
    if np.ptp(x) <= _ROUNDING * max(np.abs(a).max(), np.abs(b).max()):
        return Difference(mean, None, None, None, None, None, None, None, n)
    deviation = float(x.std(ddof=1))
    error = deviation / math.sqrt(n)
    half = _quantile(confidence, n) * error
    effect = hedges(mean / deviation, n)
    return Difference(
        mean,
        mean - half,
        mean + half,
        *bootstrap_interval(x, confidence, resamples),
        float(2 * scipy.special.stdtr(n - 1, -abs(mean) / error)),
        effect,
        None if effect is None else seeds_needed(effect, alpha=(1 - confidence) / comparisons),
        n,
    )


def bootstrap_interval(
    differences: Sequence[float], confidence: float = CONFIDENCE, resamples: int = 10_000
) -> tuple[float, float]:
    """The expanded percentile interval of a mean (Hesterberg 2015, "What Teachers Should Know About the Bootstrap").

    The plain percentile interval is too narrow for few values, by the factor sqrt((n - 1) / n) and by taking the normal
    distribution's quantiles for Student's. This one takes percentiles further out, which corrects both for values that
    are normal: Phi(-t sqrt(n / (n - 1))) instead of (1 - confidence) / 2.

    Args:
        differences: at least two.
        confidence: of the interval.
        resamples: drawn from a fixed seed, so that the same values give the same interval.
    """
    x = _finite(differences)
    n = len(x)
    draws = np.random.default_rng(0).integers(0, n, (resamples, n))
    tail = scipy.special.ndtr(-_quantile(confidence, n) * math.sqrt(n / (n - 1)))
    low, high = np.quantile(x[draws].mean(1), [tail, 1 - tail])
    return float(low), float(high)


def hedges(effect: float, n: int) -> float | None:
    """A paired effect size without the bias of few seeds (Hedges 1981); None for less than three, where it has none.

    Args:
        effect: mean / standard deviation of the differences.
        n: how many.
    """
    if n < 3:
        return None
    freedom = n - 1
    log_gamma = scipy.special.gammaln
    return effect * math.exp(log_gamma(freedom / 2) - log_gamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)


def power(effect: float, n: int, alpha: float = 1 - CONFIDENCE) -> float:
    """How often the two-sided paired t test finds an effect with n seeds (noncentral t, Cohen 1988).

    Args:
        effect: mean / standard deviation of the differences, of all seeds that there could be.
        n: seeds, at least 2.
        alpha: its level.
    """
    critical = _quantile(1 - alpha, n)
    # The square of a noncentral t is a noncentral F, which has both tails at once.
    return float(1 - scipy.special.ncfdtr(1, n - 1, effect**2 * n, critical**2))


def seeds_needed(effect: float, target: float = POWER, alpha: float = 1 - CONFIDENCE) -> int | None:
    """The fewest seeds with which `power` reaches the target; None for no effect, or beyond `MOST_SEEDS`."""
    if effect == 0 or power(effect, MOST_SEEDS, alpha) < target:
        return None
    low, high = 1, 2  # more than low, at most high
    while power(effect, high, alpha) < target:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, alpha) >= target else (middle, high)
    return high


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down correction: of families read at 5% after it, at most 5% have a false discovery.

    Args:
        p_values: of the tests of one family; None is no test, stays None, and does not count.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


def outcome(difference: Difference, p_holm: float | None, lower_is_better: bool = True) -> Outcome:
    """What may be said: `untested` if there is no test, as with one seed."""
    if p_holm is None:
        return 'untested'
    if p_holm >= 1 - CONFIDENCE:
        return 'not distinguishable'
    return 'better' if (difference.mean < 0) == lower_is_better else 'worse'


def verdict(difference: Difference, p_holm: float | None, unit: str = '', lower_is_better: bool = True) -> str:
    """The outcome in words, with what it rests on; to be read after the arm's name.

    Args:
        difference: the arm less the base.
        p_holm: its p value after `holm`.
        unit: of what was measured.
        lower_is_better: whether less of it is better.
    """
    n, said = difference.n, outcome(difference, p_holm, lower_is_better)
    unit = f' {unit}' if unit else ''
    size = number(abs(difference.mean))
    way = 'lower' if difference.mean < 0 else 'higher'
    if n == 1:
        if difference.mean == 0:
            return 'equal to the base in the one seed there is'
        return f'{size}{unit} {way}, but one seed cannot tell a difference from noise'
    if difference.identical:
        return f'not distinguishable: equal to the base to the last bit in all {n} seeds'
    if said == 'untested':
        return (
            f'{size}{unit} {way} in each of {n} seeds by exactly the same amount: without any spread there is no '
            'interval and no test; look for what makes the seeds equal'
        )
    if said == 'not distinguishable':
        alone = (
            f'; alone it would have been, at p {p_text(difference.p_value)}'
            if difference.p_value < 1 - CONFIDENCE
            else ''
        )
        return f'not distinguishable with these {n} seeds (p Holm {p_text(p_holm)}{alone}); {_more_seeds(difference)}'
    low, high = sorted((abs(difference.low), abs(difference.high)))  # of one sign, as p is below 5%
    return f'{said} by {size}{unit} [{number(low)}, {number(high)}] (p Holm {p_text(p_holm)}, {n} seeds)'


def _more_seeds(difference: Difference) -> str:
    if difference.seeds_needed is None:
        if difference.n < 3:
            return 'at least 3 seeds are needed to say how many would be'
        return f'not even {MOST_SEEDS:,} seeds would be expected to show a difference of this size'
    return f'about {difference.seeds_needed:,} seeds would be needed to see a difference of this size'


def standard_error(values: Sequence[float]) -> float | None:
    """Of a mean over samples: standard deviation / sqrt(n); None for a single sample."""
    x = _finite(values)
    return float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else None


def ratio_error(numerators: Sequence[float], denominators: Sequence[float]) -> float | None:
    """Standard error of a ratio of sums, sum(a) / sum(b), over samples (Cochran 1977, section 2.11).

    Bits per byte is one: documents are drawn, not bytes, and a document's bytes go together.

    Args:
        numerators, denominators: one number per sample; the denominators' sum is positive.

    Returns:
        None for a single sample.
    """
    a, b = _finite(numerators), _finite(denominators)
    n = len(a)
    if n < 2:
        return None
    distance = a - a.sum() / b.sum() * b
    return float(math.sqrt(n / (n - 1) * np.sum(distance**2)) / b.sum())


def normal_quantile(confidence: float = CONFIDENCE) -> float:
    """How many standard errors an interval reaches to each side, of many samples: 1.96 for 95%."""
    return float(scipy.special.ndtri((1 + confidence) / 2))


def wilson_interval(successes: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """A rate with Wilson's (1927) score interval, which stays in [0, 1] and holds for few samples and rates of 0 and 1.

    Args:
        successes: of the n; a tie may count as half.
        n: samples, at least 1.
        confidence: of the interval.

    Raises:
        ValueError: unless 0 <= successes <= n and 1 <= n.
    """
    if not (n >= 1 and 0 <= successes <= n):
        raise ValueError(f'{successes} of {n} is no rate')
    z = normal_quantile(confidence)
    rate = successes / n
    middle = (rate + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    return Interval(rate, max(0.0, middle - half), min(1.0, middle + half))


def number(value: float) -> str:
    """A measure with four decimals, or more for what would be 0 then."""
    return f'{value:.4f}' if value == 0 or abs(value) >= 5e-4 else f'{value:.2g}'


def p_text(p: float) -> str:
    return '< 0.001' if p < 0.001 else f'= {p:.3f}' if p < 0.1 else f'= {p:.2f}'


def _quantile(confidence: float, n: int) -> float:
    """Student's t for a two-sided interval over n values."""
    return float(scipy.special.stdtrit(n - 1, (1 + confidence) / 2))


def _finite(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or not len(x) or not np.isfinite(x).all():
        raise ValueError(f'statistics need at least one finite number, not {values!r}')
    return x
