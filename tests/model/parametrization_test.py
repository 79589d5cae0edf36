"""At the base width μP is the standard parametrisation to the bit; from there all follows Yang et al. 2022, table 8."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import SGD, Adafactor, AdamW, Config, Constant, DataConfig, Lion, ModelConfig, Muon, NextToken
from llm.model import KVCache, Transformer, parametrization
from llm.model.initializers import head_kernel, kernel_init
from llm.objectives import registry
from llm.training.optimizer import hyperparameters, make_optimizer
from llm.training.train_state import create_state, initial_model
from llm.training.train_step import hyperparameters as all_hyperparameters
from llm.training.train_step import make_train_step
from llm.tree import named_leaves

SMALL = ModelConfig(vocab_size=24, context_length=8, num_layers=1, width=16, num_heads=2, feed_forward_width=24)
OPTIMIZERS = {cls.kind: cls for cls in (AdamW, Lion, Muon, Adafactor, SGD)}
TOKENS = np.random.default_rng(0).integers(0, 24, (2, 9)).astype(np.int32)
BATCH = {
    'inputs': jnp.asarray(TOKENS[:, :-1]),
    'targets': jnp.asarray(TOKENS[:, 1:]),
    'loss_weights': jnp.ones((2, 8)),
    'segment_ids': jnp.ones((2, 8), jnp.int32),
    'positions': jnp.tile(jnp.arange(8, dtype=jnp.int32), (2, 1)),
}


# The programs run for an instant: what counts is how fast they compile.
compiled = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def mup(model: ModelConfig, base_width: int) -> ModelConfig:
    return dataclasses.replace(model, parametrization='mup', base_width=base_width)


# ------------------------------------------------------------------------------------------------- at the base width


@pytest.mark.parametrize('model', [{}, {'tied_embeddings': False, 'init_kernel': 'normal', 'qk_norm': True}], ids=str)
def test_starts_and_updates_at_the_base_width_are_those_of_the_standard_one(model):
    def trained(model):
        config = Config(model=model, data=DataConfig(sequence_length=8), schedule=Constant(warmup=0))

        @compiled
        def run(hyper):
            state = create_state(config, 0)
            return [state.params, make_train_step(config)(state, BATCH, hyper)[0].params]

        return [dict(named_leaves(params)) for params in run(all_hyperparameters(config))]

    model = dataclasses.replace(SMALL, **model)
    for one, other in zip(trained(model), trained(mup(model, 16)), strict=True):
        for name, leaf in one.items():
            npt.assert_array_equal(leaf, other[name], err_msg=name)


TREE = {
    'embedding': {'table': (24, 16)},
    'blocks': {
        'attention_norm': {'scale': (2, 16)},
        'attention': {'query': {'kernel': (2, 16, 16), 'lora_a': (2, 16, 3), 'lora_b': (2, 3, 16)}},
    },
    'lm_head': {'kernel': (16, 24), 'bias': (24,)},
    'reward_head': {'kernel': (16, 1)},
}


def drawn(seed: int) -> dict:
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: draw.normal(size=shape), TREE, is_leaf=lambda x: isinstance(x, tuple))


def moved(optimizer, model: ModelConfig, gradients_times: float = 1.0) -> dict[str, np.ndarray]:
    """What the second of two updates adds to each parameter."""
    config = Config(model=model, data=DataConfig(sequence_length=8), optimizer=optimizer, schedule=Constant(warmup=0))
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, clip_norm=None))

    @compiled
    def updates(hyper):
        chain = make_optimizer(config, hyper)
        params = jax.tree.map(jnp.float32, drawn(0))
        state = chain.init(params)
        for seed in (1, 2):
            gradients = jax.tree.map(lambda g: jnp.float32(g * gradients_times), drawn(seed))
            steps, state = chain.update(gradients, state, params)
        return steps

    return {name: np.asarray(leaf) for name, leaf in named_leaves(updates(hyperparameters(config)))}


@pytest.mark.parametrize('kind', OPTIMIZERS)
def test_every_optimizer_at_the_base_width_is_the_standard_one(kind):
    one, other = (moved(OPTIMIZERS[kind](), model) for model in (SMALL, mup(SMALL, 16)))
    for name, leaf in one.items():
        npt.assert_array_equal(leaf, other[name], err_msg=name)


# ---------------------------------------------------------------------------------------------- four times as wide

# Written out from the papers: (Adam and Lion, Muon, Adafactor, SGD) at four times the base width.
RATES = {
    'embedding/table': (1, 1, 1, 4),
    'blocks/attention_norm/scale': (1, 1, 1, 4),
    'blocks/attention/query/kernel': (1 / 4, 1, 1 / 2, 1),
    'blocks/attention/query/lora_a': (1 / 4, 1 / 2, 1 / 2, 1 / 4),
    'blocks/attention/query/lora_b': (1, 1, 1, 4),
    'lm_head/kernel': (1, 1, 1, 4),
    'lm_head/bias': (1, 1, 1, 4),
    'reward_head/kernel': (1 / 4, 1 / 4, 1, 1 / 4),
}


@pytest.mark.parametrize('kind', OPTIMIZERS)
def test_steps_of_a_wider_model(kind):
    column = {'adamw': 0, 'lion': 0, 'muon': 1, 'adafactor': 2, 'sgd': 3}[kind]
    standard, wider = (moved(OPTIMIZERS[kind](weight_decay=0.0), model) for model in (SMALL, mup(SMALL, 4)))
    assert standard.keys() == RATES.keys()
    for name, rates in RATES.items():
        npt.assert_allclose(wider[name], rates[column] * standard[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('kind', OPTIMIZERS)
def test_weights_decay_as_fast_at_every_width(kind):
    standard, wider = (
        moved(OPTIMIZERS[kind](weight_decay=0.5), model, gradients_times=0.0) for model in (SMALL, mup(SMALL, 4))
    )
    assert np.abs(standard['blocks/attention/query/kernel']).max() > 1e-5
    for name, leaf in standard.items():
        npt.assert_array_equal(leaf, wider[name], err_msg=name)


@pytest.mark.parametrize(
    'optimizer', [AdamW(epsilon=0.5, weight_decay=0.0), Muon(weight_decay=0.0)], ids=['adamw', 'muon']
)
def test_epsilon_shrinks_with_the_gradients_of_a_wider_model(optimizer):
    size = 1.0 if optimizer.kind == 'adamw' else 1e-8  # where epsilon counts
    standard, wider = moved(optimizer, SMALL, size), moved(optimizer, mup(SMALL, 4), size / 4)
    for name in ('embedding/table', 'blocks/attention_norm/scale', 'lm_head/kernel'):
        npt.assert_allclose(wider[name], standard[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    'init, hidden, head', [('fan_in', 64**-0.5, 16**-0.5), ('normal', 0.3 / 2, 0.3)], ids=['fan_in', 'normal']
)
def test_starts_of_a_wider_model(init, hidden, head):
    """Hidden kernels as 1 / sqrt(fan_in), the head as at the base."""
    model = dataclasses.replace(SMALL, width=64, init_kernel=init, init_std=0.3, init_output='plain')
    for role, std in {'input': hidden, 'output': hidden, 'head': head}.items():
        drawn = kernel_init(mup(model, 16), role)(jax.random.key(0), (64, 96), jnp.float32)
        npt.assert_allclose(np.std(drawn), std, rtol=0.03, err_msg=role)


def test_a_reward_head_starts_smaller_in_a_wider_model():
    key = jax.random.key(0)
    standard, same, wider = (head_kernel(model, key, 'reward_head') for model in (SMALL, mup(SMALL, 16), mup(SMALL, 4)))
    npt.assert_array_equal(same, standard)
    npt.assert_allclose(wider, standard / 2, rtol=1e-6)


@pytest.mark.parametrize(
    'settings, scale',
    [
        ({}, 8**-0.5),
        ({'parametrization': 'mup', 'base_width': 16}, 8**-0.5),
        ({'parametrization': 'mup', 'base_width': 4}, 2**-0.5 / 4),  # heads of 8, at the base of 2
        ({'parametrization': 'mup', 'base_width': 4, 'head_dim': 8}, 8**-0.5),  # heads of 8 at every width
        ({'parametrization': 'mup', 'base_width': 4, 'attention_scale': 0.3}, 0.3 / 4),
        ({'attention_scale': 0.3}, 0.3),
    ],
    ids=str,
)
def test_the_scale_of_scores(settings, scale):
    assert parametrization.attention_scale(dataclasses.replace(SMALL, **settings)) == pytest.approx(scale, rel=1e-12)


# ---------------------------------------------------------------------------------------------- the same everywhere


@pytest.fixture(scope='module', params=[True, False], ids=['tied', 'untied'])
def wide(request):
    """A model four times as wide as its base, and parameters with which everything matters."""
    model = mup(dataclasses.replace(SMALL, tied_embeddings=request.param, init_std=0.5), 4)
    return model, compiled(lambda: initial_model(model, 0))()


def test_decoding_gives_the_logits_of_training(wide):
    model, params = wide
    tokens = jnp.asarray(TOKENS[:, :8])

    @compiled
    def both(params):
        cache, seen = KVCache.create(model, 2, 8), []
        for piece in (tokens[:, :5], tokens[:, 5:7], tokens[:, 7:]):
            output = Transformer(model).apply({'params': params}, piece, cache=cache)
            cache = output.cache
            seen.append(output.logits)
        return Transformer(model).apply({'params': params}, tokens).logits, jnp.concatenate(seen, axis=1)

    whole, pieces = both(params)
    assert whole.std() > 0.05
    npt.assert_allclose(pieces, whole, atol=1e-5)


def test_chunks_and_backends_give_one_loss_and_gradient(wide):
    model, params = wide

    def loss(chunk, backend):
        own = dataclasses.replace(model, attention_backend=backend)
        config = Config(
            model=own, data=DataConfig(sequence_length=8), objective=NextToken(vocabulary_chunk=chunk, z_loss=0.1)
        )
        numbers = all_hyperparameters(config)['objective']
        total = lambda p: registry.make_loss(config, Transformer(own), numbers)(
            p, jax.tree.map(jnp.asarray, BATCH), None
        )[0]
        return compiled(jax.value_and_grad(total))(params)

    value, gradient = loss(0, 'reference')
    other, other_gradient = loss(3, 'blocks')
    npt.assert_allclose(other, value, rtol=1e-5)
    jax.tree.map(lambda x, y: npt.assert_allclose(x, y, atol=1e-4), other_gradient, gradient)
