"""Updates equal PyTorch's (tests/fixtures) and those of the NumPy optimizers, on trees with the model's names."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import optax
import pytest
from reference import numpy_model
from reference import numpy_optimizers as ref

from llm.config import SGD, Adafactor, AdamW, Config, Constant, Lion, ModelConfig, Muon, TrainingConfig
from llm.training.optimizer import hyperparameters, make_optimizer

TORCH = np.load(pathlib.Path(__file__).parents[1] / 'fixtures' / 'torch_optimizers.npz')
SETTINGS = json.loads(str(TORCH['settings']))
KINDS = {'adamw': AdamW, 'sgd': SGD, 'lion': Lion, 'adafactor': Adafactor, 'muon': Muon}
# Float32 rounding; the Newton–Schulz iteration enlarges it for small singular values.
ATOL = {'adamw': 2e-6, 'sgd': 2e-6, 'lion': 2e-6, 'adafactor': 2e-6, 'muon': 2e-5}


def make_config(optimizer, warmup=0, clip_norm=None):
    return Config(optimizer=optimizer, schedule=Constant(warmup=warmup), training=TrainingConfig(clip_norm=clip_norm))


def trajectory(config, params, gradients):
    """The parameters after each update; the hyperparameters are arguments of one compiled function."""

    @jax.jit
    def update(params, state, gradient, hyper):
        updates, state = make_optimizer(config, hyper).update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    hyper = hyperparameters(config)
    params = jax.tree.map(jnp.float32, params)
    state, seen = make_optimizer(config, hyper).init(params), []
    for gradient in gradients:
        params, state = update(params, state, jax.tree.map(jnp.float32, gradient), hyper)
        seen.append(params)
    return seen


def assert_trees_close(actual, expected, step, atol=2e-6):
    def check(path, x, y):
        npt.assert_allclose(x, y, rtol=2e-5, atol=atol, err_msg=f'{jax.tree_util.keystr(path)}, update {step}')

    jax.tree_util.tree_map_with_path(check, actual, expected)


@pytest.mark.parametrize('name', ['adamw', 'sgd', 'muon'])
def test_five_warming_up_updates_equal_torch(name):
    def tree(prefix, step=...):
        read = lambda parameter: TORCH[f'{prefix}/{parameter}'][step]
        wide = {'query': {'kernel': np.stack([read('wide_0'), read('wide_1')])}}
        blocks = {'attention': wide, 'feed_forward': {'down': {'kernel': read('tall')[None]}}}
        if name == 'muon':
            return {'blocks': blocks}
        return {'blocks': blocks, 'embedding': {'table': read('tall')}, 'final_norm': {'scale': read('vector')}}

    config = make_config(KINDS[name](**SETTINGS[name]), warmup=SETTINGS['warmup'])
    gradients = [tree('gradients', step) for step in range(5)]
    for step, params in enumerate(trajectory(config, tree('initial'), gradients)):
        assert_trees_close(params, tree(name, step), step + 1, ATOL[name])


def per_matrix(f, *trees):
    """f(path, arrays) for every leaf, layer by layer under `blocks`: an optimizer sees each layer's matrix alone."""

    def leaf(path, *arrays):
        names = tuple(key.key for key in path)
        if names[0] == 'blocks':
            return np.stack([f((*names, layer), *slices) for layer, slices in enumerate(zip(*arrays))])
        return f(names, *arrays)

    return jax.tree_util.tree_map_with_path(leaf, *trees)


def numpy_trajectory(optimizer, params, gradients):
    """The same, by the NumPy optimizers: matrices decay, and Muon leaves what is not a block's matrix to AdamW."""
    states, seen = {}, []
    for step, gradient in enumerate(gradients, start=1):

        def update(path, p, g, step=step):
            settings, kind = dict(vars(optimizer)), optimizer.kind
            peak = settings.pop('adam_learning_rate', None)
            if kind == 'muon':
                momentum = settings.pop('momentum')
                adam = {name: settings.pop(name) for name in ('b1', 'b2')}
                if 'kernel' in path and path[0] == 'blocks':
                    settings['momentum'] = momentum
                else:
                    kind = 'adamw'
                    settings |= adam | {'learning_rate': peak}
            if p.ndim == 1:
                settings['weight_decay'] = 0.0
            return getattr(ref, kind)(p, g, states.setdefault(path, {}), step, **settings)

        params = per_matrix(update, params, gradient)
        seen.append(params)
    return seen


@pytest.mark.parametrize(
    'optimizer',
    [
        AdamW(learning_rate=0.01, weight_decay=0.2),
        SGD(learning_rate=0.1, weight_decay=0.2),
        Lion(learning_rate=0.01, weight_decay=0.5),
        Adafactor(learning_rate=0.05, weight_decay=0.2),
        Muon(learning_rate=0.05, adam_learning_rate=0.01, weight_decay=0.2),
    ],
    ids=lambda optimizer: optimizer.kind,
)
def test_updates_of_every_kind_of_parameter_equal_numpy(optimizer):
    """Matrices of 128 and more (optax factors no smaller ones); layers differ in their size and their gradients'."""
    shapes = {
        'embedding': {'table': (130, 128)},
        'blocks': {
            'attention_norm': {'scale': (2, 128)},
            'attention': {'query': {'kernel': (2, 128, 140), 'bias': (2, 140)}},
            'feed_forward': {'down': {'kernel': (2, 140, 128)}},
        },
        'final_norm': {'scale': (128,)},
        'lm_head': {'kernel': (128, 130), 'bias': (130,)},
    }
    rng = np.random.default_rng(0)

    def draw(path, shape):
        layers = np.array([1.0, 5.0]).reshape(-1, *[1] * (len(shape) - 1)) if path[0] == 'blocks' else 1.0
        return layers * rng.normal(size=shape)

    params = numpy_model.map_leaves(draw, shapes)
    gradients = [numpy_model.map_leaves(draw, shapes) for _ in range(4)]
    gradients[2] = jax.tree.map(lambda g: 10 * g, gradients[2])
    actual = trajectory(make_config(optimizer), params, gradients)
    for step, expected in enumerate(numpy_trajectory(optimizer, params, gradients)):
        assert_trees_close(actual[step], expected, step + 1, ATOL[optimizer.kind])


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_without_gradient_matrices_decay_and_vectors_stay(kind):
    model = ModelConfig(
        vocab_size=5,
        context_length=4,
        num_layers=2,
        width=8,
        num_heads=2,
        position='learned',
        qk_norm=True,
        norm_placement='both',
        embedding_norm=True,
        tied_embeddings=False,
        biases=('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm', 'lm_head'),
    )
    params = numpy_model.random_parameters(model)
    config = make_config(kind(learning_rate=0.5, weight_decay=0.4), warmup=2)
    zeros = jax.tree.map(np.zeros_like, params)

    def decayed(path, leaf):
        if path[-1] in ('scale', 'bias'):
            return leaf
        peak = getattr(config.optimizer, 'adam_learning_rate', 0.5) if path[0] != 'blocks' else 0.5
        return leaf * (1 - peak / 2 * 0.4)  # the first of two warming-up updates

    (actual,) = trajectory(config, params, [zeros])
    assert_trees_close(actual, numpy_model.map_leaves(decayed, params), 1)


@pytest.mark.parametrize('kind', [Lion, Adafactor, Muon])
def test_the_size_of_gradients_does_not_matter(kind):
    """Each of these divides it out, down to the small gradients of a large batch."""
    rng = np.random.default_rng(0)
    params, *gradients = ({'blocks': {'up': {'kernel': rng.normal(size=(2, 5, 4))}}} for _ in range(4))
    tiny = [jax.tree.map(lambda g: 1e-4 * g, gradient) for gradient in gradients]
    config = make_config(kind(learning_rate=0.1))
    pairs = zip(trajectory(config, params, tiny), trajectory(config, params, gradients))
    for step, (actual, expected) in enumerate(pairs, start=1):
        assert_trees_close(actual, expected, step, ATOL[kind.kind])


def test_gradients_are_clipped_to_the_global_norm():
    params = {'blocks': {'feed_forward': {'up': {'kernel': np.zeros((1, 1, 2))}}}, 'final_norm': {'scale': np.zeros(1)}}
    gradient = {
        'blocks': {'feed_forward': {'up': {'kernel': np.array([[[2.0, 3.0]]])}}},
        'final_norm': {'scale': np.array([6.0])},
    }  # of norm 7
    small = jax.tree.map(lambda g: g / 10, gradient)
    config = make_config(SGD(learning_rate=1.0, momentum=0.0), clip_norm=1.4)
    first, second = trajectory(config, params, [gradient, small])
    assert_trees_close(first, jax.tree.map(lambda g: -g / 5, gradient), 1)
    assert_trees_close(second, jax.tree.map(lambda g: -g / 5 - g / 10, gradient), 2)


def test_a_parameter_of_unknown_name_is_an_error():
    config = make_config(AdamW())
    params = {'blocks': {'adapter': {'mystery': jnp.zeros((2, 3, 3))}}}
    with pytest.raises(ValueError, match='blocks/adapter/mystery'):
        make_optimizer(config, hyperparameters(config)).init(params)


@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_whole_numbers_are_numbers(kind):
    config = make_config(kind(learning_rate=1, weight_decay=0))
    assert hyperparameters(config)['learning_rate'] == 1
    assert hyperparameters(config)['weight_decay'] == 0
