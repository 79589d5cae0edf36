"""What gives rewards is not believed: everything that can be wrong with one ends in a line that says so."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training import tiny_policy
from training.tiny_policy import DATA, REWARD, config, start

from llm.config import GRPO, PPO, RewardConfig, RolloutConfig
from llm.errors import UserError
from llm.inference.rollout import Rollout
from llm.model import Transformer
from llm.objectives.reward_model import rewards
from llm.training.metrics import means
from llm.training.reward_function import call_function, load_function
from llm.training.rewards import completion_ids, judge, total_reward
from llm.training.train_state import initial_model

PROMPTS = {'prompts': ['one', 'two'], 'answer': [1, 2]}


def ask(function):
    return call_function(function, 'rewards.py:mine', 7, ['a', 'b'], PROMPTS)


# --------------------------------------------------------------------------------------------- functions in Python


def test_a_function_sees_texts_and_columns():
    def mine(prompts, completions, answer):
        assert (prompts, completions, answer) == (['one', 'two'], ['a', 'b'], [1, 2])
        return [0.25, True]

    rewards = ask(mine)
    assert rewards.dtype == np.float32 and rewards.tolist() == [0.25, 1.0]
    assert ask(lambda completions, **rest: np.array([3, 4])).tolist() == [3.0, 4.0]
    assert ask(lambda completions, **rest: (jnp.float32(0.5), np.int64(2))).tolist() == [0.5, 2.0]


def failing(completions, **columns):
    return [{}['no such key'] for _ in completions]


@pytest.mark.parametrize(
    'function, message',
    [
        (failing, r"mine failed at step 7: KeyError: 'no such key' \(rewards_test.py:\d+\)$"),
        (lambda completions: [1, 2], r'failed at step 7: TypeError: .* unexpected keyword argument'),
        (lambda completions, **rest: 1.0, "failed at step 7: TypeError: 'float' object is not iterable"),
        (lambda completions, **rest: [1.0], 'returned 1 rewards for 2 completions at step 7'),
        (lambda completions, **rest: [1.0, None], 'returned None for row 1 at step 7; return numbers'),
        (lambda completions, **rest: ['2', 1.0], "returned '2' for row 0"),
        (lambda completions, **rest: [1.0, [2.0]], r'returned \[2.0\] for row 1'),
        (lambda completions, **rest: [1.0, float('nan')], r"returned nan for row 1 .*prompt 'two', completion 'b'"),
        (lambda completions, **rest: [float('-inf'), 1.0], 'returned -inf for row 0'),
        (lambda completions, **rest: [1e60, 1.0], r'returned 1e\+60 for row 0'),  # no float32
    ],
)
def test_what_a_function_does_wrong_is_one_line(function, message):
    with pytest.raises(UserError, match=message) as raised:
        ask(function)
    assert '\n' not in str(raised.value)


def test_functions_are_found_by_name(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text('def good(prompts, completions):\n    return [len(c) for c in completions]\n\nnumber = 3\n')
    assert load_function(f'{file}:good')([], ['abc']) == [3]
    assert load_function('training.tiny_policy:short_and_low') is tiny_policy.short_and_low
    bad = tmp_path / 'bad.py'
    bad.write_text('x = 1\nraise RuntimeError("no\\nluck")\n')
    broken = tmp_path / 'broken.py'
    broken.write_text('def broken(:\n')
    for name, message in (
        (f'{tmp_path}/none.py:good', 'there is no file'),
        (f'{file}:none', 'has no function none'),
        (f'{file}:number', 'has no function number'),
        ('no.such.module:good', "cannot be imported: ModuleNotFoundError: No module named 'no'"),
        (f'{bad}:good', r'cannot be imported: RuntimeError: no \(bad.py:2\)$'),
        (f'{broken}:good', 'cannot be imported: SyntaxError'),
    ):
        with pytest.raises(UserError, match=message):
            load_function(name)


# --------------------------------------------------------------------------------------------- on the device


def test_only_the_responses_leave():
    tokens = jnp.array([[1, 5, 6, 7, 2, 0], [1, 8, 9, 9, 9, 9]])
    rolled = Rollout(tokens, jnp.array([2, 3]), jnp.array([5, 6]), jnp.zeros((2, 6)), jnp.array([True, False]))
    ids, counts = completion_ids(rolled, 3)
    assert ids.tolist() == [[6, 7, 2], [9, 9, 9]] and counts.tolist() == [3, 3]


def test_parts_are_added_and_endless_responses_pay():
    settings = RewardConfig(function='a:b', function_weight=0.5, missing_eos_penalty=2.0)
    parts = {'models': jnp.array([1.0, 2.0]), 'function': jnp.array([4.0, 6.0])}
    ended = jnp.array([True, False])
    assert total_reward(settings, parts, ended).tolist() == [3.0, 3.0]
    assert total_reward(settings, {'function': parts['function']}, ended).tolist() == [2.0, 1.0]


def reward_models(count):
    """Trunks as the policy's, each with a head of its own."""
    model = config('grpo').model
    trunk = jax.jit(lambda: initial_model(model, 0))()
    heads = [jax.random.normal(jax.random.key(i), (model.width, 1)) for i in range(count)]
    return [trunk | {'reward_head': {'kernel': head}} for head in heads]


def test_an_ensemble_is_standardised_before_it_agrees():
    model, params = Transformer(config('grpo').model), reward_models(2)
    tokens, lengths = jnp.array([[1, 99, 2, 0], [1, 98, 97, 2]]), jnp.array([3, 4])
    each = np.stack([jax.jit(rewards, static_argnums=0)(model, p, tokens, lengths) for p in params])
    scaled = (each - [[1.0], [-2.0]]) / [[0.5], [4.0]]
    judges = ((model, 1.0, 0.5), (model, -2.0, 4.0))
    say = lambda name: jax.jit(lambda params: judge(judges, params, name, tokens, lengths))
    for name, expected in (('mean', scaled.mean(axis=0)), ('min', scaled.min(axis=0))):
        found, finite = say(name)(tuple(params))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        assert finite.all() and found.dtype == jnp.float32
    params[1]['reward_head']['kernel'] *= np.nan
    assert say('mean')(tuple(params))[1].tolist() == [True, False]


# --------------------------------------------------------------------------------------------- in a step


def nothing_to_choose(prompts, completions, **columns):
    return [0.5] * len(completions)


def with_reward(objective=GRPO, **fields):
    rollout = RolloutConfig(samples_per_prompt=2 if objective is GRPO else 1, max_new_tokens=tiny_policy.NEW)
    return config(objective(rollout=rollout, reward=dataclasses.replace(REWARD, **fields)))


def one_step(settings, change=lambda state: state):
    step, state, hyper = start(settings)
    state, metrics = step(change(state), step.place(DATA.train.rows(range(tiny_policy.PROMPTS))), hyper)
    return step, state, means(metrics)


@pytest.mark.parametrize('objective', [GRPO, pytest.param(PPO, marks=pytest.mark.slow)])
def test_rewards_that_are_all_equal_are_said_to_be(objective, caplog):
    settings = with_reward(objective, function='training.rewards_test:nothing_to_choose', missing_eos_penalty=0.0)
    with caplog.at_level(logging.WARNING):
        step, state, metrics = one_step(settings)
        assert metrics['frac_reward_zero_std'] == 1 and metrics['reward_std'] == 0
        assert 'have the same reward (0.5 on average)' in caplog.text
        caplog.clear()
        hyper = start(settings)[2]
        step(state, step.place(DATA.train.rows(range(tiny_policy.PROMPTS))), hyper)
        assert 'same reward' not in caplog.text  # once


def never_ending(state):
    """The logit of EOS is 0, and others are large."""
    table, scale = state.params['embedding']['table'], state.params['final_norm']['scale']
    changed = {'embedding': {'table': table.at[2].set(0.0)}, 'final_norm': {'scale': 100 * scale}}
    return state.replace(params=state.params | changed)


def test_responses_that_never_end_are_said_to(caplog):
    with caplog.at_level(logging.WARNING):
        _, _, metrics = one_step(with_reward(), never_ending)
    assert metrics['eos_rate'] == 0 and metrics['completions/clipped_ratio'] == 1
    assert metrics['completions/min_length'] == tiny_policy.NEW
    assert 'no response ended within objective.rollout.max_new_tokens 6' in caplog.text


def test_a_policy_that_is_no_longer_a_number_is_no_silence():
    """Its loss is not a number either, which the loop sees and goes back."""
    nan = lambda state: state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    _, _, metrics = one_step(with_reward(), nan)
    assert np.isnan(metrics['loss']) and np.isnan(metrics['sampler_logp_gap'])


def broken(prompts, completions, **columns):
    return [0.0] * (len(completions) - 1) + [float('nan')]


def test_a_reward_that_is_not_a_number_is_never_learned_from():
    with pytest.raises(UserError, match=r'rewards_test:broken returned nan for row 31 at step 1 \(prompt .*completion'):
        one_step(with_reward(function='training.rewards_test:broken'))


def test_prompts_are_dealt_out_evenly_or_not_at_all():
    settings = config('grpo', accumulation=4)
    with pytest.raises(UserError, match=r'prompts of an update .* are 2; .* multiple of the 4 devices'):
        start(settings, devices=4)
