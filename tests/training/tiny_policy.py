"""A policy that writes bytes, prompts of a few letters, and everything a `PolicyStep` asks for; for tests."""

import types

import jax
import numpy as np

from llm import runtime
from llm.config import (
    GRPO,
    PPO,
    RLOO,
    AdamW,
    Config,
    Constant,
    DataConfig,
    ModelConfig,
    ParallelConfig,
    RewardConfig,
    RolloutConfig,
    TokenizerConfig,
    TrainingConfig,
)
from llm.parallel import mesh as mesh_lib
from llm.tokenizer import EOS, FIRST_BYTE
from llm.tokenizer import train as make_tokenizer
from llm.training.metrics import means
from llm.training.policy_step import PolicyStep
from llm.training.train_state import create_state, placed_state
from llm.training.train_step import hyperparameters

STEPS, PROMPTS, WIDTH, NEW = 3, 16, 4, 6
TOKENIZER = make_tokenizer(TokenizerConfig(kind='byte'), 272, [])
ROLLOUT = RolloutConfig(samples_per_prompt=2, max_new_tokens=NEW, temperature=0.9, epochs=2, minibatches=2)
REWARD = RewardConfig(function='training.tiny_policy:short_and_low', missing_eos_penalty=0.1)
OBJECTIVES = {
    'ppo': PPO(rollout=ROLLOUT, reward=REWARD, kl_coefficient=0.1, kl_target=0.5, kl_horizon=100.0),
    'grpo': GRPO(rollout=ROLLOUT, reward=REWARD, kl_coefficient=0.1),
    'rloo': RLOO(rollout=ROLLOUT, reward=REWARD, kl_coefficient=0.1, normalize_advantages=True),
}


def short_and_low(prompts, completions, bonus):
    """Sees the text of the prompt and its columns; counts bytes that are not letters."""
    assert len(prompts) == len(completions) == len(bonus)
    return [
        extra + len(prompt) / 10 - sum(not 'a' <= c <= 'z' for c in text) / 4
        for prompt, text, extra in zip(prompts, completions, bonus)
    ]


class Table:
    """Prompts as a data side has them: `prompts` are texts, further columns lists."""

    def __init__(self):
        draw = np.random.default_rng(0)
        self.texts = [''.join(draw.choice(list('abcd'), draw.integers(0, WIDTH))) for _ in range(2 * PROMPTS)]
        self.bonus = draw.normal(size=2 * PROMPTS)

    def rows(self, indices):
        prompts = np.zeros((len(indices), WIDTH), np.int32)
        lengths = np.zeros(len(indices), np.int32)
        for row, i in enumerate(indices):
            ids = [1, *TOKENIZER.encode(self.texts[i])]
            prompts[row, : len(ids)], lengths[row] = ids, len(ids)
        return {'prompts': prompts, 'prompt_lengths': lengths, 'indices': np.asarray(indices, np.int32)}

    def columns(self, indices):
        return {'prompts': [self.texts[i] for i in indices], 'bonus': [self.bonus[i] for i in indices]}


DATA = types.SimpleNamespace(tokenizer=TOKENIZER, train=Table())


def config(objective, parallel=None, accumulation=1, **training):
    return Config(
        seed=3,
        model=ModelConfig(vocab_size=272, context_length=WIDTH + NEW, num_layers=1, width=32, num_heads=4),
        tokenizer=TokenizerConfig(kind='byte'),
        data=DataConfig(sequence_length=WIDTH + NEW),
        objective=OBJECTIVES[objective] if isinstance(objective, str) else objective,
        optimizer=AdamW(learning_rate=3e-3),
        schedule=Constant(),
        training=TrainingConfig(batch_size=PROMPTS, accumulation=accumulation, **training),
        parallel=parallel or ParallelConfig(),
    )


def start(config, devices=1):
    """The step, the first state and the numbers of a config."""
    config = runtime.resolve(config)
    mesh = mesh_lib.make_mesh(config.parallel, jax.devices()[:devices])
    mesh_lib.check_divides(config, mesh)
    placed = placed_state(config, mesh)
    step = PolicyStep(config, mesh, placed, DATA)
    places = jax.tree.map(lambda leaf: leaf.sharding, placed)
    state = jax.jit(lambda: eager_to_end(create_state(config, 0)), out_shardings=places)()
    return step, state, jax.device_put(hyperparameters(config), mesh_lib.replicated(mesh))


def eager_to_end(state):
    """With 272 tokens to choose from, a random policy would never end."""
    table = state.params['embedding']['table']
    raised = table.at[EOS].multiply(8.0).at[FIRST_BYTE + 97].multiply(8.0)
    params = state.params | {'embedding': {'table': raised}}
    frozen = {'base': state.frozen['base'] | {'embedding': {'table': raised}}} if state.frozen else {}
    return state.replace(params=params, frozen=frozen)


def run(config, devices=1, steps=STEPS):
    step, state, hyper = start(config, devices)
    history = []
    for number in range(steps):
        rows = DATA.train.rows([(number * PROMPTS + i) % (2 * PROMPTS) for i in range(*step.local_rows)])
        state, metrics = step(state, step.place(rows), hyper)
        history.append(means(metrics))
    return history, state
