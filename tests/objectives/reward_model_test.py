"""Rankings become all their pairs, and calibration is measured as it is defined."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import ModelConfig, RewardModel
from llm.model import Transformer
from llm.model.initializers import head_kernel
from llm.objectives import reward_model

SMALL = ModelConfig(vocab_size=13, context_length=6, num_layers=1, width=8, num_heads=2, feed_forward_width=16)
MODEL = Transformer(SMALL)
quick_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@functools.cache
def random_params():
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params'])
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0.2, 0.5, leaf.shape), leaf.dtype), shapes)
    return params | {'reward_head': {'kernel': head_kernel(SMALL, jax.random.key(1), 'reward_head')}}


def ranking(responses: int, scores) -> dict:
    draw = np.random.default_rng(1)
    return {
        'tokens': jnp.asarray(draw.integers(0, 13, (1, responses, 6)), jnp.int32),
        'lengths': jnp.asarray(draw.integers(2, 7, (1, responses)), jnp.int32),
        'scores': jnp.asarray([scores], jnp.float32),
    }


def loss_of(config, batch):
    loss = reward_model.make_loss(config, MODEL, reward_model.hyperparameters(config))
    return quick_jit(lambda params: loss(params, batch, None))(random_params())


def test_a_ranking_of_four_is_its_six_pairs():
    config = RewardModel(margin_scale=0.5, centring=0.1)
    batch = ranking(4, [0.5, 3.0, -1.0, 2.0])
    total, weight, metrics = loss_of(config, batch)
    assert float(weight) == 6 and float(metrics['mean_reward'][1]) == 4
    best_first = [1, 3, 0, 2]
    pairs = [
        {name: x[:, pair] for name, x in batch.items()}
        for pair in map(jnp.array, itertools.combinations(best_first, 2))
    ]
    joined = {name: jnp.concatenate([pair[name] for pair in pairs]) for name in batch}
    pair_total, pair_weight, pair_metrics = loss_of(config, joined)
    npt.assert_allclose(total, pair_total, rtol=1e-5)
    assert float(pair_weight) == 6
    for name in ('accuracy', 'margin'):
        npt.assert_allclose(metrics[name][0], pair_metrics[name][0], rtol=1e-4, err_msg=name)


def test_equal_scores_and_absent_responses_make_no_pairs():
    batch = ranking(4, [1.0, 1.0, 0.0, 5.0])
    batch['lengths'] = batch['lengths'].at[0, 3].set(0)
    total, weight, metrics = loss_of(RewardModel(), batch)
    assert float(weight) == 2 and float(metrics['mean_reward'][1]) == 3
    none = loss_of(RewardModel(), ranking(3, [1.0, 1.0, 1.0]))
    assert float(none[0]) == float(none[1]) == 0 < float(total)


def test_the_margin_is_asked_for_on_top():
    batch = ranking(2, [2.0, 0.0])
    reward = quick_jit(functools.partial(reward_model.rewards, MODEL))(
        random_params(), batch['tokens'][0], batch['lengths'][0]
    )
    difference = float(reward[0] - reward[1])
    for scale in (0.0, 0.7):
        total, _, _ = loss_of(RewardModel(margin_scale=scale), batch)
        assert float(total) == pytest.approx(np.log1p(np.exp(-(difference - scale * 2.0))), rel=1e-5)


def test_calibration_is_perfect_where_confidence_is_how_often_it_is_right():
    draw = np.random.default_rng(0)
    true = draw.normal(0, 2, 100_000)
    first_wins = draw.random(true.size) < 1 / (1 + np.exp(-true))
    margins = np.where(first_wins, true, -true)  # of the winner over the loser, as the model sees them
    assert reward_model.calibration_error(margins) < 0.01
    assert reward_model.calibration_error(3 * margins) > 0.1  # too sure of itself
    assert reward_model.calibration_error(0.2 * margins) > 0.1  # too timid
    assert reward_model.calibration_error(np.zeros(5)) == 0  # knows nothing, claims nothing
    with pytest.raises(ValueError, match='no pairs'):
        reward_model.calibration_error(np.zeros(0))


def test_calibration_error_worked_by_hand():
    logit = lambda p: np.log(p / (1 - p))
    margins = np.array([logit(0.9), logit(0.9), -logit(0.9), logit(0.6)])  # right, right, wrong; right
    expected = (3 * abs(2 / 3 - 0.9) + 1 * abs(1 - 0.6)) / 4
    assert reward_model.calibration_error(margins, bins=5) == pytest.approx(expected)


def test_the_summary_of_a_ranking():
    reward, scores = np.array([[1.0, 3.0, 2.0], [5.0, 0.0, 9.0]]), np.array([[2.0, 1.0, 0.0], [1.0, 0.0, 7.0]])
    said = reward_model.summary(reward, scores, np.array([[4, 4, 4], [4, 4, 0]]))
    assert said['accuracy'] == pytest.approx(2 / 4)  # 3 over 2 and 5 over 0, but 1 is under both
    assert said['margin'] == pytest.approx((-2 - 1 + 1 + 5) / 4)
    assert (said['min_reward'], said['mean_reward'], said['max_reward']) == (0, pytest.approx(11 / 5), 5)
