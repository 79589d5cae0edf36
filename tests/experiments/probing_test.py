"""The probing experiment: labels of Python source, rows to read, and a model that is too small, from end to end."""

import json
import textwrap

import jax
import numpy as np
import pytest

from experiments.probing import __main__ as program
from experiments.probing import labels, measure, windows
from llm.config import CheckpointConfig, Config, DataConfig, EvaluationConfig, LogConfig, ModelConfig, TrainingConfig
from llm.errors import UserError
from llm.tokenizer import GlassboxTokenizer

SOURCE = textwrap.dedent(
    '''\
    """Über dies."""
    import os  # a (bracket

    def read(path, size=[1, {2: 3}]):
        "Doc."
        data = open(path).read(size)
        if data:
            return os.fsdecode(data), 'a (string'
        self.x = lambda y: y + data

    LAST = max(1,
               2)
    '''
)


def marks(task):
    """Each character of SOURCE with its label's name, '-' for none."""
    source = labels.label(SOURCE)
    names = labels.TASKS[task]
    values = source.labels[task]
    assert len(values) == len(source.data) == len(SOURCE.encode())
    return source, [names[v] if v != labels.NONE else '-' for v in values]


def at(source, marked, text, occurrence=0):
    """The label of the last byte of a piece of the source."""
    place = -1
    for _ in range(occurrence + 1):
        place = source.data.index(text.encode(), place + 1)
    return marked[place + len(text.encode()) - 1]


def test_regions():
    source, marked = marks('region')
    for text, region in (
        ('Über', 'docstring'),
        ('import', 'code'),
        ('# a (bracket', 'comment'),
        ('"Doc."', 'docstring'),
        ("'a (string'", 'string'),
        ('return', 'code'),
    ):
        assert at(source, marked, text) == region


def test_brackets_are_counted_in_code_alone():
    source, marked = marks('brackets')
    for text, depth in (
        ('def read', '0'),
        ('read(', '1'),
        ('size=[', '2'),
        ('[1, {', '3 or more'),
        ('{2: 3}', '2'),
        ('}])', '0'),
        ('# a (bracket', '0'),
        ("'a (string'", '0'),
        ('max(1,', '1'),
        ('2)', '0'),
    ):
        assert at(source, marked, text) == depth, text


def test_blocks_are_those_of_statements():
    source, marked = marks('block')
    for text, level in (('import', '0'), ('data = ', '1'), ('return', '2'), ('self.x', '1'), ('           2)', '0')):
        assert at(source, marked, text) == level, text
    assert at(source, marked, '(bracket\n\n') == '-'  # an empty line is in no statement


def test_next_kinds_stand_where_a_token_of_code_has_ended():
    source, marked = marks('next')
    for text, kind in (
        ('import', 'name'),
        ('import ', 'name'),
        ('import os', 'comment'),
        ('def', 'name'),
        ('size=', 'operator'),
        ('size=[', 'number'),
        ('fsdecode(data),', 'string'),
        ('if data', 'operator'),
        ('return', 'name'),
        ('self.x =', 'keyword'),
        ('fsdecode(', 'name'),
        ('if data:', 'line end'),
    ):
        assert at(source, marked, text) == kind, text
    assert at(source, marked, 'impo') == at(source, marked, "'a (str") == '-'


def test_names_come_from_arguments_from_the_function_or_from_elsewhere():
    source, marked = marks('name')
    for text, origin in (
        ('open(path', 'argument'),
        ('open', 'elsewhere'),
        ('read(size', 'argument'),
        ('if data', 'own'),
        ('return os', 'elsewhere'),
        ('lambda y: y', 'argument'),
        ('y + data', 'own'),
        ('    data', '-'),
        ('self', '-'),
        ('LAST = max', '-'),
    ):
        assert at(source, marked, text) == origin, text


def test_statements_outside_of_blocks_are_where_rows_may_begin():
    source = labels.label('x = 1\nif x:\n    y = 2\nelse:\n    y = 3\n@z\ndef f():\n    pass\n')
    assert [source.data[start:].split(b'\n')[0] for start in source.starts] == [b'x = 1', b'if x:', b'@z', b'def f():']


def test_what_is_not_python_is_refused():
    for text in ('def f(:\n', 'x = (\n', 'a\rb\n', '  x\n y\n'):
        with pytest.raises((SyntaxError, ValueError)):
            labels.label(text)


@pytest.fixture(scope='module')
def tokenizer():
    return GlassboxTokenizer(b'Glassbox byte tokenizer: 16 special tokens, then byte b as id 16 + b.\n')


def test_rows_carry_the_labels_of_their_last_bytes(tokenizer):
    found = windows.cut([('a.py', SOURCE.encode()), ('b', b'not python ('), ('c', b'\xff')], tokenizer, 64)
    assert found.documents == ['a.py'] and (found.tokens[:, 0] == tokenizer.bos_id).all() and not found.real[:, 0].any()
    source = labels.label(SOURCE)
    for row, real, *marked in zip(found.tokens, found.real, *found.labels.values()):
        text = bytes((row[real] - 16).tolist())
        place = source.data.index(text)
        assert place in source.starts
        for values, task in zip(marked, found.labels):
            np.testing.assert_array_equal(values[real], source.labels[task][place : place + len(text)])
            assert (values[~real] == labels.NONE).all()


def test_documents_are_dealt_whole_and_about_evenly(tokenizer):
    found = windows.cut([(str(i), SOURCE.encode() * (1 + i % 4)) for i in range(30)], tokenizer, 64)
    folds = measure.deal(found, 3)
    sizes = np.bincount(folds[found.document], found.real.sum(axis=1))
    assert len(folds) == 30 and sizes.max() < 1.1 * sizes.min()


def test_intervals_are_over_documents():
    document = np.repeat(np.arange(20), 50)
    hits = np.repeat(np.random.default_rng(0).random(20), 50)  # a document is all alike
    interval = measure.over_documents(hits, document)
    values = hits[::50]
    assert interval['mean'] == pytest.approx(values.mean())
    assert interval['high'] - interval['mean'] == pytest.approx(2.093 * values.std(ddof=1) / 20**0.5, rel=1e-3)


def test_a_depth_that_knows_is_told_from_one_that_only_knows_the_token(monkeypatch):
    """Two depths, made by hand: vectors of tokens alone, and the same with the label written into them."""
    monkeypatch.setattr(measure, 'TASKS', {'brackets': labels.TASKS['brackets']})
    random = np.random.default_rng(0)
    tokens, marks = random.integers(0, 40, (60, 15)), random.integers(0, 4, (60, 15))
    rows = windows.Windows(
        tokens, np.ones((60, 15), bool), {'brackets': marks}, np.arange(60) // 5, list('abcdefghijkl')
    )
    wanted = measure.sample(rows, 900)
    token, label = random.normal(size=(40, 10)), 3 * random.normal(size=(4, 10))
    streams = np.stack([token[tokens], token[tokens] + label[marks]]).reshape(2, 900, 10)
    streams = {measure.TRAINED: [streams], measure.UNTRAINED: [streams[:1].repeat(2, axis=0)]}
    kept, settings = wanted['brackets'], measure.Settings(folds=3)
    one = measure.probe_all(streams, rows, wanted, kept, measure.deal(rows, 3), settings)['brackets']
    assert one['best_depth'] == 1 and one['accuracy'][1]['low'] > 0.8 and one['accuracy'][0]['high'] < 0.4
    assert one['by_token']['high'] < 0.4 and one['untrained'][1]['high'] < 0.4
    assert one['selectivity'][1]['low'] > 0.15 and one['best_over_untrained']['low'] > 0.4


FUNCTIONS = ('read', 'write', 'open', 'close')


@pytest.mark.slow  # it trains, and compiles every probe
def test_the_experiment_runs_and_a_model_too_small_knows_little(tmp_path, capsys, monkeypatch):
    from llm.training.loop import train

    random = np.random.default_rng(0)
    for i in range(160):
        name, other = random.choice(FUNCTIONS, 2)
        body = f'def {name}(path, n={i}):\n    # {other} it\n    data = [path, (n, {i})]\n    return {other}(data)\n\n'
        (tmp_path / f'f{i}.py').write_text(body * 2)
    config = Config(
        model=ModelConfig(vocab_size=340, context_length=48, num_layers=1, width=16, num_heads=2),
        data=DataConfig(corpora=(f'text:{tmp_path}/*.py',), sequence_length=48),
        training=TrainingConfig(steps=2, batch_size=2),
        checkpoint=CheckpointConfig(every=2),
        evaluation=EvaluationConfig(every=2, max_windows=2, sample_tokens=0),
        log=LogConfig(every=1, tensorboard=False),
    )
    train(config, tmp_path / 'run', progress=False, devices=jax.devices()[:1])
    monkeypatch.setattr('llm.runtime.prepare_host', lambda workdir: None)
    out = tmp_path / 'report'
    program.main(['--workdir', str(tmp_path / 'run'), '--out', str(out), '--tokens', '500', '--neurons', '2'])
    results = json.loads((out / 'results.json').read_text())
    assert set(results['tasks']) == set(labels.TASKS) and results['depths'] == ['embedding', 'layer 0']
    for one in results['tasks'].values():
        assert len(one['accuracy']) == len(one['control']) == len(one['untrained']) == 2
        assert one['tokens'] <= 500 and sum(one['shares']) == pytest.approx(1)
        assert all(0 <= value['mean'] <= 1 for value in one['accuracy'])
    (layer,) = results['memories']
    assert len(layer['shown']) == 2 and layer['shown'][0]['contexts'][0]['activation'] > 0
    page, said = (out / 'report.html').read_text(), capsys.readouterr().out
    assert page.count('<svg') == len(labels.TASKS) and 'region' in said and str(out) in said
    with pytest.raises(UserError, match='--folds is 1'):
        program.main(['--workdir', str(tmp_path / 'run'), '--out', str(out), '--folds', '1'])


def test_a_run_on_other_text_is_one_line(tmp_path, tokenizer):
    for i in range(60):
        (tmp_path / f'{i}.txt').write_text(f'This is no Python, {i} times.\n' * 3)
    config = Config(data=DataConfig(corpora=(f'text:{tmp_path}/*.txt',)), model=ModelConfig(vocab_size=272))
    with pytest.raises(UserError, match='held-out documents are Python'):
        windows.held_out(config, tokenizer, 32, 10)
