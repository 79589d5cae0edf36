"""Every kind once through the command, on the smallest shapes there are."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from llm import command_line
from llm.benchmark import limits, models, options, runner, train_step
from llm.benchmark.result import Case, Result
from llm.config import Config, DataConfig, ModelConfig, TrainingConfig
from llm.errors import UserError

ROOT = pathlib.Path(command_line.__file__).parent.parent
SMALL = ['model.vocab_size=64', 'model.compute_dtype=float32', 'model.activation=relu', 'optimizer={"kind": "sgd"}']
MODEL = ['--layers', '1', '--width', '64', '--batch', '2', '--set', *SMALL]
BRIEF = ['--warmup', '1', '--no-progress', '--repeats']
BARE = ('tyro', 'grain', 'tensorflow_datasets', 'matplotlib', 'tensorboardX', 'orbax', 'tqdm', 'jinja2', 'filelock')


@pytest.fixture(autouse=True)
def small_limits(monkeypatch):
    monkeypatch.setattr(limits, 'default_sizes', lambda: (128,))
    monkeypatch.setattr(limits, 'default_megabytes', lambda: (1,))


@pytest.fixture
def benchmark(tmp_path, capsys):
    """`benchmark(kind, argument, ...) -> Result`; checks what every kind has to print and leave."""

    def run(kind: str, *arguments: str, repeats: int = 2) -> Result:
        out = tmp_path / kind
        code = command_line.main(['benchmark', kind, *arguments, *BRIEF, str(repeats), '--out', str(out)])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        result = Result.load(out / f'{kind}.json')
        assert (out / f'{kind}.md').read_text() == printed.out
        assert 'not in the table of data sheets' in printed.out
        for name in ('jax', 'jaxlib', 'flax', 'optax', 'python', 'device', 'cpu', 'cores', 'code', 'xla_flags', 'date'):
            assert name in result.environment
        for case in result.cases:
            assert bool(case.seconds) != bool(case.unavailable)
            assert case.name in printed.out
            if case.seconds:
                assert len(case.seconds) == repeats
                assert case.kernel
        return result

    return run


def test_training_steps(benchmark):
    on = benchmark('train', *MODEL, '--length', '16', '--masking', 'on')
    off = benchmark('train', *MODEL, '--length', '16', '--masking', 'off', '--no-compiled-cost')
    assert [case.shape['masking'] for case in (*on.cases, *off.cases)] == [True, False]
    assert off.cases[0].flops['compiled'] is None
    for case in on.cases:
        assert case.tokens == 32
        assert case.flops['6N'] < case.flops['6N+attention_causal'] < case.flops['6N+attention_full']
        # One layer has no loop, so the compiler sees all of it, and the elementwise work besides.
        assert case.flops['6N+attention_full'] < case.flops['compiled'] < 6 * case.flops['6N+attention_full']
        assert case.derived['mfu']['6N+attention_causal']['datasheet'] is None
        assert 0 < case.derived['mfu']['6N+attention_causal']['measured'] < 1.2
        assert case.memory['argument'] > 0
        assert case.compile_seconds['first_call'] > 0


def test_a_trace_of_steady_steps_is_written(tmp_path):
    step = jax.jit(lambda state, x: (state + 1, {'loss': x.sum()}), donate_argnums=0)
    state = train_step.trace(step, jnp.zeros(()), lambda i: (jnp.ones(4) * i,), tmp_path)
    assert state == 2 + train_step.PROFILED_STEPS
    assert len(list(tmp_path.rglob('perfetto_trace.json.gz'))) == 1


def test_without_document_masking_a_batch_says_nothing_of_documents():
    batch = lambda masking: train_step.random_batch(
        Config(data=DataConfig(sequence_length=8, document_masking=masking)), jax.random.key(0)
    )
    assert batch(True).keys() - batch(False).keys() == {'segment_ids', 'positions'}


def test_attention(benchmark):
    shape = ['--batch', '2', '--heads', '4', '--kv-heads', '2', '--length', '32', '--head-dim', '8']
    result = benchmark('attention', *shape, '--dtypes', 'float32', '--masking', 'on', '--window', '8')
    ran = [case for case in result.cases if case.backend == 'reference']
    assert [case.shape['direction'] for case in ran] == ['forward', 'forward+backward']
    assert ran[1].flops['attention_causal'] == 3 * ran[0].flops['attention_causal']
    missing = {case.backend for case in result.cases if case.unavailable}
    assert {'cudnn', 'splash'} <= missing


def test_matrix_products(benchmark):
    result = benchmark('matmul', '--sizes', '64', '--shapes', '32x16x64', '--megabytes', '1')
    assert {case.kernel for case in result.cases} == {*limits.IMPLEMENTATIONS, *limits.STREAMS}
    best = result.hardware['measured']
    for case in result.cases:
        for rate in case.derived['flops_per_second'].values():
            assert rate <= 1.01 * best['flops_per_second'][case.dtype] or rate == case.derived['flops_per_second'].get(
                'compiled'
            )
    assert best['bytes_per_second'] > 0


def test_decoding(benchmark):
    result = benchmark('decode', *MODEL, '--context', '8', '--new-tokens', '4')
    prefill, decode = result.cases
    assert prefill.tokens == 2 * 7
    assert decode.tokens == 2 * 4
    assert decode.derived['milliseconds_per_token'] > 0
    assert decode.derived['floor_milliseconds_per_token'] > 0
    # Every step reads all parameters, so writing costs more bytes per token than reading the prompt.
    assert decode.bytes['minimum'] / decode.tokens > prefill.bytes['minimum'] / prefill.tokens


def test_the_data_pipeline(benchmark, tmp_path):
    for i in range(40):
        (tmp_path / f'{i}.txt').write_text(f'document {i}: ' + 'some words and then more ' * 40)
    config = tmp_path / 'config.py'
    config.write_text(
        'from llm.config import *\n'
        'def get_config():\n'
        '    return Config(\n'
        '        model=ModelConfig(vocab_size=300, context_length=16, num_layers=1, width=16, num_heads=2),\n'
        "        tokenizer=TokenizerConfig(kind='byte'),\n"
        f"        data=DataConfig(corpora=('text:{tmp_path}/*.txt',), sequence_length=16),\n"
        '        training=TrainingConfig(batch_size=2))\n'
    )
    result = benchmark('data', '--config', str(config), '--batches', '4')
    pipeline, step = result.cases
    assert pipeline.tokens == step.tokens == 32
    assert pipeline.extra['data_to_step_ratio']['low'] <= pipeline.extra['data_to_step_ratio']['median']
    assert 'times as fast as the training step' in pipeline.notes[0]


@pytest.mark.slow
def test_compiling(benchmark):
    before = jax.config.jax_compilation_cache_dir
    result = benchmark('compile', *MODEL, '--length', '16', repeats=1)
    assert [case.shape['cache'] for case in result.cases] == ['cold', 'warm']
    cold, warm = (case.compile_seconds for case in result.cases)
    assert warm['compile'] < cold['compile']
    assert jax.config.jax_compilation_cache_dir == before


def test_what_cannot_run_is_an_error_if_asked_for_by_name(capsys, tmp_path):
    shape = ['--batch', '1', '--length', '8', '--dtypes', 'float32', '--out', str(tmp_path / 'out')]
    assert command_line.main(['benchmark', 'attention', *shape, '--backends', 'cudnn']) == 2
    said = capsys.readouterr().err
    assert "'cudnn' is not available" in said
    assert said.count('\n') == 1
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        ((), 'needs a kind'),
        (('trian',), 'perhaps you meant train'),
        (('train', '--widht', '3'), 'perhaps you meant --width'),
        (('train', '--layers', 'three'), '--layers'),
        (('train', '--dtypes', 'int8'), 'int8'),
        (('train', '--repeats', '0'), '--repeats is 0'),
        (('train', '--width', '100'), 'multiple of the head size'),
        (('train', '--set', 'model.widht=3'), 'model.widht=3'),
        (('train', '--set', 'model.remat=some'), 'model.remat'),
        (('train', '--devices', '99'), 'there are 8'),
        (('train', '--config', 'none.py'), 'none.py'),
        (('train', '--config', 'a.py', '--presets', 'gpt2-124m'), 'one of them'),
        (('decode', '--context', '9999'), '--context is 9999'),
        (('matmul', '--shapes', '3by4'), '3by4'),
        (('compare', 'a.json'), 'two files'),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, says):
    assert command_line.main(['benchmark', *arguments]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count('\n') == 1


@pytest.mark.parametrize('kind', list(options.KINDS))
def test_every_option_has_help(capsys, kind):
    with pytest.raises(SystemExit) as stop:
        options.parse(kind, ['--help'])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    if kind != 'compare':
        assert '--repeats N' in shown
        assert 'DIR' in shown


def test_help_waits_for_no_large_library():
    code = (
        'import sys\nfrom llm import command_line\n'
        'try:\n    command_line.main(["benchmark", "train", "--help"])\nexcept SystemExit:\n    pass\n'
        'print([n for n in ("jax", "numpy", "flax", "optax") if n in sys.modules], file=sys.stderr)'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == '[]'
    assert '--layers' in done.stdout


def test_a_machine_with_little_more_than_jax_can_measure(tmp_path):
    code = (
        'import runpy, sys\n'
        f'for name in {BARE!r}:\n    sys.modules[name] = None\n'
        'from llm.benchmark import limits\n'
        'limits.default_sizes = lambda: (64,)\nlimits.default_megabytes = lambda: (1,)\n'
        f'sys.argv = ["benchmark", "decode", "--context", "8", "--new-tokens", "2", "--repeats", "1", "--warmup", "1", '
        f'"--batch", "1", "--layers", "1", "--dtypes", "float32", "--out", {str(tmp_path)!r}]\n'
        'runpy.run_module("llm.benchmark", run_name="__main__")\n'
        'from llm.benchmark import train_step, attention, matmul, compile_time, compare\n'
    )
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '0/1' in done.stderr  # progress without tqdm
    assert json.loads((tmp_path / 'decode.json').read_text())['kind'] == 'decode'


def test_another_width_has_heads_of_the_same_size():
    config = Config(
        model=ModelConfig(width=64, num_heads=4, num_kv_heads=2, context_length=32, feed_forward_width=96),
        data=DataConfig(sequence_length=32),
        training=TrainingConfig(batch_size=4),
    )
    wide = models.changed(config, width=128, length=64, layers=3, batch=8, dtype='bfloat16')
    assert wide.model.key_size == config.model.key_size
    assert (wide.model.num_heads, wide.model.kv_heads, wide.model.hidden_width) == (8, 4, 192)
    assert (wide.data.sequence_length, wide.model.context_length, wide.training.batch_size) == (64, 64, 8)
    assert models.changed(config) == config


@pytest.mark.parametrize(('name', 'millions'), [('gpt2-124m', 124), ('gpt-1.3b', 1310)])
def test_named_shapes_have_the_size_of_their_name(name, millions):
    from llm.analysis.memory import parameter_count

    model = dataclasses.replace(models.PRESETS[name]().model, compute_dtype='float32')
    assert parameter_count(model) == pytest.approx(millions * 1e6, rel=0.02)
    assert models.PRESETS.keys() == set(options.PRESETS)


def test_out_of_memory_is_a_row_and_not_the_end(monkeypatch):
    def full():
        raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 1 byte')

    monkeypatch.setattr('llm.benchmark.attention.plan', lambda asked: [('huge', full)])
    result = runner.run('attention', options.Attention(dtypes=('float32',)))
    assert 'out of memory' in result.cases[0].unavailable


def test_what_was_measured_a_moment_ago_is_taken_over(monkeypatch):
    def again():
        raise AssertionError('measured twice')

    before = Case(kind='attention', name='before', shape={}, kernel='reference', seconds=(1.0,))
    monkeypatch.setattr('llm.benchmark.attention.plan', lambda asked: [('before', again)])
    result = runner.run('attention', options.Attention(dtypes=('float32',)), known={'before': before})
    assert result.cases[0].seconds == before.seconds


def test_rows_packed_with_documents_count_them_and_their_positions():
    packed = jax.device_get(train_step.random_documents(jax.random.key(0), 200, 64))
    segments, positions = packed['segment_ids'], packed['positions']
    starts = positions == 0
    assert (segments == starts.cumsum(axis=1)).all()
    assert (positions[:, 1:][~starts[:, 1:]] == positions[:, :-1][~starts[:, 1:]] + 1).all()
    assert segments.max(axis=1).mean() == pytest.approx(train_step.DOCUMENTS_PER_ROW, rel=0.1)


def test_one_impossible_shape_is_refused_before_anything_is_measured():
    with pytest.raises(UserError, match='multiple of the head size'):
        runner.run('train', options.Train(presets=('cpu-4x128',), width=(128, 100)))
