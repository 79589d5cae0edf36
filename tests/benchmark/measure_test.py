import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.benchmark import measure, program
from llm.errors import MachineError

SLEEP = 0.02


def slow(x):
    """Returns at once; its result takes SLEEP seconds, as on a device."""

    def wait(x):
        time.sleep(SLEEP)
        return np.asarray(x) + 1

    return jax.pure_callback(wait, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def test_a_time_ends_when_the_outputs_are_there():
    call = jax.jit(slow)
    timing = measure.measure(call, lambda i: (jnp.full(4, float(i)),), repeats=3, warmup=1)
    assert min(timing.seconds) >= SLEEP
    assert timing.first_call >= min(timing.seconds)


def test_a_time_waits_for_every_output_and_not_only_the_first():
    call = jax.jit(lambda x: {'quick': x, 'slow': (slow(x),)})
    timing = measure.measure(call, lambda i: (jnp.full(4, float(i)),), repeats=3, warmup=1)
    assert min(timing.seconds) >= SLEEP


def test_making_the_inputs_is_not_timed():
    def inputs(i):
        time.sleep(0.05)
        return (slow(jnp.full(4, float(i))),)

    assert max(measure.measure(jax.jit(jnp.square), inputs, repeats=3).seconds) < 0.05


def test_every_repeat_has_inputs_of_its_own():
    seen = []

    def call(x):
        seen.append(float(x[0]))
        return x

    measure.measure(call, lambda i: (jnp.full(2, float(i)),), repeats=5, warmup=3)
    assert len(seen) == len(set(seen)) == 8


def test_a_donated_state_is_carried_from_call_to_call():
    call = jax.jit(lambda state, x: (state + 1, x * 2), donate_argnums=0)
    seen = []

    def keep(state, x):
        seen.append(int(state))
        return call(state, x)

    measure.measure(keep, lambda i: (jnp.ones(2),), repeats=4, warmup=2, carry=jnp.zeros((), jnp.int32))
    assert seen == list(range(6))


@pytest.mark.parametrize('call', [lambda x: None, lambda x: {'loss': 1.0}, lambda x: x * jnp.nan])
def test_what_returns_nothing_to_wait_for_is_refused(call):
    with pytest.raises(MachineError, match=r'no array|not finite'):
        measure.measure(call, lambda i: (jnp.ones(2),), repeats=1)


def test_an_interval_contains_the_median_and_narrows_with_repeats():
    random = np.random.default_rng(0)
    widths = []
    for repeats in (5, 50, 500):
        times = measure.summary(1 + random.exponential(size=repeats))
        assert times['min'] <= times['low'] <= times['median'] <= times['high'] <= times['max']
        assert times['quartile_1'] <= times['median'] <= times['quartile_3']
        widths.append(times['high'] - times['low'])
    assert widths == sorted(widths, reverse=True)


def test_intervals_of_the_median_cover_it_about_95_times_in_100():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        times = measure.summary(random.normal(size=25))
        hits += times['low'] <= 0 <= times['high']
    assert 180 <= hits <= 200


def test_a_ratio_of_equals_is_1_and_of_halves_is_2():
    seconds = list(1 + np.random.default_rng(2).uniform(0, 0.1, 20))
    point, low, high = measure.ratio(seconds, seconds)
    assert point == 1
    assert 0.95 < low <= 1 <= high < 1.05
    point, low, high = measure.ratio(seconds, [s / 2 for s in seconds])
    assert low > 1.9 and high < 2.1 and abs(point - 2) < 1e-9


def test_a_loop_is_counted_once_and_unrolled_every_time():
    rounds, size = 5, 32
    function = lambda x, kernels: jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]
    arguments = jnp.ones((size, size)), jnp.full((rounds, size, size), 0.01)
    once = program.cost(program.build(jax.jit(function), *arguments).compiled)['flops']
    every = program.cost(program.build(jax.jit(program.unrolled(function)), *arguments).compiled)['flops']
    assert every == rounds * 2 * size**3
    assert once < every / 2
    np.testing.assert_allclose(program.unrolled(function)(*arguments), function(*arguments), rtol=1e-6)
