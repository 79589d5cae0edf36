"""The commands one after the other, as a user types them: train, evaluate, generate, tokenize, compare."""

import json
import random
import re
import sys

import pytest

from llm.command_line import main

WORDS = ('def', 'return', 'class', 'import', 'self', 'value', 'list', 'dict', 'print', 'open', 'read', 'write')

CONFIG = """
from llm.config import *

def get_config():
    return Config(
        name='journey',
        model=ModelConfig(vocab_size=320, context_length=32, num_layers=1, width=16, num_heads=2, compute_dtype='auto'),
        data=DataConfig(corpora=('text:{folder}/*.txt',), sequence_length=32),
        schedule=Cosine(horizon=6, warmup=2),
        training=TrainingConfig(steps=6, batch_size=8),
        evaluation=EvaluationConfig(every=3, max_windows=8, batch_size=8, sample_tokens=4),
        log=LogConfig(every=1),
    )
"""


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A corpus, a config file and a trained workdir, `run`."""
    home = tmp_path_factory.mktemp('journey')
    folder = home / 'corpus'
    folder.mkdir()
    draw = random.Random(0)
    for i in range(40):
        lines = [' '.join(draw.choices(WORDS, k=5)) for _ in range(draw.randint(2, 8))]
        (folder / f'file{i}.txt').write_text('\n'.join(lines) + '\n')
    (home / 'config.py').write_text(CONFIG.format(folder=folder))
    assert main(['train', '--config', f'{home}/config.py', '--workdir', f'{home}/run', '--no-progress']) == 0
    return home


def test_a_run_leaves_what_the_docs_say(home):
    left = {path.name for path in (home / 'run').iterdir()}
    files = {'config.json', 'runtime.json', 'tokenizer.model', 'metrics.jsonl', 'summary.json', 'report.html'}
    assert files | {'checkpoints', 'events'} <= left
    page = (home / 'run' / 'report.html').read_text()
    summary = json.loads((home / 'run' / 'summary.json').read_text())
    assert f'{summary["held_out"]["bits_per_byte"]:.3f}' in page and 'gzip -9' in page
    chosen = json.loads((home / 'run' / 'runtime.json').read_text())['attention_backend']
    assert summary['attention_backend'] == chosen
    assert re.search(f'attention backend.{{0,40}}{chosen}', page, re.DOTALL)


def test_evaluate_ends_with_one_json_object(home, capsys):
    assert main(['evaluate', '--workdir', f'{home}/run']) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    summary = json.loads((home / 'run' / 'summary.json').read_text())
    assert measured['params_sha256'] == summary['params_sha256'] and measured['step'] == 6
    assert measured['bits_per_byte'] == pytest.approx(summary['held_out']['bits_per_byte'], rel=1e-6)
    assert {'loss', 'perplexity', 'tokens'} <= measured.keys()


def test_tasks_are_measured_once_and_kept(home, capsys, monkeypatch):
    run, corpus = home / 'run', f'text:{home}/corpus/*.txt'
    (home / 'pairs.jsonl').write_text('{"first": "def self", "second": "self def"}\n' * 3)
    command = ['evaluate', '--workdir', f'{run}', '--tasks', corpus, f'{home}/pairs.jsonl']
    assert main(command) == 0
    table = capsys.readouterr().out
    held_out = json.loads((run / 'summary.json').read_text())['held_out']['bits_per_byte']
    assert re.search(rf'{re.escape(corpus)} +bits_per_byte +{held_out:.4f}', table)
    assert re.search(r'pairs.jsonl +preference_rate +[01]\.0000', table)
    (folder,) = (run / 'evaluations').iterdir()
    assert folder.name == 'step_6'
    kept = {json.loads(path.read_text())['result']['kind']: path.parent for path in folder.glob('*/result.json')}
    assert kept.keys() == {'bits_per_byte', 'minimal_pairs'}
    assert len((kept['minimal_pairs'] / 'samples.jsonl').read_text().splitlines()) == 3
    page = (folder / 'evaluation.html').read_text()
    assert f'{held_out:.4f}' in page and '<svg' in page and 'hardest documents' in page

    # The same again is read from the files; --again, or another setting, measures.
    from llm.evaluation.tasks import Task

    measured, measure = [], Task.measure
    monkeypatch.setattr(Task, 'measure', lambda self, *args: measured.append(self.kind) or measure(self, *args))
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out == table and measured == [] and said.err.count('measured already') == 2
    assert main([*command, '--stride', '16']) == 0
    assert measured == ['bits_per_byte']
    assert main([*command[:4], f'{home}/pairs.jsonl', '--again']) == 0
    assert measured == ['bits_per_byte', 'minimal_pairs']
    (kept['minimal_pairs'] / 'result.json').write_text('{"torn')
    assert main([*command[:4], f'{home}/pairs.jsonl']) == 0
    assert measured[2:] == ['minimal_pairs']


def test_a_wrong_row_stops_before_anything_is_measured(home, capsys):
    (home / 'wrong.jsonl').write_text('{"first": "a", "second": "b"}\n{"first": "a"}\n')
    command = ['evaluate', '--workdir', f'{home}/run', '--tasks', f'text:{home}/corpus/*.txt', f'{home}/wrong.jsonl']
    assert main(command) == 2
    said = capsys.readouterr()
    assert 'wrong.jsonl:2: it needs first and second' in said.err and not said.out
    assert main(['evaluate', '--workdir', f'{home}/run', '--limit', '3']) == 2
    assert '--limit is for tasks' in capsys.readouterr().err


def test_the_harness_is_an_extra(home, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith(('lm_eval', 'llm.interop.lm_eval'))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr('llm.interop.lm_eval', raising=False)  # the package remembers it too
    monkeypatch.setitem(sys.modules, 'lm_eval', None)
    assert main(['evaluate', '--workdir', f'{home}/run', '--tasks', 'hellaswag']) == 2
    said = capsys.readouterr().err
    assert 'hellaswag is no file and no corpus, and tasks of lm-evaluation-harness need lm-eval' in said
    assert "pip install 'glassbox-llm[eval]'" in said and said.count('\n') == 1


def test_generate_writes_the_same_text_from_the_same_seed(home, capsys):
    command = ['generate', '--workdir', f'{home}/run', '--prompt', 'def', '--max-new-tokens', '8', '--seed', '3']
    texts = []
    for _ in range(2):
        assert main(command) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] and texts[0].strip()
    assert main([*command[:-1], '4']) == 0
    assert capsys.readouterr().out != texts[0]


def test_the_same_command_again_says_done_and_changes_nothing(home, capsys):
    before = (home / 'run' / 'metrics.jsonl').read_text()
    assert main(['train', '--config', f'{home}/config.py', '--workdir', f'{home}/run', '--no-progress']) == 0
    assert capsys.readouterr().out.startswith('done: step 6')
    assert (home / 'run' / 'metrics.jsonl').read_text() == before


def test_tokenize_and_compare_read_the_workdir(home, capsys, tmp_path):
    assert main(['tokenize', '--workdir', f'{home}/run', 'def read']) == 0
    assert 'bytes per token' in capsys.readouterr().out
    more = ['--workdir', f'{home}/other', '--no-progress', 'optimizer:lion']
    assert main(['train', '--config', f'{home}/config.py', *more]) == 0
    capsys.readouterr()
    assert main(['compare', f'{home}/run', f'{home}/other', '--out', f'{tmp_path}/page.html']) == 0
    assert 'optimizer.kind' in capsys.readouterr().out and (tmp_path / 'page.html').is_file()


@pytest.mark.parametrize(
    'arguments, said',
    [
        (['--temperature', '-1'], 'temperature'),
        (['--top-p', '0'], 'top_p'),
        (['--max-new-tokens', '99'], 'context'),
    ],
)
def test_what_generate_refuses(home, capsys, arguments, said):
    assert main(['generate', '--workdir', f'{home}/run', '--prompt', 'def', *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith('error: ') and said in line


def test_a_vocabulary_larger_than_the_corpus_can_fill(home, capsys):
    more = ['--workdir', f'{home}/large', '--model.vocab-size', '9000']
    assert main(['train', '--config', f'{home}/config.py', *more]) == 2
    assert '9000' in capsys.readouterr().err.splitlines()[-1]
    assert not (home / 'large').exists(), 'half a workdir was left'


def test_a_corpus_smaller_than_a_window(home, capsys):
    more = ['--workdir', f'{home}/small', '--model.context-length', '100000', '--data.sequence-length', '100000']
    assert main(['train', '--config', f'{home}/config.py', *more]) == 2
    assert 'window' in capsys.readouterr().err.splitlines()[-1]
