"""The commands one after the other, as a user types them: train, evaluate, generate, tokenize, compare."""

import json
import random
import re

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
