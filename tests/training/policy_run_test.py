"""Reinforcement learning in the loop: what a crash costs, where rewards come from, and what a user gets wrong."""

import dataclasses
import json
import random

import pytest
from training.crash import Crash, crash_at
from training.post_training_test import row, rows
from training.processes_test import finish
from training.processes_test import start as start_processes

from llm.config import (
    GRPO,
    PPO,
    AdamW,
    CheckpointConfig,
    Config,
    Constant,
    DataConfig,
    EvaluationConfig,
    InitFromConfig,
    LogConfig,
    LoRAConfig,
    ModelConfig,
    RewardConfig,
    RewardModel,
    RolloutConfig,
    TokenizerConfig,
    TrainingConfig,
)
from llm.errors import UserError
from llm.training.loop import train
from llm.workdir import Workdir

ROLLOUT = RolloutConfig(samples_per_prompt=2, max_new_tokens=8, epochs=2, minibatches=2)
FUNCTION = RewardConfig(function='training.policy_run_test:letters', missing_eos_penalty=0.5)


def letters(prompts, completions, first):
    """How many of the letters asked for are in the answer."""
    assert all(isinstance(prompt, list) and word in prompt[-1]['content'] for prompt, word in zip(prompts, first))
    return [len(set(text) & set(word)) / len(word) for text, word in zip(completions, first)]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp('rows'), random.Random(1)
    with open(folder / 'prompts.jsonl', 'w') as prompts, open(folder / 'pairs.jsonl', 'w') as pairs:
        for _ in range(120):
            prompt, good, bad = row(draw)
            prompts.write(json.dumps({'prompt': prompt, 'first': good[0]['content'].split('-')[0]}) + '\n')
            pairs.write(json.dumps({'prompt': prompt, 'chosen': good, 'rejected': bad}) + '\n')
    return folder


@pytest.fixture(scope='module')
def run(files):
    """A function from the objective to a config."""

    def config(objective, data='prompts', steps=6, **sections):
        return Config(
            model=ModelConfig(vocab_size=272, context_length=40, num_layers=1, width=32, num_heads=2),
            tokenizer=TokenizerConfig(kind='byte'),
            data=DataConfig(corpora=(f'jsonl:{files}/{data}.jsonl',), sequence_length=40),
            objective=objective,
            optimizer=AdamW(learning_rate=1e-3),
            schedule=Constant(warmup=2),
            training=TrainingConfig(steps=steps, batch_size=8),
            checkpoint=CheckpointConfig(every=2),
            evaluation=EvaluationConfig(every=3, max_windows=8, batch_size=8, sample_tokens=0),
            log=LogConfig(every=1, tensorboard=False),
            **sections,
        )

    return config


@pytest.fixture(scope='module')
def rewarder(run, one_device, tmp_path_factory):
    """The workdir of a reward model. Not to be written to."""
    path = tmp_path_factory.mktemp('rewarder') / 'run'
    train(run(RewardModel(), 'pairs'), path, progress=False, devices=one_device)
    return str(path)


def test_a_crash_costs_nothing(run, one_device, tmp_path, monkeypatch):
    """Optimizer, random numbers, prompts, reference and the KL coefficient go on where they were, to the bit."""
    settings = run(PPO(rollout=ROLLOUT, reward=FUNCTION, kl_target=0.1, kl_horizon=100.0))
    whole = train(settings, tmp_path / 'whole', progress=False, devices=one_device)
    with monkeypatch.context() as patch:
        crash_at(patch, 5)
        with pytest.raises(Crash):
            train(settings, tmp_path / 'cut', progress=False, devices=one_device)
    resumed = train(settings, tmp_path / 'cut', progress=False, devices=one_device)
    assert resumed['params_sha256'] == whole['params_sha256']
    assert resumed['held_out'] == whole['held_out']
    timed = ('seconds', 'per_second', 'attempt', 'time', 'wait', 'mfu')
    see = lambda path: [
        {name: value for name, value in r.items() if not any(part in name for part in timed)} for r in rows(path)
    ]
    assert see(tmp_path / 'cut') == see(tmp_path / 'whole')
    coefficients = [r['objective/kl_coefficient'] for r in rows(tmp_path / 'whole')]
    assert len(set(coefficients)) == len(coefficients) == 6  # it adapts at every step


@pytest.mark.slow
def test_reward_models_and_a_function_together(run, rewarder, one_device, tmp_path):
    """The sum of both; an ensemble of one model twice is that model."""
    settings = lambda reward: run(GRPO(rollout=ROLLOUT, reward=reward), steps=1)
    seen = {}
    for name, reward in {
        'model': RewardConfig(models=(rewarder,)),
        'twice': RewardConfig(models=(rewarder, rewarder), ensemble='min'),
        'function': RewardConfig(function=FUNCTION.function),
        'both': RewardConfig(models=(rewarder,), function=FUNCTION.function, function_weight=2.0),
    }.items():
        train(settings(reward), tmp_path / name, progress=False, devices=one_device)
        (first,) = rows(tmp_path / name)
        seen[name] = first['reward']
        parts = ('seconds/rollout', 'seconds/score', 'seconds/update', 'rollout_tokens_per_second')
        assert all(first[part] > 0 for part in parts)
    assert seen['twice'] == pytest.approx(seen['model'], abs=1e-6)
    assert seen['both'] == pytest.approx(seen['model'] + 2 * seen['function'], abs=1e-5)


@pytest.mark.slow
def test_what_cannot_judge_is_refused(run, rewarder, one_device, tmp_path):
    def refused(match, settings):
        with pytest.raises(UserError, match=match):
            train(settings, tmp_path / 'run', progress=False, devices=one_device)

    judged_by = lambda path: run(GRPO(rollout=ROLLOUT, reward=RewardConfig(models=(path,))))
    refused('there is no workdir', judged_by(str(tmp_path / 'none')))
    train(run(GRPO(rollout=ROLLOUT, reward=FUNCTION), steps=1), tmp_path / 'policy', progress=False, devices=one_device)
    refused(
        'was trained with objective grpo; give the workdir of a reward_model run', judged_by(str(tmp_path / 'policy'))
    )
    longer = judged_by(rewarder)
    longer = dataclasses.replace(
        longer,
        model=dataclasses.replace(longer.model, context_length=64),
        data=dataclasses.replace(longer.data, sequence_length=64),
    )
    refused('reads 40 tokens and rows have 64', longer)
    workdir = Workdir(rewarder)
    summary = workdir.summary()
    try:
        workdir.write_summary({name: value for name, value in summary.items() if name != 'reward_statistics'})
        refused('no reward_statistics', judged_by(rewarder))
    finally:
        workdir.write_summary(summary)


@pytest.mark.slow
def test_a_function_that_fails_ends_the_run_and_keeps_its_checkpoint(run, one_device, tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text('def reward(prompts, completions, **columns):\n    raise ValueError("no such luck")\n')
    settings = run(GRPO(rollout=ROLLOUT, reward=RewardConfig(function=f'{file}:reward')))
    match = r'mine.py:reward failed on held-out prompts: ValueError: no such luck \(mine.py:2\)'
    with pytest.raises(UserError, match=match):
        train(settings, tmp_path / 'run', progress=False, devices=one_device)
    file.write_text('def reward(prompts, completions, **columns):\n    return [len(c) for c in completions]\n')
    assert train(settings, tmp_path / 'run', progress=False, devices=one_device)['status'] == 'done'


@pytest.mark.slow
def test_a_policy_starts_from_another_run(run, rewarder, one_device, tmp_path):
    """The trunk of the reward model, without its head: the value head is new, and the reference is the start."""
    settings = run(
        PPO(rollout=dataclasses.replace(ROLLOUT, epochs=1, minibatches=1), reward=FUNCTION),
        steps=1,
        init_from=InitFromConfig(workdir=rewarder),
    )
    train(settings, tmp_path / 'run', progress=False, devices=one_device)
    (first,) = rows(tmp_path / 'run')
    assert abs(first['objective/kl']) < 1e-4 and abs(first['kl']) < 1e-6
    assert first['sampler_logp_gap'] < 1e-5


@pytest.mark.slow
def test_adapters_learn_from_rewards(run, one_device, tmp_path):
    """With the reference for free: it is what they adapt."""
    settings = run(GRPO(rollout=ROLLOUT, reward=FUNCTION, kl_coefficient=0.1), steps=2, lora=LoRAConfig(rank=2))
    settings = dataclasses.replace(settings, optimizer=AdamW(learning_rate=0.1))
    summary = train(settings, tmp_path / 'run', progress=False, devices=one_device)
    first, second = rows(tmp_path / 'run')
    assert abs(first['objective/kl']) < 1e-4 and abs(second['objective/kl']) > 1e-3
    assert summary['trained_parameters'] < summary['parameters'] / 3


@pytest.mark.slow
@pytest.mark.parametrize('wrapper', ['jit', 'pmap'])
def test_two_processes_ask_for_their_own_rows(run, one_device, tmp_path, wrapper):
    file = tmp_path / 'mine.py'
    file.write_text(
        'import jax\n\n\ndef reward(prompts, completions, first):\n'
        '    assert len(prompts) == len(completions) == len(first) == 16 // jax.process_count()\n'
        '    return [len(text) / 10 + word.count("a") + len(prompt[-1]["content"]) / 50\n'
        '            for prompt, text, word in zip(prompts, completions, first)]\n'
    )
    settings = run(PPO(rollout=ROLLOUT, reward=RewardConfig(function=f'{file}:reward'), kl_target=0.1), steps=3)
    code, _, err = finish(start_processes(settings, tmp_path, '--parallel.wrapper', wrapper))
    assert code == 0, err
    train(settings, tmp_path / 'alone', progress=False, devices=one_device)
    see = lambda path: [
        [r[name] for name in ('tokens', 'loss', 'reward', 'objective/kl', 'entropy')] for r in rows(path)
    ]
    assert see(tmp_path / 'run') == [pytest.approx(row, rel=1e-4, abs=1e-5) for row in see(tmp_path / 'alone')]
