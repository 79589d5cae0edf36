"""The experiment, stage by stage. Each returns arrays; axes are named in the docstrings, seeds come first."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.rlhf import measuring, wishlist
from experiments.rlhf.plan import SHOWN, Plan
from experiments.rlhf.reinforcement import Judges, reinforce
from experiments.rlhf.store import Tree
from experiments.rlhf.training import initial_parameters, make_config, orders, pick, stack, train
from llm.config import DPO, GRPO, PPO, SFT, RewardConfig, RewardModel, RolloutConfig


def sft(plan: Plan) -> Tree:
    """A model of the demonstrations for each seed: `params`, and the training `loss` (steps, seeds) in nats a token."""
    prompts, _ = wishlist.prompts()
    tables = []
    for seed in plan.seeds:
        random = np.random.default_rng((1, seed))
        shown = wishlist.demonstrate(prompts[random.integers(0, len(prompts), plan.demonstrations)], random)
        place = np.arange(1, wishlist.LENGTH)
        trained = (place >= wishlist.PROMPT_LENGTH) & (place < shown.lengths[:, None])
        tables.append(
            {
                'inputs': shown.tokens[:, :-1],
                'targets': shown.tokens[:, 1:],
                'loss_weights': trained.astype(np.float32),
            }
        )
    configs = [
        make_config(
            SFT(packing=False),
            steps=plan.sft_steps,
            batch_size=plan.sft_batch,
            learning_rate=plan.sft_learning_rate,
            seed=seed,
        )
        for seed in plan.seeds
    ]
    params, metrics = train(
        configs, initial_parameters(configs), _stacked(tables), orders(configs, plan.demonstrations)
    )
    return {'params': params, 'loss': metrics['loss']}


def pool(plan: Plan, sft_params: Any) -> Tree:
    """The SFT models' responses to the held-out prompts: `tokens`, `lengths`, `gold` (seeds, prompts, samples)."""
    _, held_out = wishlist.prompts()
    drawn = measuring.sample(sft_params, sft_params, held_out, plan.pool, seed=2)
    return {'tokens': drawn.tokens.astype(np.uint8), 'lengths': drawn.lengths, 'gold': drawn.gold}


def preferences(plan: Plan, sft_params: Any, pool: Tree) -> Tree:
    """What the labeller says of pairs of the SFT models' responses.

    `tokens` (seeds, pairs, 2, LENGTH), the preferred one first, `lengths` (seeds, pairs, 2): responses to training
    prompts, in random order. `held_out` (seeds, prompts, samples / 2): whether it prefers the first of each two
    neighbours in the pool. `bayes` (seeds,): how often who knows the gold reward agrees with those.
    """
    prompts, _ = wishlist.prompts()
    drawn = measuring.sample(sft_params, sft_params, prompts, 2 * plan.pairs_per_prompt, seed=3)
    seeds = []
    for i, seed in enumerate(plan.seeds):
        random = np.random.default_rng((4, seed))
        tokens, lengths = drawn.tokens[i].reshape(-1, 2, wishlist.LENGTH), drawn.lengths[i].reshape(-1, 2)
        first = wishlist.label(*wishlist.gold_reward(tokens, lengths).T, random)
        better = np.where(first, 0, 1)[:, None] ^ np.array([0, 1])
        shuffled = random.permutation(len(better))
        seeds.append(
            {
                'tokens': np.take_along_axis(tokens, better[:, :, None], axis=1)[shuffled].astype(np.uint8),
                'lengths': np.take_along_axis(lengths, better, axis=1)[shuffled],
            }
        )
    gold = _pairs(pool['gold'])
    labels = [
        wishlist.label(own[..., 0], own[..., 1], np.random.default_rng((5, seed)))
        for seed, own in zip(plan.seeds, gold)
    ]
    held_out = np.stack(labels)
    return _stacked(seeds) | {'held_out': held_out, 'bayes': _agreement(gold, held_out)}


def _pairs(values: np.ndarray) -> np.ndarray:
    """(…, samples / 2, 2): neighbours."""
    return values.reshape(*values.shape[:-1], -1, 2)


def _agreement(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """How often the higher of two values is the preferred one; a tie is half right.

    Args:
        values: (seeds, …, 2).
        first: (seeds, …), whether the first is preferred.

    Returns:
        (seeds,).
    """
    right = np.where(values[..., 0] == values[..., 1], 0.5, (values[..., 0] > values[..., 1]) == first)
    return right.reshape(len(right), -1).mean(1)


def reward_models(plan: Plan, sft_params: Any, preferences: Tree, pool: Tree) -> Tree:
    """For each data size, `N/…` with N the number of pairs: reward models from the SFT models, one epoch each.

    The smallest size has `plan.members` of them, which differ in their heads and the order of the data; the others one.
    `params` of (seeds x members) models; `statistics` (seeds, members, 2): mean and deviation of their rewards on the
    SFT model's responses to training prompts; `accuracy` (seeds, members) on held-out labels; `raw` (seeds, members,
    prompts, samples): their rewards of the pool.
    """
    return {str(size): _reward_models(plan, sft_params, preferences, pool, size) for size in plan.sizes}


def _reward_models(plan: Plan, sft_params: Any, preferences: Tree, pool: Tree, size: int) -> Tree:
    count = plan.members if size == plan.sizes[0] else 1
    own = [i for i in range(len(plan.seeds)) for _ in range(count)]  # which seed each model belongs to
    configs = [
        make_config(
            RewardModel(),
            steps=size // plan.reward_batch,
            batch_size=plan.reward_batch,
            learning_rate=plan.reward_learning_rate,
            seed=1000 * seed + member,
        )
        for seed in plan.seeds
        for member in range(count)
    ]
    table = _examples(preferences, own, size)
    table['scores'] = np.broadcast_to(np.array([1.0, 0.0], np.float32), table['lengths'].shape)
    params, _ = train(configs, pick(sft_params, own), table, orders(configs, size))

    def rewards_of(data, rows=None):
        rewards = measuring.score(params, data['tokens'][own][:, :rows], data['lengths'][own][:, :rows])
        return rewards.reshape(len(plan.seeds), count, *rewards.shape[1:])

    seen, raw = rewards_of(preferences, 1024), rewards_of(pool)
    accuracy = [_agreement(_pairs(raw[:, member]), preferences['held_out']) for member in range(count)]
    return {
        'params': params,
        'statistics': np.stack([seen.mean((2, 3)), seen.std((2, 3))], axis=-1),
        'accuracy': np.stack(accuracy, axis=1),
        'raw': raw,
    }


def dpo(plan: Plan, sft_params: Any, preferences: Tree) -> Tree:
    """DPO on the smallest data, from the SFT models.

    `kl`, `gold` (seeds, betas, prompts), `ended` (seeds, betas); `tokens`, `lengths` of some responses (seeds, betas,
    prompts, …).
    """
    size = plan.sizes[0]
    own = [i for _ in plan.betas for i in range(len(plan.seeds))]
    configs = [
        make_config(
            DPO(beta=beta),
            steps=plan.dpo_epochs * size // plan.dpo_batch,
            batch_size=plan.dpo_batch,
            learning_rate=plan.dpo_learning_rate,
            seed=seed,
        )
        for beta in plan.betas
        for seed in plan.seeds
    ]
    seeds = list(range(len(plan.seeds)))
    table = _examples(preferences, seeds, size)
    flat = lambda x: x.reshape(len(seeds), -1, *x.shape[3:])
    reference = measuring.log_probs(sft_params, flat(table['tokens']), flat(table['lengths']))
    table['reference_logprobs'] = reference.reshape(table['lengths'].shape)
    table['prompt_lengths'] = np.full_like(table['lengths'], wishlist.PROMPT_LENGTH)
    table = {name: array[own] for name, array in table.items()}
    params, _ = train(configs, pick(sft_params, own), table, orders(configs, size))
    seen = _look(plan, params, pick(sft_params, own), look=0)
    shape = lambda x: x.reshape(len(plan.betas), len(plan.seeds), *x.shape[1:]).swapaxes(0, 1)
    return {name: shape(x) for name, x in seen.items()}


def ppo(plan: Plan, sft_params: Any, reward_models: Tree) -> Tree:
    """PPO against one reward model on the smallest data, one arm for each KL coefficient."""
    rollout = RolloutConfig(samples_per_prompt=1, max_new_tokens=wishlist.MAX_RESPONSE, epochs=plan.ppo_epochs)
    arms = [(coefficient, plan.sizes[0]) for coefficient in plan.coefficients]
    return _single(plan, PPO(rollout=rollout), plan.responses, arms, sft_params, reward_models)


def grpo(plan: Plan, sft_params: Any, reward_models: Tree) -> Tree:
    """GRPO against one reward model: each KL coefficient on the smallest data, then no penalty on the larger ones."""
    arms = [(coefficient, plan.sizes[0]) for coefficient in plan.coefficients]
    arms += [(0.0, size) for size in plan.sizes[1:]]
    return _single(plan, _grpo(plan), plan.responses // plan.group, arms, sft_params, reward_models)


def ensembles(plan: Plan, sft_params: Any, reward_models: Tree) -> Tree:
    """GRPO against what the ensemble on the smallest data agrees on: arms (mean, min) x coefficients."""
    models, members = reward_models[str(plan.sizes[0])], range(plan.members)
    arms = [(coefficient, low) for low in (0.0, 1.0) for coefficient in plan.ensemble_coefficients]
    chosen = [[i * plan.members + member for member in members] for i in range(len(plan.seeds))]
    params = stack([pick(models['params'], index) for index in chosen])
    own = [i for _ in arms for i in range(len(plan.seeds))]
    judges = Judges(
        pick(params, own),
        models['statistics'][own],
        np.array([low for _, low in arms for _ in plan.seeds], np.float32),
    )
    coefficients = [coefficient for coefficient, _ in arms]
    return _train_policies(plan, _grpo(plan), plan.responses // plan.group, coefficients, sft_params, judges)


def _grpo(plan: Plan) -> GRPO:
    return GRPO(rollout=RolloutConfig(samples_per_prompt=plan.group, max_new_tokens=wishlist.MAX_RESPONSE))


def _single(plan, objective, prompts, arms, sft_params, reward_models) -> Tree:
    """Trains arms of (KL coefficient, pairs of data) against the first reward model of that size."""
    each = []
    for _, size in arms:
        models = reward_models[str(size)]
        count = models['statistics'].shape[1]
        first = [i * count for i in range(len(plan.seeds))]
        each += [(pick(models['params'], index), models['statistics'][index // count, 0]) for index in first]
    params = stack([stack([model]) for model, _ in each])
    statistics = np.stack([own[None] for _, own in each])
    judges = Judges(params, statistics, np.zeros(len(each), np.float32))
    return _train_policies(plan, objective, prompts, [coefficient for coefficient, _ in arms], sft_params, judges)


def _train_policies(plan, objective, prompts, coefficients, sft_params, judges) -> Tree:
    """Arms x seeds of policies and what they were like at each look.

    `kl`, `gold`, `proxy` (seeds, arms, looks, prompts), the first look before training; `ended` (seeds, arms, looks);
    `tokens`, `lengths` of some responses at the end (seeds, arms, prompts, …); `sampler_logp_gap` (seeds,
    arms).
    """
    arms, count = len(coefficients), len(plan.seeds)
    own = [i for _ in range(arms) for i in range(count)]
    configs = [
        make_config(
            dataclasses.replace(objective, kl_coefficient=coefficient, reward=RewardConfig(function='judges:judge')),
            steps=plan.rl_steps,
            batch_size=prompts,
            learning_rate=plan.rl_learning_rate,
            seed=seed,
        )
        for coefficient in coefficients
        for seed in plan.seeds
    ]
    train_prompts, _ = wishlist.prompts()
    references = pick(sft_params, own)
    seen, gaps = [_look(plan, references, references, 0, judges)], []
    for step, policies, metrics in reinforce(configs, references, judges, train_prompts, plan.looks):
        seen.append(_look(plan, policies, references, step, judges))
        gaps.append(metrics['sampler_logp_gap'])
    by_seed = lambda x: x.reshape(arms, count, *x.shape[1:]).swapaxes(0, 1)
    curves = {
        name: by_seed(np.stack([look[name] for look in seen], axis=1)) for name in ('kl', 'gold', 'proxy', 'ended')
    }
    last = {name: by_seed(seen[-1][name]) for name in ('tokens', 'lengths')}
    return curves | last | {'sampler_logp_gap': by_seed(np.max(gaps, axis=0))}


def _look(plan: Plan, policies: Any, references: Any, look: int, judges: Judges | None = None) -> Tree:
    """Policies on the held-out prompts: means over their samples, (members, prompts), and some responses."""
    _, held_out = wishlist.prompts()
    drawn = measuring.sample(policies, references, held_out, plan.samples, seed=100 + look)
    last = np.take_along_axis(drawn.tokens, drawn.lengths[..., None] - 1, axis=-1)[..., 0]
    seen = {
        'kl': drawn.kl.mean(-1),
        'gold': drawn.gold.mean(-1),
        'ended': np.mean(last == wishlist.EOS, axis=(1, 2)),
        'tokens': drawn.tokens[:, SHOWN, 0].astype(np.uint8),
        'lengths': drawn.lengths[:, SHOWN, 0],
    }
    if judges is not None:
        seen['proxy'] = judges.score(drawn.tokens, drawn.lengths).mean(-1)
    return seen


def _examples(pairs: Tree, own: Sequence[int], size: int) -> Tree:
    """The first `size` pairs of each member's seed."""
    return {
        'tokens': pairs['tokens'][own][:, :size].astype(np.int32),
        'lengths': pairs['lengths'][own][:, :size].astype(np.int32),
    }


def _stacked(trees: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([tree[name] for tree in trees]) for name in trees[0]}
