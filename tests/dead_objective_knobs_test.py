"""No dead knob among the objectives' fields and those of LoRA: each changes what is learned, drawn or read.

As in dead_knobs_test.py, every field has a probe, and a field without one fails the last test.
"""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm.config import (
    DPO,
    GRPO,
    PPO,
    RLOO,
    SFT,
    SGD,
    Config,
    Constant,
    DataConfig,
    Distillation,
    LoRAConfig,
    Masked,
    ModelConfig,
    NextToken,
    PrefixLM,
    RewardConfig,
    RewardModel,
    RolloutConfig,
    SpanCorruption,
    TokenizerConfig,
    TrainingConfig,
)
from llm.data.corruption import Corruption
from llm.data.instructions import Instruction, InstructionTable
from llm.model import Transformer, lora
from llm.objectives import registry
from llm.objectives.distillation import predictions
from llm.objectives.kl import adapted_coefficient
from llm.tokenizer import train as train_tokenizer
from llm.training.checkpoint import params_sha256
from llm.training.policy_update import make_rollout, make_update
from llm.training.rewards import judge, load_judges, total_reward
from llm.training.train_state import create_state, initial_model
from llm.training.train_step import hyperparameters

MODEL = ModelConfig(vocab_size=12, context_length=16, num_layers=1, width=16, num_heads=2, feed_forward_width=24)
LENGTH, PROMPT = 10, 4
REWARD = RewardConfig(function='somewhere:something')


def config(objective, **more):
    return Config(
        model=MODEL,
        data=DataConfig(sequence_length=LENGTH),
        objective=objective,
        optimizer=SGD(learning_rate=0.5),
        schedule=Constant(warmup=1),
        training=TrainingConfig(batch_size=4),
        **more,
    )


def apart(name, values, see):
    seen = [see(value) for value in values]
    for i, one in enumerate(seen):
        for j in range(i):
            assert one != seen[j], f'{name}: {values[j]!r} and {values[i]!r} come to the same'


# ---------------------------------------------------------------------------------------- losses of given examples

GIVEN = {  # values of a field, and what else has to be set for it to matter
    (NextToken, 'z_loss'): ([0.0, 0.1], {}),
    (NextToken, 'label_smoothing'): ([0.0, 0.1], {}),
    (SFT, 'z_loss'): ([0.0, 0.1], {}),
    (SFT, 'label_smoothing'): ([0.0, 0.1], {}),
    **{
        (kind, name): ([0.0, 0.1], {})
        for kind in (Masked, PrefixLM, SpanCorruption)
        for name in ('z_loss', 'label_smoothing')
    },
    (Distillation, 'z_loss'): ([0.0, 0.1], {}),
    (Distillation, 'label_smoothing'): ([0.0, 0.1], {}),
    (Distillation, 'divergence'): (['forward', 'reverse', 'jensen_shannon'], {}),
    (Distillation, 'temperature'): ([1.0, 2.0], {}),
    (Distillation, 'teacher_weight'): ([0.5, 1.0], {}),
    (Distillation, 'top_k'): ([0, 3], {}),
    (RewardModel, 'margin_scale'): ([0.0, 0.5], {}),
    (RewardModel, 'centring'): ([0.0, 0.1], {}),
    (DPO, 'loss'): (['sigmoid', 'robust', 'ipo', 'hinge'], {'label_smoothing': 0.0}),
    (DPO, 'beta'): ([0.1, 0.2], {}),
    (DPO, 'label_smoothing'): ([0.0, 0.1], {}),
    (DPO, 'length_normalized'): ([False, True], {}),
    (DPO, 'reference_free'): ([False, True], {}),
}


def batch_of(objective):
    """Rows of every length, and a reference that is not the model."""
    draw = np.random.default_rng(0)
    if isinstance(objective, NextToken | SFT | Masked | PrefixLM | SpanCorruption):
        tokens = draw.integers(0, 12, (4, LENGTH)).astype(np.int32)
        weights, prefixes = np.ones((4, LENGTH), np.float32), np.full(4, 3, np.int32)
        batch = {'inputs': tokens, 'targets': tokens[:, ::-1].copy(), 'loss_weights': weights}
        batch |= {'prefix_lengths': prefixes} if isinstance(objective, PrefixLM | SpanCorruption) else {}
        return batch | (taught(batch, objective) if isinstance(objective, Distillation) else {})
    return {
        'tokens': draw.integers(0, 12, (4, 2, LENGTH)).astype(np.int32),
        'prompt_lengths': np.full((4, 2), 3, np.int32),
        'lengths': draw.integers(5, LENGTH, (4, 2)).astype(np.int32),
        'scores': np.tile(np.array([1.5, 0], np.float32), (4, 1)),
        'reference_logprobs': draw.normal(-9, 1, (4, 2)).astype(np.float32),
    }


def taught(batch, objective):
    """What a teacher of another seed says."""
    teacher = jax.jit(lambda: initial_model(MODEL, 1))()
    temperature = jnp.float32(objective.temperature)
    told = predictions(Transformer(MODEL), teacher, jax.tree.map(jnp.asarray, batch), temperature, objective.top_k)
    return jax.tree.map(np.asarray, told)


@functools.cache
def start(kind):
    return jax.jit(lambda: create_state(config(kind()), 0).params)()


@functools.cache
def seen_in_loss(objective):
    """The loss and its gradient."""
    run, batch = config(objective), jax.tree.map(jnp.asarray, batch_of(objective))
    loss = registry.make_loss(run, Transformer(run.model), registry.hyperparameters(run))
    value, gradient = jax.jit(jax.value_and_grad(lambda params: loss(params, batch, None)[0]))(start(type(objective)))
    return params_sha256({'loss': value, 'gradient': gradient})


@pytest.mark.parametrize(('kind', 'name'), GIVEN)
def test_losses(kind, name):
    values, also = GIVEN[kind, name]
    # The robust loss without smoothing is the plain one.
    apart(name, [v for v in values if v != 'robust'], lambda value: seen_in_loss(kind(**also | {name: value})))


def test_robust_is_a_loss_of_its_own():
    def see(value):
        run = config(DPO(loss=value, label_smoothing=0.1))
        loss = registry.make_loss(run, Transformer(run.model), registry.hyperparameters(run))
        return float(loss(start(DPO), jax.tree.map(jnp.asarray, batch_of(run.objective)), None)[0])

    apart('loss', ['sigmoid', 'robust'], see)


@pytest.mark.parametrize('name', ['train_on', 'packing'])
def test_rows_of_sft(name):
    values = {'train_on': ['completions', 'all'], 'packing': [True, False]}[name]
    examples = [Instruction([1, 5, 6, 7, 2], [False, False, True, True, True]) for _ in range(3)]

    def see(value):
        table = InstructionTable(config(SFT(**{name: value})), [examples])
        return params_sha256(table.rows(np.arange(len(table))))

    apart(name, values, see)


@pytest.mark.parametrize('kind', [NextToken, SFT, Distillation, Masked, PrefixLM, SpanCorruption])
def test_vocabulary_chunk(kind):
    """Logits of so many positions exist at once, of all by default."""

    def see(value):
        run = config(kind(vocabulary_chunk=value))
        loss = registry.make_loss(run, Transformer(run.model), registry.hyperparameters(run))
        batch = jax.tree.map(jnp.asarray, batch_of(run.objective))
        return f'[4,{value or LENGTH},12]' in str(jax.make_jaxpr(loss)(start(kind), batch, None)).replace(' ', '')

    assert see(0)
    assert see(2)


# ------------------------------------------------------------------------------------- policies: drawn and learned


NUMBERS = ('kl_coefficient', 'kl_target', 'value_clip', 'clip', 'clip_high', 'value_coefficient')
NUMBERS += ('discount', 'gae_lambda', 'kl_horizon')


def program_of(run):
    """The same run with other numbers: only whether they are there, and not 0, is part of the compiled program."""
    given = {name: getattr(run.objective, name, None) for name in NUMBERS}
    plain = {name: 1.0 for name, value in given.items() if value}
    plain |= {'rollout': dataclasses.replace(run.objective.rollout, temperature=1.0)}
    return dataclasses.replace(run, objective=dataclasses.replace(run.objective, **plain))


@functools.cache
def compiled(run):
    return jax.jit(lambda: create_state(run, 0)), jax.jit(make_rollout(run)), jax.jit(make_update(run))


def seen_in_policy(run):
    """A rollout, and what is learned from it three times; low ids are better."""
    hyper = hyperparameters(run)
    create, draw, update = compiled(program_of(run))
    state = create()
    if state.controls:
        state = state.replace(controls={'kl_coefficient': hyper['objective'].kl_coefficient})
    prompts = jnp.asarray(np.random.default_rng(1).integers(4, 12, (4, PROMPT)), jnp.int32)
    batch = {'prompts': prompts, 'prompt_lengths': jnp.array([2, 3, 4, 4], jnp.int32)}
    rolled = draw(state, batch, hyper)
    low = jnp.where(rolled.sampler_logprobs != 0, 6 - rolled.tokens, 0).sum(axis=1).astype(jnp.float32)
    for _ in range(3):
        state, _ = update(state, rolled, low, hyper)
    return params_sha256({'params': state.params, 'controls': state.controls, 'rolled': rolled._asdict()})


ROLLOUT = RolloutConfig(samples_per_prompt=2, max_new_tokens=5, epochs=2)
PENALISED = {'kl_coefficient': 0.5}
POLICY = {
    (PPO, 'kl_coefficient'): ([0.0, 0.5, 1.0], {}),
    (PPO, 'kl_target'): ([None, 0.1], PENALISED),
    (PPO, 'kl_horizon'): ([100.0, 1000.0], PENALISED | {'kl_target': 0.1}),
    (PPO, 'clip'): ([0.2, 0.01], {}),
    (PPO, 'value_clip'): ([None, 0.2, 0.01], {'value_coefficient': 1.0}),
    (PPO, 'value_coefficient'): ([0.1, 0.5], {}),
    (PPO, 'discount'): ([1.0, 0.5], {}),
    (PPO, 'gae_lambda'): ([0.95, 0.5], {}),
    (GRPO, 'loss'): (['grpo', 'dr_grpo', 'bnpo', 'dapo'], {'rollout': dataclasses.replace(ROLLOUT, minibatches=2)}),
    (GRPO, 'scale_rewards'): ([True, False], {}),
    (GRPO, 'kl_coefficient'): ([0.0, 0.5], {}),
    (GRPO, 'kl_estimator'): (['k2', 'k3', 'ratio_k3'], PENALISED),
    (GRPO, 'clip'): ([0.2, 0.01], {}),
    (GRPO, 'clip_high'): ([None, 0.01], {}),
    (RLOO, 'kl_coefficient'): ([0.0, 0.5], {}),
    (RLOO, 'clip'): ([0.2, 100.0], {}),
    (RLOO, 'normalize_advantages'): ([False, True], {}),
}
ROLLOUTS = {
    'samples_per_prompt': [2, 4],
    'max_new_tokens': [5, 6],
    'temperature': [1.0, 0.5],
    'epochs': [1, 2],
    'minibatches': [1, 2],
}


@pytest.mark.slow
@pytest.mark.parametrize(('kind', 'name'), POLICY)
def test_policies(kind, name):
    values, also = POLICY[kind, name]
    given = {'rollout': ROLLOUT, 'reward': REWARD} | also
    apart(name, values, lambda value: seen_in_policy(config(kind(**given | {name: value}))))


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(n, marks=pytest.mark.slow if n in ('samples_per_prompt', 'max_new_tokens') else ())
        for n in ROLLOUTS
    ],
)
def test_rollouts(name):
    """What is drawn, and how often it is learned from, is one piece of code for all policies."""
    see = lambda value: seen_in_policy(
        config(GRPO(rollout=dataclasses.replace(ROLLOUT, **{name: value}), reward=REWARD))
    )
    apart(name, ROLLOUTS[name], see)


# ------------------------------------------------------------------------------------------------------------ rewards


def test_what_a_reward_is_made_of():
    parts = {'models': jnp.array([1.0, 2.0]), 'function': jnp.array([0.5, -1.0])}
    ended = jnp.array([True, False])
    see = lambda **values: np.asarray(total_reward(RewardConfig(function='a:b', **values), parts, ended)).tobytes()
    apart('function_weight', [1.0, 2.0], lambda value: see(function_weight=value))
    apart('missing_eos_penalty', [0.0, 1.0], lambda value: see(missing_eos_penalty=value))


def test_the_target_of_an_adaptive_coefficient():
    see = lambda target: float(adapted_coefficient(*map(jnp.float32, (0.5, 1.0, 64.0, target, 1000.0))))
    apart('kl_target', [0.95, 1.0, 1.05], see)


def test_ensembles():
    run = config(RewardModel())
    model = Transformer(run.model)
    params = tuple(jax.jit(lambda seed: create_state(run, seed).params)(seed) for seed in range(2))
    tokens, lengths = jnp.asarray(batch_of(run.objective)['tokens'][:, 0]), jnp.full(4, 6, jnp.int32)
    see = lambda ensemble: np.asarray(judge(((model, 0.0, 1.0),) * 2, params, ensemble, tokens, lengths)[0]).tobytes()
    apart('ensemble', ['mean', 'min'], see)
    assert len(load_judges(RewardConfig(), None, LENGTH)) == 0  # `models` are opened: tests/training/rewards_test.py


# --------------------------------------------------------------------------------------------------------------- LoRA

LORA = {'rank': [0, 1, 2], 'alpha': [16.0, 8.0], 'targets': [('query',), ('query', 'up')]}


@pytest.mark.parametrize('name', LORA)
def test_lora(name):
    base = jax.jit(lambda: initial_model(MODEL, 0))()

    def see(value):
        given = LoRAConfig(**{'rank': 1} | {name: value})
        if not given.rank:
            return 'no adapters'
        adapters = lora.init_adapters(base, given, jax.random.key(0))
        adapters = jax.tree.map(lambda x: x + 1, adapters)
        return params_sha256({'all': lora.combine(base, adapters, given), 'adapters': adapters})

    apart(name, LORA[name], see)


# ----------------------------------------------------------------------------------------------- what is hidden of text

HIDDEN = {
    (Masked, 'rate'): [0.15, 0.3],
    (Masked, 'masked'): [0.8, 0.5],
    (Masked, 'random'): [0.0, 0.1, 0.2],
    (SpanCorruption, 'rate'): [0.15, 0.3],
    (SpanCorruption, 'span_length'): [1.0, 2.0],
}


@pytest.mark.parametrize(('kind', 'name'), HIDDEN)
def test_what_is_hidden(kind, name):
    tokens = np.random.default_rng(0).integers(16, 272, (2, 40)).astype(np.int32)
    batch = {'inputs': tokens, 'targets': tokens, 'loss_weights': np.ones((2, 40), np.float32)}
    tokenizer = train_tokenizer(TokenizerConfig(kind='byte'), 272, [])

    def see(value):
        run = Config(
            model=ModelConfig(context_length=80), data=DataConfig(sequence_length=40), objective=kind(**{name: value})
        )
        return params_sha256(Corruption(run, tokenizer)(batch, [(0,), (1,)]))

    apart(name, HIDDEN[kind, name], see)


# --------------------------------------------------------------------------------------------------------- all of them


def test_every_field_has_a_probe():
    members = typing.get_args(next(f.type for f in dataclasses.fields(Config) if f.name == 'objective'))
    nested = {'rollout': RolloutConfig, 'reward': RewardConfig}
    fields = {(m, f.name) for m in members for f in dataclasses.fields(m) if f.name not in nested}
    probed = {*GIVEN, *POLICY, *HIDDEN, (SFT, 'train_on'), (SFT, 'packing')}
    probed |= {(kind, 'vocabulary_chunk') for kind in (NextToken, SFT, Masked, PrefixLM, SpanCorruption)}
    # Which teacher, at which step, and whether it is stored: tests/training/distillation_run_test.py.
    probed |= {(Distillation, name) for name in ('vocabulary_chunk', 'teacher', 'teacher_step', 'stored')}
    assert fields == probed
    assert {f.name for f in dataclasses.fields(RolloutConfig)} == set(ROLLOUTS)
    rewards = {'function_weight', 'missing_eos_penalty', 'ensemble', 'models', 'function'}
    assert {f.name for f in dataclasses.fields(RewardConfig)} == rewards
    assert {f.name for f in dataclasses.fields(LoRAConfig)} == set(LORA)
