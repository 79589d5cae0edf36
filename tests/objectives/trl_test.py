"""DPO, reward model, GRPO and RLOO equal TRL 1.16's trainers (tests/fixtures) in loss, gradient and metrics.

The same tiny random Llama is on both sides, so that masks, log-probabilities and losses are compared from end to end.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import DPO, GRPO, RLOO, ModelConfig, RewardModel, RolloutConfig
from llm.model import Transformer
from llm.objectives import dpo, policy, reward_model
from llm.objectives.advantages import GROUP_EPSILON, group_advantages, leave_one_out, whiten

TRL = np.load(pathlib.Path(__file__).parents[1] / 'fixtures' / 'trl_losses.npz')
SETTINGS = json.loads(str(TRL['settings']))
SHAPE = SETTINGS['shape']
LLAMA = ModelConfig(
    vocab_size=SHAPE['vocab_size'],
    context_length=SHAPE['max_position_embeddings'],
    num_layers=SHAPE['num_hidden_layers'],
    width=SHAPE['hidden_size'],
    num_heads=SHAPE['num_attention_heads'],
    num_kv_heads=SHAPE['num_key_value_heads'],
    feed_forward_width=SHAPE['intermediate_size'],
    norm_epsilon=SHAPE['rms_norm_eps'],
    tied_embeddings=False,
)
ROLLOUT = RolloutConfig(max_new_tokens=SETTINGS['max_response'], temperature=SETTINGS['temperature'])
TOLERANCE = {'rtol': 1e-5, 'atol': 1e-5}
QUICK = {'xla_backend_optimization_level': 0}  # to compile, which is all that these tests spend their time on


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


@functools.cache
def parameters(prefix: str):
    tree = {}
    for name in TRL.files:
        if name.startswith(f'{prefix}/'):
            *path, leaf = name.removeprefix(f'{prefix}/').split('/')
            functools.reduce(lambda node, key: node.setdefault(key, {}), path, tree)[leaf] = jnp.asarray(TRL[name])
    return tree


def batch(kind: str, *names: str) -> dict:
    return {name: jnp.asarray(TRL[f'{kind}/{name}']) for name in names}


def groups(kind: str) -> list[list[str]]:
    """Cases that differ in numbers only, which one compiled program serves."""
    static = lambda settings: str({name: x for name, x in settings.items() if not isinstance(x, float)})
    found = {}
    for case, settings in SETTINGS['cases'][kind].items():
        found.setdefault(static(settings) + str('kl_coefficient' in settings), []).append(case)
    return list(found.values())


def check(module, make_config, kind: str, cases: list[str], params, rows: dict, metrics: dict[str, str]):
    """Loss, gradient and metrics (ours: theirs) of each case against what the trainer gave."""
    configs = [make_config(**SETTINGS['cases'][kind][case]) for case in cases]
    hypers = jax.tree.map(lambda *numbers: jnp.stack(numbers), *map(module.hyperparameters, configs))

    @functools.partial(jax.jit, compiler_options=QUICK)
    @functools.partial(jax.vmap, in_axes=(None, None, 0))
    def value_and_gradient(params, rows, hyper):
        def mean(params):
            total, weight, metrics = module.make_loss(configs[0], Transformer(LLAMA), hyper)(params, rows, None)
            return total / weight, metrics

        return jax.value_and_grad(mean, has_aux=True)(params)

    results = value_and_gradient(params, rows, hypers)
    for index, case in enumerate(cases):
        (loss, found), gradient = jax.tree.map(lambda x: np.asarray(x[index]), results)  # noqa: B023
        npt.assert_allclose(loss, TRL[f'{kind}/{case}/loss'], **TOLERANCE)
        compared = 0
        for name in TRL.files:
            if name.startswith(f'{kind}/{case}/gradient/'):
                path = name.removeprefix(f'{kind}/{case}/gradient/').split('/')
                ours = functools.reduce(lambda node, key: node[key], path, gradient)
                npt.assert_allclose(ours, TRL[name], **TOLERANCE, err_msg=f'{case} {name}')
                compared += bool(np.abs(TRL[name]).max() > 1e-3)
        assert compared >= 2
        for ours, theirs in metrics.items():
            total, weight = found[ours]
            npt.assert_allclose(total / weight, TRL[f'{kind}/{case}/metrics/{theirs}'], **TOLERANCE, err_msg=ours)


def test_the_reference_scores_the_responses_as_it_does_there():
    rows = batch('dpo', 'tokens', 'prompt_lengths', 'lengths')
    score = jax.jit(functools.partial(dpo.response_log_probs, Transformer(LLAMA)))
    npt.assert_allclose(score(parameters('reference'), **rows), TRL['dpo/reference_logprobs'], **TOLERANCE)


@pytest.mark.parametrize('cases', groups('dpo'), ids='-'.join)
def test_dpo(cases):
    rows = batch('dpo', 'tokens', 'prompt_lengths', 'lengths', 'reference_logprobs')
    names = 'rewards/chosen', 'rewards/rejected', 'rewards/accuracies', 'rewards/margins'
    same = {name: name for name in (*names, 'logps/chosen', 'logps/rejected')}
    check(dpo, DPO, 'dpo', cases, parameters('policy'), rows, same)


def test_reward_model():
    rows = batch('reward_model', 'tokens', 'lengths', 'scores')
    params, cases = parameters('reward_model/policy'), list(SETTINGS['cases']['reward_model'])
    same = {name: name for name in ('accuracy', 'margin', 'mean_reward')}
    check(reward_model, RewardModel, 'reward_model', cases, params, rows, same)
    reward = jax.jit(functools.partial(reward_model.rewards, Transformer(LLAMA)))
    flat = reward(params, rows['tokens'].reshape(-1, rows['tokens'].shape[-1]), rows['lengths'].reshape(-1))
    said = reward_model.summary(*(np.asarray(x) for x in (flat.reshape(-1, 2), rows['scores'], rows['lengths'])))
    for name in ('accuracy', 'margin', 'min_reward', 'mean_reward', 'max_reward'):
        npt.assert_allclose(said[name], TRL[f'reward_model/plain/metrics/{name}'], **TOLERANCE, err_msg=name)


def online(kind: str, *names: str) -> dict:
    return batch(kind, 'tokens', 'prompt_lengths', 'lengths', 'advantages', 'old_logprobs', *names)


@pytest.mark.parametrize('cases', groups('grpo'), ids='-'.join)
def test_grpo(cases):
    with_kl = 'kl_coefficient' in SETTINGS['cases']['grpo'][cases[0]]
    rows = online('grpo', 'row_tokens', *(['reference_logprobs'] if with_kl else []))
    metrics = {'entropy': 'entropy', 'clip_ratio': 'clip_ratio/region_mean'} | ({'kl': 'kl'} if with_kl else {})
    assert all(0.02 < TRL[f'grpo/{case}/metrics/clip_ratio/region_mean'] < 0.98 for case in cases)
    check(policy, functools.partial(GRPO, rollout=ROLLOUT), 'grpo', cases, parameters('policy'), rows, metrics)


def test_rloo():
    metrics = {'entropy': 'entropy', 'clip_ratio': 'clip_ratio/region_mean'}
    cases, make_config = list(SETTINGS['cases']['rloo']), functools.partial(RLOO, rollout=ROLLOUT)
    check(policy, make_config, 'rloo', cases, parameters('policy'), online('rloo'), metrics)


@pytest.mark.parametrize(
    ('case', 'advantages'),
    [
        ('grpo', functools.partial(group_advantages, scale=True)),
        ('dr_grpo', functools.partial(group_advantages, scale=False)),
        ('rloo', leave_one_out),
        ('rloo_normalized', lambda rewards: whiten(leave_one_out(rewards), epsilon=GROUP_EPSILON)),
    ],
)
def test_advantages_of_groups_of_four(case, advantages):
    """One of the three groups has equal rewards."""
    rewards = jnp.asarray(TRL[f'group/{case}/rewards'].reshape(3, 4))
    npt.assert_allclose(advantages(rewards).reshape(-1), TRL[f'group/{case}/advantages'], **TOLERANCE)
