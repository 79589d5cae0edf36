"""The one way this package takes a time, and what may be said of several of them."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm.errors import MachineError

RESAMPLES = 2000  # of the bootstrap
REPEAT_SECONDS = 0.02  # on an accelerator, calls follow each other for at least so long before the clock is read
MOST_CALLS = 20  # in one repeat


class Timing(NamedTuple):
    """Repeated times of one thing.

    Attributes:
        seconds: of one call, from each repeat; warm-up left out.
        first_call: seconds of the very first call, a compilation included if there was one.
        calls: how many calls each repeat ran before it waited; its time is divided by them.
    """

    seconds: list[float]
    first_call: float
    calls: int


def measure(
    call: Callable[..., Any],
    inputs: Callable[[int], tuple],
    *,
    repeats: int,
    warmup: int = 2,
    carry: Any = None,
    most_calls: int = MOST_CALLS,
) -> Timing:
    """Times `call(*inputs(i))`, or with a carry `carry, outputs = call(carry, *inputs(i))`.

    Each repeat gets inputs of its own, complete on the device before the clock starts, and ends when every array that
    the call returned is there. All outputs are held until then, and afterwards checked to be finite numbers, so nothing
    that was timed can have been dead code. On an accelerator, calls shorter than `REPEAT_SECONDS` are dispatched
    several at a time, as a loop that never waits does; on a CPU, where dispatch is cheap and calls could overlap, one.

    Args:
        call: returns arrays. What it donates must be in the carry, or `most_calls` be 1.
        inputs: makes fresh arguments from the number of the repeat.
        repeats: times to take, at least 1.
        warmup: calls before the first, at least 1.
        carry: handed from one call to the next, such as a training state that is donated.
        most_calls: dispatched in one repeat.

    Raises:
        MachineError: if the call returns no array, or one that is not finite.
    """
    stateful = carry is not None

    def run(arguments, count):
        """One repeat: (seconds per call, outputs)."""
        nonlocal carry
        arguments = jax.block_until_ready(arguments)
        held = []
        start = time.perf_counter()
        for _ in range(count):
            outputs = call(carry, *arguments) if stateful else call(*arguments)
            if stateful:
                carry, outputs = outputs
            held.append(outputs)
        jax.block_until_ready((held, carry))
        return (time.perf_counter() - start) / count, held[-1]

    if stateful:
        carry = jax.block_until_ready(carry)
    first, outputs = run(inputs(0), 1)
    single = first
    for i in range(1, max(warmup, 1)):
        single, outputs = run(inputs(i), 1)
    calls = 1
    if jax.default_backend() != 'cpu':
        calls = min(max(math.ceil(REPEAT_SECONDS / single), 1), most_calls)
        run(inputs(warmup), calls)
    seconds = []
    for i in range(repeats):
        took, outputs = run(inputs(warmup + 1 + i), calls)
        seconds.append(took)
    check_alive((outputs, carry))
    return Timing(seconds, first, calls)


def check_alive(outputs: Any) -> None:
    """Raises MachineError unless there are outputs, each of them numbers and, if floating, finite ones."""
    arrays = [x for x in jax.tree.leaves(outputs) if isinstance(x, jax.Array)]
    if not arrays:
        raise MachineError('what was timed returns no array: there is nothing to wait for')
    floating = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    for x, good in zip(floating, _finite(floating)):
        if not good:
            raise MachineError(f'what was timed returned numbers that are not finite, in an array of shape {x.shape}')


@jax.jit
def _finite(arrays: list[jax.Array]) -> list[jax.Array]:
    return [jnp.all(jnp.isfinite(x)) for x in arrays]


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median with its bootstrap 95% interval (`low`, `high`), extremes, and quartiles of repeated times."""
    values = np.asarray(seconds, np.float64)
    low, high = interval(np.median(_resampled(values), axis=1))
    quartile_1, median, quartile_3 = np.quantile(values, (0.25, 0.5, 0.75))
    return {
        'median': float(median),
        'low': min(low, float(median)),
        'high': max(high, float(median)),
        'min': float(values.min()),
        'max': float(values.max()),
        'quartile_1': float(quartile_1),
        'quartile_3': float(quartile_3),
        'repeats': len(values),
    }


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """The ratio of two medians, and its bootstrap 95% interval when both are resampled."""
    a, b = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    point = float(np.median(a) / np.median(b))
    low, high = interval(np.median(_resampled(a, 1), axis=1) / np.median(_resampled(b, 2), axis=1))
    return point, min(low, point), max(high, point)


def interval(values: np.ndarray) -> tuple[float, float]:
    """The middle 95%."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def _resampled(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Samples with replacement, (RESAMPLES, values); the same ones for the same input."""
    return np.random.default_rng(seed).choice(values, (RESAMPLES, len(values)))
