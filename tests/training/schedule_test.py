"""Learning-rate factors at points computed by hand from the definitions. Updates are numbered from 1."""

import math

import jax
import numpy.testing as npt
import pytest

from llm.config import Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay
from llm.training.schedule import learning_rate_factor

POINTS = [
    # Warm-up is s / warmup; update `warmup` has the peak.
    (Constant(warmup=4), {1: 0.25, 2: 0.5, 3: 0.75, 4: 1, 5: 1, 10**6: 1}),
    (Constant(warmup=0), {1: 1, 2: 1}),
    (Constant(warmup=1), {1: 1, 2: 1}),
    # A straight line from the peak at update 4 to the final value at update 12.
    (Linear(horizon=12, warmup=4, final_fraction=0.2), {1: 0.25, 4: 1, 6: 0.8, 8: 0.6, 11: 0.3, 12: 0.2, 99: 0.2}),
    (Linear(horizon=5, warmup=0, final_fraction=0.0), {1: 0.8, 4: 0.2, 5: 0, 6: 0}),
    # Halfway down the cosine is halfway down; a quarter of the way is (1 + cos 45°) / 2 of it.
    (
        Cosine(horizon=12, warmup=4, final_fraction=0.2),
        {2: 0.5, 4: 1, 6: 0.2 + 0.8 * (2 + math.sqrt(2)) / 4, 8: 0.6, 10: 0.2 + 0.8 * (2 - math.sqrt(2)) / 4, 12: 0.2},
    ),
    (Cosine(horizon=12, warmup=4, final_fraction=0.2), {13: 0.2, 24: 0.2}),  # it does not rise again
    (Cosine(horizon=4, warmup=0, final_fraction=0.0), {1: (2 + math.sqrt(2)) / 4, 2: 0.5, 4: 0}),
    (
        WarmupStableDecay(horizon=20, warmup=5, decay=4, final_fraction=0.1),
        {1: 0.2, 5: 1, 10: 1, 16: 1, 17: 0.775, 18: 0.55, 19: 0.325, 20: 0.1, 21: 0.1},
    ),
    (WarmupStableDecay(horizon=9, warmup=5, decay=4, final_fraction=0.0), {4: 0.8, 5: 1, 6: 0.75, 9: 0}),
    (WarmupStableDecay(horizon=9, warmup=2, decay=0, final_fraction=0.5), {8: 1, 9: 0.5, 10: 0.5}),
    # Vaswani et al. 2017: the peak times sqrt(warmup / s).
    (InverseSquareRoot(warmup=4), {1: 0.25, 4: 1, 9: 2 / 3, 16: 0.5, 400: 0.1}),
]


@pytest.mark.parametrize('schedule, points', POINTS)
def test_factor_at_points_computed_by_hand(schedule, points):
    factor = jax.jit(lambda update: learning_rate_factor(schedule, update))
    for update, expected in points.items():
        npt.assert_allclose(factor(update), expected, rtol=2e-6, atol=1e-7, err_msg=f'update {update}')


@pytest.mark.parametrize('schedule', [schedule for schedule, _ in POINTS])
def test_factor_is_a_float32_between_zero_and_one(schedule):
    for update in (1, 3, 7, 12, 1000, 2**31 - 1):
        factor = learning_rate_factor(schedule, update)
        assert factor.dtype == 'float32'
        assert factor.shape == ()
        assert 0 <= factor <= 1
