"""A language so small that its best policy is known: every method is held to it.

Six tokens, responses of at most four: 781 of them. With a reward r, a reference policy and a strength b of the pull
back to it, the best policy is the reference x exp(r / b) / Z, and its objective J = E[r] - b KL is b log Z.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import (
    DPO,
    GRPO,
    PPO,
    RLOO,
    AdamW,
    Config,
    Cosine,
    DataConfig,
    ModelConfig,
    RewardConfig,
    RolloutConfig,
    TrainingConfig,
)
from llm.inference import best_of_n
from llm.model import Transformer
from llm.objectives import dpo
from llm.objectives.log_probs import masked_sum, response_mask, token_log_probs
from llm.tokenizer import BOS, EOS
from llm.training.policy_update import make_rollout, make_update
from llm.training.train_state import initial_model, state_from_params
from llm.training.train_step import apply_gradients, hyperparameters, summed_gradients

VOCABULARY, NEW, BETA = 6, 4, 0.3
MODEL = ModelConfig(
    vocab_size=VOCABULARY, context_length=1 + NEW, num_layers=1, width=32, num_heads=2, tied_embeddings=False
)


def all_responses():
    others = [token for token in range(VOCABULARY) if token != EOS]
    ended = [(*body, EOS) for size in range(NEW) for body in itertools.product(others, repeat=size)]
    return [*ended, *itertools.product(others, repeat=NEW)]


RESPONSES = all_responses()
LENGTHS = np.array([1 + len(response) for response in RESPONSES], np.int32)
ROWS = np.array([[BOS, *response, *[0] * (NEW - len(response))] for response in RESPONSES], np.int32)
CODES = VOCABULARY ** np.arange(1 + NEW)


def reward_of(response):
    """Threes and fours in turn are good, fives are bad, ending is good; and a part that nothing explains."""
    turns = sum({a, b} == {3, 4} for a, b in itertools.pairwise(response))
    noise = np.random.default_rng([1, *response]).normal()
    return turns - 0.5 * response.count(5) + 0.5 * (response[-1] == EOS) + 0.2 * noise


REWARDS = np.array([reward_of(response) for response in RESPONSES])


def place_of(tokens, lengths):
    """Which of all responses each row is."""
    padded = jnp.where(jnp.arange(1 + NEW) < lengths[:, None], tokens, 0)
    codes = padded @ jnp.array(CODES) * NEW + lengths - 2
    known = (ROWS @ CODES) * NEW + LENGTHS - 2
    order = np.argsort(known)
    return jnp.array(order)[jnp.searchsorted(jnp.array(known[order]), codes)]


@jax.jit
def log_probabilities(params):
    """Of all responses."""
    mask = response_mask(jnp.ones_like(LENGTHS), jnp.array(LENGTHS), 1 + NEW)
    return masked_sum(token_log_probs(Transformer(MODEL), params, jnp.array(ROWS)).logprobs, mask)


@pytest.fixture(scope='module')
def reference():
    """Parameters of a policy that has learned nothing, and the log-probabilities of all responses."""
    params = jax.jit(functools.partial(initial_model, MODEL))(5)
    log_reference = np.asarray(log_probabilities(params), np.float64)
    assert abs(np.exp(log_reference).sum() - 1) < 1e-5
    return params, log_reference


def best_policy(log_reference, beta):
    """Log-probabilities of the best policy, and its objective."""
    best = log_reference + REWARDS / beta
    log_z = np.logaddexp.reduce(best)
    return best - log_z, beta * log_z


def objective(log_policy, log_reference, beta):
    log_policy = np.asarray(log_policy, np.float64)
    return np.sum(np.exp(log_policy) * (REWARDS - beta * (log_policy - log_reference)))


REWARD = RewardConfig(function='oracle:reward')


def config(objective, prompts, steps, learning_rate):
    return Config(
        model=MODEL,
        data=DataConfig(sequence_length=1 + NEW),
        objective=objective,
        optimizer=AdamW(learning_rate=learning_rate, weight_decay=0.0),
        schedule=Cosine(horizon=steps, warmup=2),
        training=TrainingConfig(steps=steps, batch_size=prompts),
    )


def improve(config, params):
    """All steps of a run in one program: `PolicyStep`'s rollout and update, the true reward between them."""
    draw, update = make_rollout(config), make_update(config)
    prompts = config.training.batch_size
    batch = {'prompts': jnp.full((prompts, 1), BOS, jnp.int32), 'prompt_lengths': jnp.ones((prompts,), jnp.int32)}
    rewards = jnp.array(REWARDS, jnp.float32)
    hyper = hyperparameters(config)

    def step(state, _):
        rolled = draw(state, batch, hyper)
        return update(state, rolled, rewards[place_of(rolled.tokens, rolled.lengths)], hyper)

    run = jax.jit(lambda params: jax.lax.scan(step, state_from_params(config, params, 0), None, config.training.steps))
    state, metrics = run(params)
    return state.params, jax.device_get(metrics)


METHODS = {
    'ppo': (
        PPO(rollout=RolloutConfig(1, NEW, epochs=4), reward=REWARD, kl_coefficient=BETA, value_coefficient=0.5),
        256, 80, 3e-3
    ),
    'grpo': (
        GRPO(
            rollout=RolloutConfig(16, NEW), reward=REWARD, loss='dr_grpo', scale_rewards=False, kl_coefficient=BETA
        ),
        16, 300, 5e-3
    ),
    'rloo': (RLOO(rollout=RolloutConfig(16, NEW), reward=REWARD, kl_coefficient=BETA), 16, 150, 5e-3),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_reaches_what_can_be_reached(reference, method):
    params, log_reference = reference
    loss, prompts, steps, rate = METHODS[method]
    found, _ = improve(config(loss, prompts, steps, rate), params)
    start, (best, most) = objective(log_reference, log_reference, BETA), best_policy(log_reference, BETA)
    assert abs(objective(best, log_reference, BETA) - most) < 1e-6 and most - start > 1
    gain = (objective(log_probabilities(found), log_reference, BETA) - start) / (most - start)
    assert 0.95 <= gain < 1, gain


def fit_preferences(settings, params, log_reference):
    """All steps of DPO in one program. Which of a pair is better is not drawn but weighed: label smoothing says how
    probable the other order is, s(r' - r). Half of the responses are the reference's, half are any."""
    hyper, model = hyperparameters(settings), Transformer(MODEL)
    rewards, log_reference = jnp.array(REWARDS, jnp.float32), jnp.array(log_reference, jnp.float32)
    rows, lengths = jnp.array(ROWS)[:, None], jnp.array(LENGTHS)[:, None]

    def loss(params, batch, rng):
        log_probs = dpo.response_log_probs(model, params, rows, jnp.ones_like(lengths), lengths)[:, 0]
        log_ratios = (log_probs - log_reference)[batch['pairs']]
        other_order = jax.nn.sigmoid(rewards[batch['pairs'][:, 1]] - rewards[batch['pairs'][:, 0]])
        numbers = hyper['objective']._replace(label_smoothing=other_order)
        losses = dpo.pair_losses(settings.objective, log_ratios, jnp.ones_like(log_ratios), numbers)
        return jnp.sum(losses), jnp.float32(len(losses)), {}

    def step(state, pairs):
        gradients, weight, _ = summed_gradients(loss, state.params, {'pairs': pairs}, None, 1)
        return apply_gradients(settings, state, gradients, weight, hyper)

    often = np.exp(log_reference) / np.exp(log_reference).sum() / 2 + 0.5 / len(RESPONSES)
    draw = np.random.default_rng(0)
    pairs = draw.choice(len(RESPONSES), (settings.training.steps, settings.training.batch_size, 2), p=often)
    run = jax.jit(lambda params: jax.lax.scan(step, state_from_params(settings, params, 0), pairs))
    return run(params)[0].params


@pytest.mark.slow
def test_dpo_on_exact_preferences_finds_the_best_policy(reference):
    params, log_reference = reference
    settings = config(DPO(beta=1.0, label_smoothing=0.1), 1024, 300, 1e-2)
    policy = np.asarray(log_probabilities(fit_preferences(settings, params, log_reference)), np.float64)
    best, _ = best_policy(log_reference, 1.0)
    divergence = lambda log_policy: np.sum(np.exp(log_policy) * (log_policy - best))
    assert divergence(log_reference) > 0.3 and divergence(policy) < 0.05


def test_best_of_n_draws_from_its_exact_distribution(reference):
    """F(r)^n - F(r-)^n of what the policy draws, told from 4,096 choices of the best of 4."""
    params, log_reference = reference
    rewards = jnp.array(np.round(REWARDS), jnp.float32)  # with many that are equal
    score = lambda rolled: rewards[place_of(rolled.tokens, rolled.lengths)]
    prompts, lengths = jnp.full((4096, 1), BOS, jnp.int32), jnp.ones((4096,), jnp.int32)
    seeds = jnp.arange(4 * 4096, dtype=jnp.uint32)
    draw = lambda params: best_of_n.best_of_n(Transformer(MODEL), params, score, prompts, lengths, seeds, NEW, 1.0)
    kept, _ = jax.jit(draw)(params)
    counts = np.bincount(place_of(kept.tokens, kept.lengths), minlength=len(RESPONSES))
    expected = 4096 * best_of_n.distribution(np.exp(log_reference), np.round(REWARDS), 4)
    assert abs(expected.sum() - 4096) < 1e-3 * 4096
    often = expected > 5
    groups = [*zip(counts[often], expected[often]), (counts[~often].sum(), expected[~often].sum())]
    statistic = sum((count - mean) ** 2 / mean for count, mean in groups)
    freedom = len(groups) - 1
    assert freedom > 20 and statistic < freedom + 4 * np.sqrt(2 * freedom)
