"""However a step of reinforcement learning is cut over devices, it draws the same and learns the same."""

import functools

import jax
import numpy as np
import pytest
from training.tiny_policy import DATA, PROMPTS, STEPS, config, run, start

from llm.config import ParallelConfig
from llm.parallel import mesh as mesh_lib
from llm.training.policy_update import make_rollout

CUTS = {
    'alone': ParallelConfig(),
    'data': ParallelConfig(),
    'fsdp': ParallelConfig(fsdp=8),
    'tensor': ParallelConfig(data=4, tensor=2),
    'all': ParallelConfig(data=2, fsdp=2, tensor=2),
    'pmap': ParallelConfig(wrapper='pmap'),
}


@functools.cache
def alone(objective):
    history, state = run(config(objective))
    return history, jax.device_get((state.params, state.controls))


def comparable(row):
    return {name: value for name, value in row.items() if 'second' not in name and name != 'sampler_logp_gap'}


@pytest.mark.parametrize(
    'objective, cut, devices, accumulation',
    [
        pytest.param('grpo', 'fsdp', 8, 1, marks=pytest.mark.slow),
        pytest.param('grpo', 'pmap', 8, 1, marks=pytest.mark.slow),
        pytest.param('grpo', 'data', 4, 2, marks=pytest.mark.slow),
        ('ppo', 'all', 8, 1),
        pytest.param('ppo', 'pmap', 4, 2, marks=pytest.mark.slow),
        pytest.param('ppo', 'alone', 1, 4, marks=pytest.mark.slow),
        pytest.param('rloo', 'tensor', 8, 1, marks=pytest.mark.slow),
        pytest.param('rloo', 'pmap', 8, 1, marks=pytest.mark.slow),
    ],
)
def test_one_curve(objective, cut, devices, accumulation):
    expected, (params, controls) = alone(objective)
    history, state = run(config(objective, CUTS[cut], accumulation), devices)
    for row, other in zip(history, expected, strict=True):
        assert comparable(row).keys() == comparable(other).keys()
        for name, value in comparable(other).items():
            np.testing.assert_allclose(row[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
        assert row['sampler_logp_gap'] < 1e-5
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), jax.device_get(state.params), params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), jax.device_get(state.controls), controls)
    assert int(state.step) == STEPS


def test_only_whether_all_have_ended_travels():
    """On a mesh that shares rows alone, a rollout sends no activation, cache or token from device to device."""
    settings = config('grpo')
    step, state, hyper = start(settings, devices=8)
    batch = step.place(DATA.train.rows(range(PROMPTS)))
    prompts = {name: batch[name] for name in ('prompts', 'prompt_lengths')}
    mesh = mesh_lib.make_mesh(settings.parallel)
    with jax.set_mesh(mesh):
        program = jax.jit(make_rollout(settings), out_shardings=mesh_lib.batch_sharding(mesh, 1))
        text = program.lower(state, prompts, hyper).compile().as_text()
    assert text.count(' all-reduce(') == 1
    for operation in ('all-gather', 'all-to-all', 'collective-permute'):
        assert f' {operation}(' not in text, operation
