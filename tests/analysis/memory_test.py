import dataclasses
import math

import pytest

from llm.analysis import flops, memory, step_memory
from llm.config import SGD, AdamW, Config, DataConfig, Lion, ModelConfig, Muon, NextToken, TrainingConfig

TINY = ModelConfig(vocab_size=50, context_length=32, num_layers=2, width=16, num_heads=4)


def config(model=TINY, **overrides):
    defaults = {'data': DataConfig(sequence_length=32), 'training': TrainingConfig(batch_size=4)}
    return Config(model=model, **(defaults | overrides))


@pytest.mark.parametrize(
    'changes',
    [
        {},
        {'tied_embeddings': False, 'activation': 'gelu'},
        {'num_kv_heads': 2, 'head_dim': 6, 'position': 'learned'},
        {'biases': ('query', 'attention_output', 'feed_forward'), 'norm_placement': 'both', 'qk_norm': True},
    ],
)
def test_the_kernels_of_the_table_are_the_n_of_flops(changes):
    model = dataclasses.replace(TINY, **changes)
    table = memory.parameter_table(model)
    assert memory.parameter_count(model) == sum(math.prod(row.shape) for row in table)
    kernels = sum(row.count for row in table if row.part.endswith('kernel'))
    assert kernels + (model.vocab_size * model.width if model.tied_embeddings else 0) == flops.matmul_weights(model)


def test_the_table_follows_a_token_through_the_model():
    table = memory.parameter_table(dataclasses.replace(TINY, tied_embeddings=False, position='learned'))
    roots = list(dict.fromkeys(row.part.split('/')[0] for row in table))
    assert roots == ['embedding', 'positions', 'blocks', 'final_norm', 'lm_head']
    assert memory.Part('blocks/attention/query/kernel', (2, 16, 16), 512) in table


def test_parameters_and_their_copies_are_exact():
    parameters = 4 * memory.parameter_count(TINY)
    counters = 16  # bytes of step counts in an optimizer's state, at most
    plain = memory.memory_estimate(config())
    assert plain.parameters == parameters
    assert plain.ema == 0
    assert 0 <= plain.optimizer - 2 * parameters <= counters
    for optimizer in (Lion(), SGD()):
        assert 0 <= memory.memory_estimate(config(optimizer=optimizer)).optimizer - parameters <= counters
    matrices = 4 * sum(
        row.count for row in memory.parameter_table(TINY) if row.part.endswith('kernel')
    )  # Muon keeps one moment of these
    muon = memory.memory_estimate(config(optimizer=Muon())).optimizer
    assert 0 <= muon - (2 * parameters - matrices) <= 2 * counters
    averaged = memory.memory_estimate(config(training=TrainingConfig(batch_size=4, accumulation=2, ema_decay=0.9)))
    assert averaged.ema == parameters
    half = memory.memory_estimate(config(dataclasses.replace(TINY, param_dtype='bfloat16'), optimizer=AdamW()))
    assert half.parameters == parameters // 2


def test_the_parts_are_the_compilers_own_sum():
    estimate = memory.memory_estimate(config())
    assert estimate.total == sum(estimate.parts().values())
    assert estimate.total == step_memory.predict(step_memory.abstract_step(config()))[0].peak


@pytest.mark.slow
def test_activations_grow_by_the_layer_and_the_row_and_shrink_with_remat():
    def activations(rows=4, **changes):
        training = TrainingConfig(batch_size=rows)
        return memory.memory_estimate(config(dataclasses.replace(TINY, **changes), training=training)).activations

    layers = [activations(num_layers=layers) for layers in (4, 5, 6)]
    # Unrolled, the order of operations shifts an array here and there; in a loop, every layer keeps the same.
    assert layers[2] - layers[1] == pytest.approx(layers[1] - layers[0], rel=0.05)
    layers = [activations(num_layers=layers, remat='dots') for layers in (4, 5, 6)]
    assert layers[2] - layers[1] == layers[1] - layers[0] > 0
    rows = [activations(rows) for rows in (4, 6, 8)]
    assert rows[2] - rows[1] == rows[1] - rows[0] > 0
    deep = {'num_layers': 12}
    assert activations(**deep) > activations(remat='dots', **deep) > activations(remat='full', **deep)
    # With everything recomputed, a layer keeps no more than its input: rows x length x width float32 numbers.
    full = [activations(num_layers=layers, remat='full') for layers in (12, 13)]
    assert full[1] - full[0] == 4 * 32 * 16 * 4


def test_logits_are_those_that_exist_at_once():
    large = dataclasses.replace(TINY, vocab_size=4096, num_layers=1)
    whole = memory.memory_estimate(config(large)).logits
    one = 4 * 32 * 4096 * 4
    assert 2 * one <= whole <= 4 * one  # with their gradient, and what the gradient is made of
    chunked = memory.memory_estimate(config(large, objective=NextToken(vocabulary_chunk=8))).logits
    assert chunked < whole / 3  # four times fewer positions, and the gradients of a chunk


@pytest.mark.slow
def test_a_model_that_fits_no_machine_is_predicted_too():
    model = ModelConfig(
        vocab_size=128_256,
        context_length=8192,
        num_layers=80,
        width=8192,
        num_heads=64,
        num_kv_heads=8,
        feed_forward_width=28_672,
        tied_embeddings=False,
        remat='full',
    )
    assert memory.parameter_count(model) == 70_553_706_496  # Llama 3 70B, as published
    huge = config(model, data=DataConfig(sequence_length=8192), training=TrainingConfig(batch_size=16))
    assert memory.memory_estimate(huge).activations >= 80 * 16 * 8192 * 8192 * 4  # the residual stream of each layer
