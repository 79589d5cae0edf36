"""However a step of DPO, a reward model or adapters is cut over devices, it is the same step."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from llm import runtime
from llm.config import (
    DPO,
    AdamW,
    Config,
    Constant,
    DataConfig,
    LoRAConfig,
    ModelConfig,
    ParallelConfig,
    RewardModel,
    TrainingConfig,
)
from llm.parallel import mesh as mesh_lib
from llm.parallel.step import TrainStep
from llm.training.train_state import create_state, placed_state
from llm.training.train_step import hyperparameters

STEPS, ROWS, LENGTH, VOCABULARY = 6, 16, 12, 16
CUTS = {'fsdp x tensor': ParallelConfig(fsdp=4, tensor=2), 'pmap': ParallelConfig(wrapper='pmap')}
RUNS = {
    'dpo with lora': {'objective': DPO(), 'lora': LoRAConfig(rank=4)},
    'rankings': {'objective': RewardModel(centring=0.01)},
}
RESPONSES = {'dpo with lora': 2, 'rankings': 3}


def config(name):
    return Config(
        model=ModelConfig(vocab_size=VOCABULARY, context_length=LENGTH, num_layers=1, width=32, num_heads=4),
        data=DataConfig(sequence_length=LENGTH),
        optimizer=AdamW(learning_rate=1e-2),
        schedule=Constant(warmup=1),
        training=TrainingConfig(batch_size=ROWS),
        **RUNS[name],
    )


def batch(step, responses):
    """Prompts and responses of many lengths; half of the rankings lack their last response."""
    draw = np.random.default_rng(step)
    prompts = draw.integers(1, 5, (ROWS, 1)).repeat(responses, axis=1).astype(np.int32)
    lengths = np.minimum(prompts + draw.integers(1, 8, (ROWS, responses)), LENGTH).astype(np.int32)
    scores = np.tile(np.arange(responses)[::-1].astype(np.float32), (ROWS, 1))
    if responses > 2:
        lengths[::2, -1] = 0
    return {
        'tokens': draw.integers(0, VOCABULARY, (ROWS, responses, LENGTH)).astype(np.int32),
        'prompt_lengths': prompts,
        'lengths': lengths,
        'scores': scores,
        'indices': np.arange(ROWS, dtype=np.int32),
        'reference_logprobs': draw.normal(-10, 2, (ROWS, responses)).astype(np.float32),
    }


def losses(name, parallel, devices):
    run = runtime.resolve(dataclasses.replace(config(name), parallel=parallel))
    mesh = mesh_lib.make_mesh(parallel, jax.devices()[:devices])
    placed = placed_state(run, mesh)
    step = TrainStep(run, mesh, placed)
    places = jax.tree.map(lambda leaf: leaf.sharding, placed)
    state = jax.jit(lambda: create_state(run, 0), out_shardings=places)()
    hyper = jax.device_put(hyperparameters(run), mesh_lib.replicated(mesh))
    curve = []
    for number in range(STEPS):
        state, metrics = step(state, step.place(batch(number % 2, RESPONSES[name])), hyper)
        total, weight = jax.device_get(metrics['loss'])
        curve.append(total / weight)
    return np.array(curve)


@functools.cache
def alone(name):
    return losses(name, ParallelConfig(), 1)


@pytest.mark.parametrize(
    'name, cut',
    [
        ('rankings', 'fsdp x tensor'),
        pytest.param('dpo with lora', 'pmap', marks=pytest.mark.slow),
        pytest.param('rankings', 'pmap', marks=pytest.mark.slow),
        pytest.param('dpo with lora', 'fsdp x tensor', marks=pytest.mark.slow),
    ],
)
def test_one_curve(name, cut):
    curve = losses(name, CUTS[cut], 8)
    np.testing.assert_allclose(curve, alone(name), rtol=2e-5)
    assert curve[0] - curve[-2] > 0.01  # the same batch
