"""Which attention runs where, and that each gives the reference's numbers."""

import collections
import dataclasses
import functools
import itertools
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from llm.config import ModelConfig, ParallelConfig
from llm.model import KVCache, Transformer, attention_backends, attention_cudnn, attention_reference, attention_splash
from llm.parallel.mesh import make_mesh

SMALL = ModelConfig(
    vocab_size=13, context_length=16, num_layers=2, width=32, num_heads=4, num_kv_heads=2, compute_dtype='bfloat16'
)
NAMES = ('blocks', 'cudnn', 'splash')


@functools.cache
def start(config: ModelConfig):
    """Parameters from a seed."""
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.jit(lambda: Transformer(config).init(jax.random.key(0), tokens)['params'])()


def changed(**values) -> ModelConfig:
    return dataclasses.replace(SMALL, **values)


def inputs(batch=2, heads=4, kv_heads=2, length=9, head_dim=8, seed=0):
    """Queries, keys, values, and segment ids: two documents and padding in row 0, one document in the others."""
    draw = np.random.default_rng(seed)
    arrays = [jnp.asarray(draw.normal(size=(batch, n, length, head_dim)), jnp.float32) for n in (heads, kv_heads)]
    values = jnp.asarray(draw.normal(size=(batch, kv_heads, length, head_dim)), jnp.float32)
    segment_ids = np.ones((batch, length), np.int32)
    segment_ids[0, length // 3 :] = 2
    segment_ids[0, -length // 4 :] = 0
    return (*arrays, values), jnp.asarray(segment_ids)


def both_ways(attend, arrays, real, **settings):
    """What a backend mixes, and the gradients of a sum of it that leaves padding out."""
    settings = {'scale': 0.3, 'softcap': None, 'window': None, 'segment_ids': None} | settings
    settings['dtype'] = jnp.dtype('float32')

    def loss(*arrays):
        mixed = attend(*arrays, **settings)
        return jnp.sum(jnp.sin(jnp.where(real[:, None, :, None], mixed, 0.0))), mixed

    (_, mixed), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arrays)
    return np.where(real[:, None, :, None], mixed, 0), *map(np.asarray, gradients)


def assert_same(attend, arrays, segment_ids=None, **settings):
    """The backend and the reference agree where there is no padding, there and back."""
    real = np.ones((arrays[0].shape[0], arrays[0].shape[2]), bool) if segment_ids is None else segment_ids > 0
    expected = both_ways(attention_reference.attend, arrays, real, segment_ids=segment_ids, **settings)
    for a, b in zip(both_ways(attend, arrays, real, segment_ids=segment_ids, **settings), expected):
        npt.assert_allclose(a, b, atol=2e-5)
        assert np.abs(b).max() > 0.1, 'a comparison of zeros would prove nothing'


def by_definition(query, key, value, segment_ids, window, scale, softcap):
    """Attention one query at a time, in float64."""
    mixed = np.zeros(query.shape)
    for row, head, place in itertools.product(*map(range, query.shape[:3])):
        kv_head = head // (query.shape[1] // key.shape[1])
        seen = [
            j
            for j in range(place + 1)
            if (window is None or place - j < window) and segment_ids[row, j] == segment_ids[row, place]
        ]
        scores = np.asarray(key[row, kv_head, seen], np.float64) @ np.asarray(query[row, head, place]) * scale
        scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
        weights = np.exp(scores) / np.exp(scores).sum()
        mixed[row, head, place] = weights @ np.asarray(value[row, kv_head, seen])
    return mixed


@pytest.mark.parametrize('segmented', [True, False])
@pytest.mark.parametrize('window, softcap', [(None, None), (3, 0.5), (1, None)])
def test_the_reference_is_the_formula(segmented, window, softcap):
    arrays, segment_ids = inputs()
    ids = segment_ids if segmented else None
    settings = {'window': window, 'scale': 0.7, 'softcap': softcap}
    mixed = attention_reference.attend(*arrays, segment_ids=ids, **settings, dtype=jnp.dtype('float32'))
    ids = np.asarray(segment_ids) if segmented else np.ones_like(segment_ids)
    expected = by_definition(*arrays, ids, **settings)
    npt.assert_allclose(np.where(ids[:, None, :, None] > 0, mixed - expected, 0), 0, atol=1e-5)
    assert np.isfinite(mixed).all()


# ------------------------------------------------------------------------------------------------------ which of them


@pytest.mark.parametrize(
    'name, values, platform, reason',
    [
        ('cudnn', {}, 'cpu', 'it runs on a gpu, and this is a cpu'),
        ('splash', {}, 'gpu', 'it runs on a tpu, and this is a gpu'),
        ('blocks', {}, 'tpu', 'it runs on a cpu, and this is a tpu'),
        ('cudnn', {'compute_dtype': 'float32'}, 'gpu', 'takes bfloat16 or float16, and model.compute_dtype is float32'),
        ('cudnn', {'attention_softcap': 5.0}, 'gpu', 'model.attention_softcap'),
        ('cudnn', {'head_dim': 12}, 'gpu', 'multiple of 8 up to 128, and it is 12'),
        ('cudnn', {'head_dim': 136}, 'gpu', 'multiple of 8 up to 128, and it is 136'),
        ('splash', {'compute_dtype': 'float16'}, 'tpu', 'takes bfloat16 or float32'),
        ('cudnn', {'position': 'alibi'}, 'gpu', 'model.position alibi'),
        ('splash', {'position': 'alibi'}, 'tpu', 'model.position alibi'),
        ('cudnn', {'windows': (4, None)}, 'gpu', 'different windows'),
        ('splash', {'windows': (4, None)}, 'tpu', 'different windows'),
    ],
)
def test_what_a_model_cannot_have_says_why(name, values, platform, reason):
    assert reason in attention_backends.unavailable(name, changed(**values), platform)
    if platform == attention_backends.PLATFORM[name]:
        assert attention_backends.choose(changed(**values), platform) == 'reference'


@pytest.mark.parametrize(
    'values', [{}, {'windows': (4,)}, {'windows': (4, 4)}, {'windows': (4, None), 'num_layers': 1}]
)
@pytest.mark.parametrize('name, platform', [('cudnn', 'gpu'), ('splash', 'tpu')])
def test_each_platform_has_its_own(name, platform, values):
    assert attention_backends.unavailable(name, changed(**values), platform) is None
    assert attention_backends.choose(changed(**values), platform) == name
    assert attention_backends.unavailable('reference', changed(**values), platform) is None


@pytest.mark.parametrize(
    'gpu, head_dim, reason',
    [
        (('cuda', (9, 0)), 256, None),
        (('cuda', (8, 0)), 256, 'up to 128'),
        (('cuda', (8, 0)), 128, None),
        (('cuda', (7, 5)), 64, 'compute capability 8.0'),
        (('rocm', None), 64, 'NVIDIA'),
    ],
)
def test_cudnn_depends_on_the_gpu(monkeypatch, gpu, head_dim, reason):
    monkeypatch.setattr(attention_cudnn, '_gpu', lambda: gpu)
    found = attention_backends.unavailable('cudnn', changed(head_dim=head_dim), 'gpu')
    assert found is None if reason is None else reason in found


@pytest.mark.parametrize('name', ['cudnn', 'splash'])
def test_a_model_that_asks_for_what_is_not_here_does_not_run(name):
    tokens = jnp.zeros((1, 4), jnp.int32)
    model = Transformer(changed(attention_backend=name))
    params = start(model.config)  # which do not depend on it
    with pytest.raises(ValueError, match=f"attention_backend '{name}' is not available: it runs on a"):
        model.apply({'params': params}, tokens)


# --------------------------------------------------------------------------------------------------- inside the model


@pytest.fixture
def recorded(monkeypatch):
    """Calls of a backend that stands in for the platform's own and says it is `splash`."""
    calls = []

    def attend(query, key, value, **settings):
        calls.append(settings)
        return attention_reference.attend(query, key, value, **settings)

    monkeypatch.setattr(attention_backends, 'running', lambda model: 'splash')
    monkeypatch.setattr(attention_backends, 'backend', lambda name: attend)
    return calls


def run(config, **more):
    """Logits of a fixed row of tokens."""
    tokens = jnp.arange(12, dtype=jnp.int32)[None, :]
    apply = jax.jit(lambda params: Transformer(config).apply({'params': params}, tokens, **more).logits)
    return apply(start(config))


@pytest.mark.parametrize(
    'values', [{}, {'windows': (3,)}, {'attention_softcap': 0.5, 'attention_scale': 0.4}, {'position': 'learned'}]
)
def test_a_model_runs_its_backend_with_all_it_needs(recorded, monkeypatch, values):
    config = changed(compute_dtype='float32', **values)
    segment_ids = jnp.asarray([[1] * 5 + [2] * 7], jnp.int32)
    logits = run(config, segment_ids=segment_ids)
    settings = recorded[0]
    assert settings['window'] == config.windows[0] and settings['softcap'] == config.attention_softcap
    assert settings['scale'] == (config.attention_scale or 8**-0.5) and settings['dtype'] == jnp.float32
    assert settings['segment_ids'] is not None
    monkeypatch.setattr(attention_backends, 'running', lambda model: 'reference')
    npt.assert_allclose(logits, run(config, segment_ids=segment_ids), atol=1e-5)


def test_a_cache_or_captured_weights_take_the_reference(recorded):
    model, tokens, params = Transformer(SMALL), jnp.zeros((1, 4), jnp.int32), start(SMALL)
    show = lambda params: model.apply({'params': params}, tokens, mutable=['intermediates'])[1]['intermediates']
    (weights,) = jax.eval_shape(show, params)['blocks']['attention']['pattern']
    assert weights.shape == (2, 1, 4, 4, 4)
    jax.eval_shape(lambda params: model.apply({'params': params}, tokens, cache=KVCache.create(SMALL, 1, 8)), params)
    jax.eval_shape(model.init, jax.random.key(0), tokens)
    assert recorded == []
    jax.eval_shape(lambda params: model.apply({'params': params}, tokens), params)
    assert recorded


def arrays_of(function, *args):
    """Every (dtype, shape) that a function computes, at any depth."""
    found = collections.Counter()

    def look(jaxpr):
        for equation in jaxpr.eqns:
            for variable in equation.outvars:
                found[equation.primitive.name, variable.aval.shape] += 1
            for sub in jax.core.jaxprs_in_params(equation.params):
                look(sub)

    look(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def test_no_mask_is_made_when_a_backend_makes_its_own(monkeypatch):
    tokens, segment_ids = jnp.zeros((2, 12), jnp.int32), jnp.ones((2, 12), jnp.int32)
    config = changed(attention_backend='reference', windows=(3,))
    params = start(config)
    squares = lambda: [
        shape
        for _, shape in arrays_of(lambda p: Transformer(config).apply({'params': p}, tokens, segment_ids), params)
        if shape[-2:] == (12, 12)
    ]
    assert squares()
    monkeypatch.setattr(attention_backends, 'running', lambda model: 'splash')
    monkeypatch.setattr(attention_backends, 'backend', lambda name: lambda query, key, value, **settings: query)
    assert not squares()


@pytest.mark.parametrize('remat', ['none', 'dots', 'full'])
def test_the_backward_pass_repeats_the_softmax_once(remat):
    config = changed(attention_backend='reference', remat=remat)
    tokens = jnp.zeros((2, 12), jnp.int32)
    params = start(config)
    loss = lambda p: jnp.sum(Transformer(config).apply({'params': p}, tokens).logits)
    assert arrays_of(jax.grad(loss), params)['exp', (2, 4, 12, 12)] == 2


def lowered(config, platform, segmented, **jit):
    """The program of a model's gradient for a platform that need not be here."""
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)['params']

    def loss(params, tokens):
        segments = tokens + 1 if segmented else None
        return jnp.sum(Transformer(config).apply({'params': params}, tokens, segment_ids=segments).logits)

    return jax.jit(jax.grad(loss), **jit).trace(params, tokens).lower(lowering_platforms=(platform,)).as_text()


# -------------------------------------------------------------------------------------------------------------- cuDNN


@pytest.fixture
def cudnn_elsewhere(monkeypatch):
    """cuDNN's arguments on JAX's own implementation, which takes the same ones."""
    attention = jax.nn.dot_product_attention
    calls = []

    def instead(*args, implementation, **settings):
        assert implementation == 'cudnn'
        calls.append(settings | {'shape': args[0].shape})
        return attention(*args, implementation='xla', **settings)

    monkeypatch.setattr(jax.nn, 'dot_product_attention', instead)
    return calls


@pytest.mark.parametrize('length', [8, 9])
@pytest.mark.parametrize('kv_heads', [4, 2, 1])
@pytest.mark.parametrize('segmented', [True, False])
@pytest.mark.parametrize('window', [None, 2, 5])
def test_cudnn_is_asked_for_the_right_thing(cudnn_elsewhere, length, kv_heads, segmented, window):
    arrays, segment_ids = inputs(length=length, kv_heads=kv_heads)
    assert_same(attention_cudnn.attend, arrays, segment_ids if segmented else None, window=window)
    for settings in cudnn_elsewhere:
        assert settings['is_causal'] and (settings['mask'] is not None) == segmented
        assert not (segmented and settings['local_window_size']), 'with a bias, the window is in it'


def test_cudnn_refuses_a_soft_cap():
    arrays, _ = inputs()
    with pytest.raises(ValueError, match='no soft cap'):
        both_ways(attention_cudnn.attend, arrays, np.ones((2, 9), bool), softcap=1.0)


@pytest.mark.parametrize('segmented, kernel', [(False, 'fmhaSoftmax'), (True, 'fmhaScaleBiasSoftmax')])
@pytest.mark.parametrize('window', [None, 4])
@pytest.mark.parametrize('meshed', [False, True])
def test_the_cudnn_kernels_are_in_the_program_for_cuda(monkeypatch, segmented, kernel, window, meshed):
    """A GPU is not needed to lower for one. One forward and one backward kernel, for all layers are scanned."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, 'check_cudnn_version', lambda: 91000)
    monkeypatch.setattr(attention_backends, 'running', lambda model: 'cudnn')
    mesh = make_mesh(ParallelConfig(tensor=2 if meshed else 1), jax.devices()[: 4 if meshed else 1])
    with jax.set_mesh(mesh):
        program = lowered(changed(windows=(window,)), 'cuda', segmented)
    assert ('manual_computation' in program) == meshed
    assert sorted(re.findall(r'__cudnn\$(\w+)', program)) == [kernel, f'{kernel}Backward']
    in_kernel = 0 if window is None or segmented else window
    assert set(re.findall(r'sliding_window_length\W+22:? (\d+)', program)) == {str(in_kernel)}


ON_A_GPU = """
import itertools, jax, jax.numpy as jnp, numpy as np
from llm.model import attention_cudnn, attention_reference
draw = np.random.default_rng(0)
for length, kv_heads, window, segmented in itertools.product((128, 129), (4, 2), (None, 40), (True, False)):
    q, k, v = (jnp.asarray(draw.normal(size=(2, n, length, 64)), jnp.bfloat16) for n in (4, kv_heads, kv_heads))
    ids = jnp.asarray(np.sort(draw.integers(1, 4, (2, length)), axis=1), jnp.int32) if segmented else None
    settings = {'segment_ids': ids, 'window': window, 'scale': 0.1, 'softcap': None}
    def both(attend, dtype):
        loss = lambda *x: (lambda y: (jnp.sum(jnp.sin(y.astype(jnp.float32))), y))(attend(*x, **settings, dtype=dtype))
        (_, mixed), gradients = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
        return mixed, *gradients
    fast, exact = both(attention_cudnn.attend, jnp.dtype('bfloat16')), both(attention_reference.attend, jnp.dtype('float32'))
    for a, b in zip(fast, exact):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        assert np.abs(a - b).max() < 0.03 * max(1, np.abs(b).max()), (length, kv_heads, window, segmented)
print('same')
"""  # noqa: E501


@pytest.mark.skipif(shutil.which('nvidia-smi') is None, reason='needs an NVIDIA GPU')
def test_cudnn_equals_the_reference_on_a_gpu():
    """In a process of its own: the tests see CPUs alone."""
    env = {name: value for name, value in os.environ.items() if name not in ('JAX_PLATFORMS', 'XLA_FLAGS')}
    code = "import jax\nif jax.default_backend() != 'gpu': print('no gpu'); raise SystemExit\n" + ON_A_GPU
    done = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, timeout=600)
    if done.stdout.strip().endswith('no gpu'):
        pytest.skip('this JAX has no GPU')
    assert done.returncode == 0 and done.stdout.strip().endswith('same'), done.stderr[-2000:]


# ------------------------------------------------------------------------------------------------------------- splash

splash = functools.partial(attention_splash.attend, interpret=True)


@pytest.mark.parametrize(
    'kv_heads, segmented, settings',
    [(2, False, {}), (1, True, {'window': 30, 'softcap': 2.0})],
    ids=['plain', 'grouped, segments, window, softcap'],
)
def test_splash_equals_the_reference(kv_heads, segmented, settings):
    arrays, segment_ids = inputs(batch=2, heads=2, kv_heads=kv_heads, length=150)
    assert_same(splash, arrays, segment_ids if segmented else None, **settings)


@pytest.mark.parametrize('backend', ['splash', 'cudnn'])
def test_on_a_mesh_each_device_has_its_rows_and_heads(cudnn_elsewhere, backend):
    """Rows over two axes, heads over a third."""
    arrays, segment_ids = inputs(batch=4, heads=4, kv_heads=2, length=20)
    mesh = make_mesh(ParallelConfig(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))
        arrays, segment_ids = jax.device_put((arrays, segment_ids), rows)
        attend = splash if backend == 'splash' else attention_cudnn.attend
        assert_same(attend, arrays, segment_ids, window=7)
    assert all(call['shape'] == (1, 20, 2, 8) for call in cudnn_elsewhere), 'one row and two heads on each device'


def test_splash_inside_a_mesh_that_is_cut_up_already():
    arrays, segment_ids = inputs(batch=2, heads=2, length=20)
    mesh = make_mesh(ParallelConfig(), jax.devices()[:2])
    settings = {'window': None, 'scale': 0.3, 'softcap': None, 'dtype': jnp.dtype('float32')}
    attend = lambda *x: splash(*x[:3], segment_ids=x[3], **settings)
    row = PartitionSpec('data')
    mapped = jax.shard_map(attend, mesh=mesh, in_specs=(row,) * 4, out_specs=row, check_vma=False)
    expected = attention_reference.attend(*arrays, segment_ids=segment_ids, **settings)
    real = segment_ids[:, None, :, None] > 0
    npt.assert_allclose(jnp.where(real, jax.jit(mapped)(*arrays, segment_ids) - expected, 0), 0, atol=1e-5)


@pytest.mark.parametrize('values', [{}, {'windows': (4,), 'attention_softcap': 5.0, 'compute_dtype': 'float32'}])
@pytest.mark.parametrize('meshed', [False, True])
def test_the_splash_kernels_are_in_the_program_for_tpus(monkeypatch, values, meshed):
    """One kernel forward and two backward, for all layers are scanned; on a mesh, each device's rows alone."""
    monkeypatch.setattr(attention_backends, 'running', lambda model: 'splash')
    mesh = make_mesh(ParallelConfig(tensor=2 if meshed else 1), jax.devices()[: 4 if meshed else 1])
    with jax.set_mesh(mesh):
        program = lowered(changed(**values), 'tpu', segmented=True)
    assert len(re.findall('tpu_custom_call', program)) == 3
    assert ('manual_computation' in program) == meshed


def test_remat_of_a_block_with_splash_keeps_its_kernels(monkeypatch):
    monkeypatch.setattr(attention_backends, 'running', lambda model: 'splash')
    program = lowered(changed(remat='full'), 'tpu', segmented=False)
    assert len(re.findall('tpu_custom_call', program)) == 4  # forward twice
