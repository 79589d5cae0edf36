"""The policy losses by exact enumeration of every response, and PPO's by its definition."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import GRPO, PPO, RLOO, ModelConfig, RolloutConfig
from llm.model import Transformer
from llm.model.initializers import head_kernel
from llm.objectives import log_probs, policy

EOS, VOCABULARY, LONGEST = 3, 4, 3
TINY = ModelConfig(vocab_size=VOCABULARY, context_length=5, num_layers=1, width=8, num_heads=2, feed_forward_width=8)
MODEL = Transformer(TINY)
ROLLOUT = RolloutConfig(max_new_tokens=LONGEST, temperature=0.7)
quick_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@functools.cache
def random_params():
    shapes = jax.eval_shape(lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params'])
    shapes |= {'value_head': {'kernel': jax.ShapeDtypeStruct((8, 1), jnp.float32)}}
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0.2, 0.5, leaf.shape), leaf.dtype), shapes)


def every_response() -> dict:
    """Each response to one prompt of two tokens: it ends with EOS or with its third token."""
    responses = [
        response
        for length in range(1, LONGEST + 1)
        for response in itertools.product(range(VOCABULARY), repeat=length)
        if EOS not in response[:-1] and (response[-1] == EOS or length == LONGEST)
    ]
    tokens = np.zeros((len(responses), 2 + LONGEST), np.int32)
    tokens[:, :2] = 1, 2
    for row, response in enumerate(responses):
        tokens[row, 2 : 2 + len(response)] = response
    lengths = jnp.array([2 + len(response) for response in responses], jnp.int32)
    return {'tokens': jnp.asarray(tokens), 'prompt_lengths': jnp.full_like(lengths, 2), 'lengths': lengths}


ALL = every_response()
MASK = log_probs.response_mask(ALL['prompt_lengths'], ALL['lengths'], ALL['tokens'].shape[1])
REWARD = jnp.asarray(np.random.default_rng(1).normal(size=len(MASK)), jnp.float32)


@quick_jit
def exact(params):
    """Expected reward with its gradient, the log-probabilities of tokens, and those of responses."""

    def expected_reward(params):
        logprobs = log_probs.token_log_probs(MODEL, params, ALL['tokens'], ROLLOUT.temperature).logprobs
        whole = log_probs.masked_sum(logprobs, MASK)
        return jnp.sum(jnp.exp(whole) * REWARD), (logprobs, whole)

    (value, (logprobs, whole)), gradient = jax.value_and_grad(expected_reward, has_aux=True)(params)
    return value, gradient, logprobs, whole


def gradient_of_sum(config, params, batch):
    loss = policy.make_loss(config, MODEL, policy.hyperparameters(config))
    return quick_jit(jax.grad(lambda params: loss(params, batch, None)[0]))(params)


def test_the_responses_probabilities_add_up_to_one():
    assert len(MASK) == 1 + 3 + 9 * 4
    npt.assert_allclose(np.exp(exact(random_params())[3]).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ('config', 'factor'),
    [
        (PPO(rollout=ROLLOUT, value_coefficient=0.0), 1),
        (GRPO(rollout=ROLLOUT, loss='bnpo'), 1),
        (GRPO(rollout=ROLLOUT, loss='dr_grpo'), 1 / LONGEST),
        (RLOO(rollout=ROLLOUT), 1),
    ],
    ids=['ppo', 'bnpo', 'dr_grpo', 'rloo'],
)
def test_from_the_policys_own_responses_the_gradient_is_that_of_the_expected_reward(config, factor):
    """Every response once, its advantage the reward times how often it is drawn."""
    params = random_params()
    _, gradient, logprobs, whole = exact(params)
    advantages = jnp.where(MASK, (jnp.exp(whole) * REWARD)[:, None], 0.0)
    no_values = {name: jnp.zeros(MASK.shape) for name in ('old_values', 'returns')}
    found = gradient_of_sum(config, params, ALL | {'advantages': advantages, 'old_logprobs': logprobs} | no_values)
    jax.tree.map(lambda f, g: npt.assert_allclose(f, -factor * g, rtol=1e-3, atol=1e-5), found, gradient)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0.01


@pytest.mark.parametrize('value_clip', [0.2, None])
def test_ppo_by_its_definition(value_clip):
    """Token by token in NumPy, with ratios and values on both sides of their clips."""
    config = PPO(rollout=ROLLOUT, clip=0.3, value_clip=value_clip, value_coefficient=0.7)
    params, draw = random_params(), np.random.default_rng(2)
    scored = quick_jit(lambda p: log_probs.token_log_probs(MODEL, p, ALL['tokens'], ROLLOUT.temperature))(params)
    logprobs, hidden = np.asarray(scored.logprobs), np.asarray(scored.hidden)
    kernel = np.asarray(params['value_head']['kernel'])[:, 0]
    old = logprobs + draw.normal(0, 0.4, logprobs.shape).astype(np.float32)
    values = np.pad(hidden[:, :-1] @ kernel, ((0, 0), (1, 0)))
    old_values = values + draw.normal(0, 0.4, values.shape).astype(np.float32)
    advantages, returns = draw.normal(size=(2, *values.shape)).astype(np.float32)
    total = value_total = clipped = value_clipped = approximate_kl = 0.0
    for at in zip(*np.nonzero(np.asarray(MASK))):
        ratio, advantage = np.exp(logprobs[at] - old[at]), advantages[at]
        total += max(-ratio * advantage, -min(max(ratio, 0.7), 1.3) * advantage)
        clipped += (ratio > 1.3 and advantage > 0) or (ratio < 0.7 and advantage < 0)
        approximate_kl += (logprobs[at] - old[at]) ** 2 / 2
        plain = held = (values[at] - returns[at]) ** 2
        if value_clip is not None:
            near = min(max(values[at], old_values[at] - value_clip), old_values[at] + value_clip)
            held = (near - returns[at]) ** 2
        value_total += max(plain, held) / 2
        value_clipped += held > plain
    names = {'advantages': advantages, 'old_logprobs': old, 'old_values': old_values, 'returns': returns}
    batch = ALL | {name: jnp.asarray(x, jnp.float32) for name, x in names.items()}
    loss = policy.make_loss(config, MODEL, policy.hyperparameters(config))
    found, weight, metrics = quick_jit(lambda params: loss(params, batch, None))(params)
    npt.assert_allclose(found, total + 0.7 * value_total, rtol=1e-4)
    expected = {'clip_ratio': clipped, 'policy/approxkl': approximate_kl, 'value/loss': value_total}
    expected |= {'value/clipfrac': value_clipped, 'loss': found}
    assert float(weight) == MASK.sum() and 0 < clipped < weight and (value_clip is None or 0 < value_clipped < weight)
    for name, value in expected.items():
        npt.assert_allclose(metrics[name][0], value, rtol=1e-4, err_msg=name)
        assert float(metrics[name][1]) == float(weight)


def test_a_clipped_ratio_has_no_gradient_where_moving_on_would_be_rewarded():
    ratio = jnp.array([0.5, 0.5, 1.0, 2.0, 2.0])
    advantages = jnp.array([1.0, -1.0, 1.0, 1.0, -1.0])
    losses = lambda ratio: policy.clipped_losses(ratio, advantages, jnp.float32(0.2), jnp.float32(0.3))
    npt.assert_allclose(losses(ratio)[0], [-0.5, 0.8, -1, -1.3, 2], rtol=1e-6)
    npt.assert_array_equal(losses(ratio)[1], [False, True, False, True, False])
    npt.assert_allclose(jax.grad(lambda r: jnp.sum(losses(r)[0]))(ratio), [-1, 0, -1, 0, 1], rtol=1e-6)


def test_a_value_is_that_of_the_state_before_its_token():
    params, tokens = random_params(), jnp.array([[1, 2, 0, 1, 0], [1, 2, 3, 1, 0]], jnp.int32)
    hidden = quick_jit(lambda params: MODEL.apply({'params': params}, tokens, with_logits=False).hidden)(params)
    values = np.asarray(policy.token_values(params, hidden))
    npt.assert_allclose(values[0, :3], values[1, :3], rtol=1e-6)  # the rows differ from token 2 on
    assert values[0, 0] == 0 and abs(values[0, 3] - values[1, 3]) > 1e-3
    start = params | {'value_head': {'kernel': head_kernel(MODEL.config, jax.random.key(0), 'value_head')}}
    npt.assert_array_equal(policy.token_values(start, hidden), 0)


@pytest.mark.parametrize('config', [GRPO(rollout=ROLLOUT), RLOO(rollout=ROLLOUT)], ids=['grpo', 'rloo'])
def test_without_old_log_probabilities_the_policys_own_are_the_old_ones(config):
    params, draw = random_params(), np.random.default_rng(3)
    logprobs = exact(params)[2]
    advantages = jnp.broadcast_to(jnp.asarray(draw.normal(size=(len(MASK), 1)), jnp.float32), MASK.shape)
    batch = ALL | {'advantages': advantages, 'row_tokens': jnp.full(len(MASK), 2.5)}
    with_old = gradient_of_sum(config, params, batch | {'old_logprobs': logprobs})
    jax.tree.map(
        functools.partial(npt.assert_allclose, rtol=1e-4, atol=1e-5), gradient_of_sum(config, params, batch), with_old
    )
    loss = policy.make_loss(config, MODEL, policy.hyperparameters(config))
    sampled = jnp.where(MASK, logprobs, 7.0).at[5, 3].add(0.25)
    _, _, metrics = quick_jit(lambda params: loss(params, batch | {'sampler_logprobs': sampled}, None))(params)
    assert bool(MASK[5, 3]) and float(metrics['sampler_logp_gap'][0]) == pytest.approx(0.25, abs=1e-5)
    assert float(metrics['val/ratio'][0]) == float(metrics['val/ratio'][1])
