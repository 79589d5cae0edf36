"""Mesh arithmetic: what fits, what is refused, and with which words."""

import jax
import numpy as np
import pytest

from llm.config import (
    SFT,
    Config,
    DataConfig,
    LoRAConfig,
    ModelConfig,
    ParallelConfig,
    RewardModel,
    SpanCorruption,
    TrainingConfig,
)
from llm.errors import UserError
from llm.parallel import axes
from llm.parallel import mesh as mesh_lib
from llm.training.train_state import abstract_state
from llm.tree import named_leaves

EVERYTHING = ModelConfig(
    num_layers=1,
    width=32,
    num_heads=4,
    activation='swiglu',
    position='learned',
    qk_norm=True,
    norm_placement='both',
    norm='layernorm',
    embedding_norm=True,
    tied_embeddings=False,
    biases=('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm', 'lm_head'),
)


@pytest.mark.parametrize(
    'asked, sizes',
    [
        ({}, (8, 1, 1, 1)),
        ({'fsdp': 4}, (2, 4, 1, 1)),
        ({'data': 1, 'fsdp': 2, 'context': 2, 'tensor': 2}, (1, 2, 2, 2)),
    ],
)
def test_data_takes_what_the_rest_leaves(asked, sizes):
    assert tuple(mesh_lib.make_mesh(ParallelConfig(**asked), jax.devices()[:8]).shape.values()) == sizes


@pytest.mark.parametrize('asked', [{'fsdp': 3}, {'data': 4}, {'data': 2, 'tensor': 8}, {'tensor': 16}])
def test_a_mesh_that_does_not_fit_the_devices(asked):
    with pytest.raises(UserError, match='there are 8 devices'):
        mesh_lib.make_mesh(ParallelConfig(**asked), jax.devices()[:8])


@pytest.mark.parametrize(
    'parallel, changes, words',
    [
        ({}, {'training': TrainingConfig(batch_size=12)}, r'micro-batch .* is 12; .* 8 devices along data x fsdp'),
        ({}, {'training': TrainingConfig(batch_size=16, accumulation=4)}, r'micro-batch .* is 4; .* 8 devices'),
        ({'context': 8}, {'data': DataConfig(sequence_length=12)}, 'data.sequence_length is 12; .* parallel.context'),
        ({'tensor': 8}, {}, r'model.num_heads is 4; it must be a multiple of the 8 devices along parallel.tensor'),
        ({'tensor': 4}, {'model': ModelConfig(num_kv_heads=2)}, 'model.num_kv_heads is 2; .* parallel.tensor'),
        ({'tensor': 4}, {'model': ModelConfig(vocab_size=4098)}, 'model.vocab_size is 4098; .* parallel.tensor'),
        ({'fsdp': 8}, {'model': ModelConfig(width=36, head_dim=8)}, 'model.width is 36; .* parallel.fsdp'),
    ],
)
def test_parts_must_be_equal(parallel, changes, words):
    config = Config(parallel=ParallelConfig(**parallel), **changes)
    with pytest.raises(UserError, match=words):
        mesh_lib.check_divides(config, mesh_lib.make_mesh(config.parallel, jax.devices()[:8]))


def test_pmap_is_data_parallel_only():
    with pytest.raises(ValueError, match=r'parallel\.wrapper'):
        ParallelConfig(wrapper='pmap', tensor=2)


def test_every_parameter_has_a_rule_and_every_rule_a_parameter():
    images = ModelConfig(image_size=4, patch_size=2, image_positions='learned')
    runs = (
        Config(model=EVERYTHING),
        Config(model=EVERYTHING, objective=RewardModel(), lora=LoRAConfig(rank=1)),
        Config(model=images, objective=SFT()),
        Config(model=ModelConfig(encoder_layers=2), objective=SpanCorruption()),
    )
    params = {name: leaf for run in runs for name, leaf in named_leaves(abstract_state(run).params)}
    untied = set(params)
    first = {name: next(i for i, (p, _) in enumerate(axes.PARAMETERS) if axes.re.search(p, name)) for name in untied}
    assert set(first.values()) == set(range(len(axes.PARAMETERS)))
    for name, leaf in params.items():
        assert len(axes.parameter_spec(name)) <= len(leaf.shape)
    with pytest.raises(ValueError, match='no sharding'):
        axes.parameter_spec('blocks/mystery')


@pytest.mark.parametrize('asked', [{}, {'data': 2, 'context': 4}, {'fsdp': 8}])
def test_placed_batches_are_whole_again(asked):
    mesh = mesh_lib.make_mesh(ParallelConfig(**asked), jax.devices()[:8])
    x = np.arange(16 * 12).reshape(16, 12)
    placed = mesh_lib.place(mesh, 16, {'x': x})['x']
    np.testing.assert_array_equal(np.asarray(placed), x)
    rows = 16 // (mesh.shape['data'] * mesh.shape['fsdp'])
    assert placed.sharding.shard_shape(x.shape) == (rows, 12 // mesh.shape['context'])
