"""What every objective on responses promises: rows are judged by their lengths, each by itself, and sums add up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import DPO, GRPO, PPO, RLOO, ModelConfig, RewardModel, RolloutConfig
from llm.model import Transformer
from llm.objectives import dpo, log_probs, policy, reward_model

SMALL = ModelConfig(vocab_size=13, context_length=10, num_layers=1, width=8, num_heads=2, feed_forward_width=16)
ROWS, LENGTH, ROLLOUT = 3, 10, RolloutConfig(max_new_tokens=6, temperature=0.7)
QUICK = {'xla_backend_optimization_level': 0}
OBJECTIVES = {
    'dpo': (dpo, DPO(beta=0.5)),
    'ipo': (dpo, DPO(loss='ipo', beta=0.5)),
    'reward_model': (reward_model, RewardModel(margin_scale=0.5, centring=0.1)),
    'ppo': (policy, PPO(rollout=ROLLOUT, value_coefficient=0.5)),
    'grpo': (policy, GRPO(rollout=ROLLOUT, loss='grpo', kl_coefficient=0.1)),
    'dapo': (policy, GRPO(rollout=ROLLOUT, loss='dapo', kl_coefficient=0.1, kl_estimator='k2')),
    'rloo': (policy, RLOO(rollout=ROLLOUT)),
}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


@functools.cache
def random_params():
    init = lambda: Transformer(SMALL).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    shapes = jax.eval_shape(init)
    shapes |= {name: {'kernel': jax.ShapeDtypeStruct((8, 1), jnp.float32)} for name in ('reward_head', 'value_head')}
    draw = np.random.default_rng(0)
    # The first call may come from within a trace, which must not keep a tracer here.
    with jax.ensure_compile_time_eval():
        return jax.tree.map(lambda leaf: jnp.asarray(draw.normal(0.2, 0.4, leaf.shape), leaf.dtype), shapes)


@functools.partial(jax.jit, compiler_options=QUICK)
def score(tokens):
    return log_probs.token_log_probs(Transformer(SMALL), random_params(), tokens, ROLLOUT.temperature).logprobs


def random_batch(name: str) -> dict:
    """Rows whose responses end before the row does; `dapo`'s normaliser; numbers also where no response is."""
    draw = np.random.default_rng(1)
    responses = {dpo: (2,), reward_model: (3,), policy: ()}[OBJECTIVES[name][0]]
    shape = (ROWS, *responses)
    prompt_lengths = np.full(shape, 2) + np.arange(ROWS).reshape(ROWS, *(1,) * len(responses))
    batch = {
        'tokens': draw.integers(0, SMALL.vocab_size, (*shape, LENGTH)).astype(np.int32),
        'prompt_lengths': prompt_lengths.astype(np.int32),
        'lengths': (prompt_lengths + draw.integers(1, 5, shape)).astype(np.int32),
    }
    if name == 'reward_model':
        batch['lengths'][1, 2] = 0  # a shorter ranking
        batch['scores'] = np.array([[1, 0.5, 0], [0, 2, 5], [1, 1, 3]], np.float32)
    elif responses:
        batch['reference_logprobs'] = draw.normal(-5, 1, shape).astype(np.float32)
    else:
        per_token = ('reference_logprobs', 'old_values', 'returns', 'advantages')
        batch |= {column: draw.normal(-1, 1, (ROWS, LENGTH)).astype(np.float32) for column in per_token}
        # Near the policy's, so that there are ratios on both sides of the clip.
        batch['old_logprobs'] = score(batch['tokens']) + draw.normal(0, 0.2, (ROWS, LENGTH)).astype(np.float32)
        batch['row_tokens'] = np.full(ROWS, 2.5, np.float32)
    return {column: jnp.asarray(x) for column, x in batch.items()}


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def sums(name: str, params, batch):
    """Loss sum, (weight, metrics), gradient of the sum."""
    module, config = OBJECTIVES[name]
    loss = module.make_loss(config, Transformer(SMALL), module.hyperparameters(config))

    def summed(params):
        total, weight, metrics = loss(params, batch, None)
        return total, (weight, metrics)

    (total, rest), gradient = jax.value_and_grad(summed, has_aux=True)(params)
    return total, rest, gradient


def assert_equal(a, b):
    jax.tree.map(npt.assert_array_equal, a, b)


@pytest.mark.parametrize('name', OBJECTIVES)
def test_what_follows_the_response_changes_not_a_bit(name):
    """Neither tokens nor, in RL, numbers, be they infinite or none at all."""
    batch, params = random_batch(name), random_params()
    expected = sums(name, params, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(expected[2]))
    steps = np.arange(LENGTH)
    after = steps >= np.asarray(batch['lengths'])[..., None]
    outside = after | (steps < np.asarray(batch['prompt_lengths'])[..., None])
    other = batch | {'tokens': jnp.where(after, (batch['tokens'] + 3) % SMALL.vocab_size, batch['tokens'])}
    for column, nonsense in (('advantages', np.nan), ('old_logprobs', -np.inf), ('reference_logprobs', 1e30)):
        if column in batch and batch[column].shape == outside.shape:
            other[column] = jnp.where(outside, jnp.float32(nonsense), batch[column])
    assert_equal(sums(name, params, other), expected)
    inside = batch | {'tokens': batch['tokens'].at[0, ..., 2].set((batch['tokens'][0, ..., 2] + 1) % SMALL.vocab_size)}
    assert float(sums(name, params, inside)[0]) != float(expected[0])


@pytest.mark.parametrize('name', OBJECTIVES)
def test_a_batch_is_the_sum_of_its_rows_one_at_a_time_and_padding_counts_for_nothing(name):
    batch, params = random_batch(name), random_params()
    whole = sums(name, params, batch)
    alone = lambda row: jax.tree.map(
        lambda x: jnp.concatenate([x[row : row + 1], jnp.zeros((ROWS - 1, *x.shape[1:]), x.dtype)]), batch
    )
    added = functools.reduce(
        functools.partial(jax.tree.map, jnp.add), [sums(name, params, alone(row)) for row in range(ROWS)]
    )
    jax.tree.map(functools.partial(npt.assert_allclose, rtol=1e-4, atol=1e-5), whole, added)
    assert float(whole[1][0]) > 0
