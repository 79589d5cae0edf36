"""Whatever goes wrong ends in one line on stderr and the exit code that belongs to it."""

import dataclasses
import errno
import pathlib
import subprocess
import sys

import pytest

from llm import command_line
from llm.commands import cache as cache_command
from llm.config import SFT, Config, InitFromConfig, ModelConfig, Muon
from llm.config_file import load_space
from llm.errors import Interrupted, MachineError, UserError
from llm.sweep.space import BASE
from llm.workdir import Workdir

COMMANDS = ('benchmark', 'cache', 'chat', 'compare', 'config', 'evaluate', 'generate', 'merge', 'rank', 'tokenize')
COMMANDS += ('export', 'import', 'serve', 'sweep', 'train', 'explain', 'explore', 'fill', 'compress', 'decompress')
ROOT = pathlib.Path(command_line.__file__).parent.parent


@pytest.fixture
def fails(capsys):
    """`fails(code, argument, ...) -> message`: runs a command that has to fail in one line with that exit code."""

    def run(code: int, *arguments: str) -> str:
        assert command_line.main([str(argument) for argument in arguments]) == code
        output = capsys.readouterr()
        assert output.out == ''
        assert output.err.startswith('error: ')
        assert output.err.endswith('\n')
        assert output.err.count('\n') == 1, output.err
        assert 'Traceback' not in output.err
        assert '│' not in output.err
        assert '  ' not in output.err
        return output.err.removeprefix('error: ').rstrip()

    return run


# ---------------------------------------------------------------------------------------------------- what was typed


def test_an_unknown_command_is_answered_with_the_nearest(fails):
    assert fails(2, 'trian') == "there is no command 'trian'; perhaps you meant train"
    assert all(name in fails(2, 'xyzzy') for name in COMMANDS)


@pytest.mark.parametrize(
    ('arguments', 'wrong', 'meant'),
    [
        (('train', '--workdir', 'w', '--model.num-layer', '3'), '--model.num-layer', '--model.num-layers'),
        (
            ('train', '--workdir', 'w', '--optimizer.learning-rat', '3'),
            '--optimizer.learning-rat',
            '--optimizer.learning-rate',
        ),
        (('config', '--schedule.warm-up', '3'), '--schedule.warm-up', '--schedule.warmup'),
        (('evaluate', '--workdir', 'w', '--stpe', '3'), '--stpe', '--step'),
        (('generate', '--workdir', 'w', '--prompt', 'x', '--temprature', '1'), '--temprature', '--temperature'),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_an_unknown_flag_is_answered_with_the_nearest(fails, arguments, wrong, meant):
    message = fails(2, *arguments)
    assert wrong in message
    assert f'perhaps you meant {meant}' in message


def test_an_unknown_flag_like_no_other_is_named(fails):
    assert '--qqqqqq' in fails(2, 'evaluate', '--workdir', 'w', '--qqqqqq')


@pytest.mark.parametrize(
    ('arguments', 'flag', 'value'),
    [
        (('train', '--workdir', 'w', '--model.num-layers', 'three'), '--model.num-layers', 'three'),
        (('train', '--workdir', 'w', '--optimizer.learning-rate', 'fast'), '--optimizer.learning-rate', 'fast'),
        (('train', '--workdir', 'w', '--model.position', 'rop'), '--model.position', 'rop'),
        (('train', '--workdir', 'w', '--training.ema-decay', 'much'), '--training.ema-decay', 'much'),
        (('evaluate', '--workdir', 'w', '--step', 'last'), '--step', 'last'),
        (('generate', '--workdir', 'w', '--prompt', 'x', '--past-context', 'ask'), '--past-context', 'ask'),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_a_value_of_the_wrong_type_is_named_with_its_flag(fails, arguments, flag, value):
    message = fails(2, *arguments)
    assert flag in message
    assert value in message


@pytest.mark.parametrize(
    ('arguments', 'missing'),
    [
        (('train',), '--workdir'),
        (('evaluate',), '--workdir'),
        (('generate', '--workdir', 'w'), '--prompt'),
        (('generate', '--prompt', 'x'), '--workdir'),
        (('evaluate', '--workdir'), '--workdir'),
        (('train', '--config'), '--config'),
    ],
    ids=' '.join,
)
def test_a_missing_option_is_named(fails, arguments, missing):
    assert missing in fails(2, *arguments)


@pytest.mark.parametrize('command', ['train', 'config'])
def test_values_the_config_refuses_are_named(fails, tmp_path, command):
    arguments = (command, '--workdir', tmp_path / 'w') if command == 'train' else (command,)
    for flag, value, name in (
        ('--model.width', '30', 'model.width'),
        ('--training.clip-norm', '-1', 'training.clip_norm'),
        ('--data.sequence-length', '100000', 'data.sequence_length'),
        ('--seed', '-1', 'seed'),
    ):
        assert fails(2, *arguments, flag, value).startswith(f'{name} is {value}')
    assert not (tmp_path / 'w').exists()


# ------------------------------------------------------------------------------------------------------ config files


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        ('raise RuntimeError("no such luck")', 'no such luck'),
        ('def get_config():\n    return 5', 'returns a int; it must return a Config'),
        ('x = 1', 'get_config'),
        ('def get_config(:', 'invalid syntax'),
        ('import no_such_module', 'no_such_module'),
        ('from llm.config import *\ndef get_config():\n    return Config(seed=-1)', 'seed is -1'),
        ('from llm.config import *\ndef get_config():\n    return Config(model=ModelConfig(widht=1))', 'widht'),
        ('import sys\nsys.exit(3)', 'config.py'),
        ('assert False', 'AssertionError'),
    ],
)
@pytest.mark.parametrize('command', ['train', 'config'])
def test_a_config_file_that_fails_is_named_with_its_reason(fails, tmp_path, command, content, says):
    file = tmp_path / 'config.py'
    file.write_text(content)
    message = fails(2, command, '--config', file, *(('--workdir', tmp_path / 'w') if command == 'train' else ()))
    assert str(file) in message
    assert says in message
    assert not (tmp_path / 'w').exists()


def test_a_missing_config_file_is_named(fails, tmp_path):
    assert (
        fails(2, 'config', '--config', tmp_path / 'no.py')
        == f'there is no config file {tmp_path}/no.py; look in configs/'
    )
    assert str(tmp_path) in fails(2, 'config', '--config', tmp_path)
    (tmp_path / 'config.txt').write_text('')
    assert 'config.txt' in fails(2, 'config', f'--config={tmp_path}/config.txt')


@pytest.fixture
def received(monkeypatch):
    """What `train` would be run with: a list of (args, config)."""
    from llm.commands import train

    calls = []
    monkeypatch.setattr(train, 'run', lambda *given: calls.append(given))
    return calls


def test_options_override_the_file_whatever_their_order(received, tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text(
        'from llm.config import *\n'
        'def get_config():\n'
        '    return Config(name="mine", model=ModelConfig(num_layers=3), optimizer=Muon(momentum=0.5))\n'
    )
    given = ['--model.width', '64', '--config', str(file), '--no-progress', '--optimizer.b1', '0.25', '--workdir', 'w']
    assert command_line.main(['train', *given]) == 0
    ((args, config),) = received
    assert (args.workdir, args.progress) == (pathlib.Path('w'), False)
    assert (config.name, config.model.num_layers, config.model.width) == ('mine', 3, 64)
    assert (config.optimizer.kind, config.optimizer.momentum, config.optimizer.b1) == ('muon', 0.5, 0.25)


def test_a_run_can_stand_for_a_config_file(received, tmp_path):
    stored = Config(name='base', seed=7, model=ModelConfig(vocab_size=300, num_layers=3), optimizer=Muon(momentum=0.5))
    Workdir(tmp_path).write_config(stored)
    given = ['--config', str(tmp_path), 'objective:sft', '--init-from.workdir', str(tmp_path), '--workdir', 'w']
    assert command_line.main(['train', *given]) == 0
    ((_, config),) = received
    expected = dataclasses.replace(stored, objective=SFT(), init_from=InitFromConfig(workdir=str(tmp_path)))
    assert config == expected
    assert load_space(str(tmp_path)) == BASE


@pytest.mark.parametrize(
    'given',
    [
        ('optimizer:muon', '--optimizer.momentum', '0.5', '--model.num-layers', '6'),
        ('--model.num-layers', '6', 'optimizer:muon', '--optimizer.momentum', '0.5'),
        ('optimizer:muon', 'schedule:constant', '--model.num-layers', '6', '--optimizer.momentum', '0.5'),
    ],
    ids=' '.join,
)
def test_another_optimizer_is_chosen_by_name(received, given):
    assert command_line.main(['train', '--workdir', 'w', *given]) == 0
    ((_, config),) = received
    assert (config.optimizer.kind, config.optimizer.momentum, config.model.num_layers) == ('muon', 0.5, 6)
    assert config.schedule.kind == ('constant' if 'schedule:constant' in given else 'cosine')


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (('--model.windows', '8', 'None'), {'windows': (8, None)}),
        (('--model.biases', 'query', 'norm'), {'biases': ('query', 'norm')}),
        (('--model.num-kv-heads', '2'), {'num_kv_heads': 2}),
        (('--model.num-kv-heads', 'None'), {'num_kv_heads': None}),
        (('--model.qk-norm',), {'qk_norm': True}),
        (('--model.no-tied-embeddings',), {'tied_embeddings': False}),
        (('--model.logit-softcap', '30'), {'logit_softcap': 30.0}),
    ],
    ids=' '.join,
)
def test_every_kind_of_value_can_be_typed(received, given, expected):
    assert command_line.main(['train', '--workdir', 'w', *given]) == 0
    ((_, config),) = received
    assert {name: getattr(config.model, name) for name in expected} == expected


def test_without_options_the_config_is_the_default(received):
    assert command_line.main(['train', '--workdir', 'w']) == 0
    assert received[0][1] == Config()


# ---------------------------------------------------------------------------------------------------------- workdirs


def reading(path) -> list[tuple]:
    return [
        ('evaluate', '--workdir', path),
        ('generate', '--workdir', path, '--prompt', 'x'),
        ('tokenize', '--workdir', path, 'text'),
        ('compare', path, path.parent),
    ]


@pytest.mark.parametrize('which', range(4), ids=['evaluate', 'generate', 'tokenize', 'compare'])
def test_a_workdir_that_is_not_there_or_none_is_named(fails, tmp_path, which):
    missing = tmp_path / 'nowhere'
    assert f'there is no workdir {missing}' in fails(2, *reading(missing)[which])
    assert not missing.exists()
    assert f'{tmp_path} is not a workdir' in fails(2, *reading(tmp_path)[which])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('which', range(3), ids=['evaluate', 'generate', 'tokenize'])
def test_a_run_that_has_left_nothing_yet_is_named(fails, tmp_path, which):
    Workdir(tmp_path).write_config(Config())
    assert str(tmp_path) in fails(2, *reading(tmp_path)[which])


@pytest.mark.parametrize('which', range(4), ids=['evaluate', 'generate', 'tokenize', 'compare'])
def test_a_damaged_config_is_named(fails, tmp_path, which):
    for content in ('{"schema_', '[]', '{"schema_version": 99}'):
        (tmp_path / 'config.json').write_text(content)
        if which != 2:  # tokenizing does not read it
            assert 'config.json' in fails(2, *reading(tmp_path)[which])


def test_training_into_a_file_is_refused(fails, tmp_path, monkeypatch):
    monkeypatch.setenv('GLASSBOX_CACHE', str(tmp_path / 'cache'))
    (tmp_path / 'file').write_text('')
    (tmp_path / 'lines.jsonl').write_text('\n'.join(f'{{"text": "{"word " * i}"}}' for i in range(1, 61)))
    data = (
        '--data.corpora',
        f'jsonl:{tmp_path}/lines.jsonl',
        '--data.sequence-length',
        '8',
        '--tokenizer.kind',
        'byte',
    )
    assert str(tmp_path / 'file') in fails(2, 'train', '--workdir', tmp_path / 'file', *data)


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (('generate', '--workdir', 'w', '--prompt', 'x', '--max-new-tokens', '0'), '--max-new-tokens is 0'),
        (('generate', '--workdir', 'w', '--prompt', 'x', '--num-samples', '0'), '--num-samples is 0'),
        (('tokenize', 'text'), '--workdir DIR or --tokenizer FILE'),
        (('tokenize', 'text', '--tokenizer', 'no-such-file'), 'no-such-file'),
        (('compare',), 'two workdirs'),
        (('cache', '--clean', 'everything'), 'no kind everything'),
        (('cache', '--yes'), '--clean'),
        (('train', '--workdir', 'w', '--data.corpora', 'text:no-such-file-*'), 'no-such-file'),
        (('train', '--workdir', 'w', '--data.corpora', 'wikipedia'), 'wikipedia'),
    ],
    ids=lambda value: value if isinstance(value, str) else ' '.join(value),
)
def test_a_bad_value_is_named(fails, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == 'generate':
        Workdir(tmp_path / 'w').path.mkdir()
        Workdir(tmp_path / 'w').write_config(Config())
    assert says in fails(2, *arguments)
    if arguments[0] == 'train':
        assert not (tmp_path / 'w').exists()


# -------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize('command', COMMANDS)
def test_help_explains_every_option_and_exits_with_0(capsys, command):
    with pytest.raises(SystemExit) as stop:
        command_line.main([command, '--help'])
    assert stop.value.code == 0
    shown = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    for unit in {
        'train': ('in tokens', 'steps', 'rows'),
        'config': ('in tokens', 'steps', 'rows'),
        'evaluate': ('rows per step', 'tokens between'),
        'generate': ('most tokens', 'in updates made'),
        'benchmark': ('training step', 'key-value cache'),
        'cache': (),
        'chat': ('first answer',),
        'merge': ('--lora.rank',),
        'rank': ('answers to each prompt',),
        'sweep': ('repetitions of every point', 'GiB of a job', 'in tokens'),
        'tokenize': (),
        'compare': (),
        'export': ('most MiB',),
        'import': ('as saved',),
        'serve': (),
        'explain': ('in updates made',),
        'explore': ('at least 16 characters',),
        'fill': (),
        'compress': (),
        'decompress': (),
    }[command]:
        assert unit in shown
    # A flag is followed by what it does; a bare default says that nobody told.
    for flag in ('--workdir PATH', '--name STR', '--seed INT', '--json', '--no-progress'):
        assert f'{flag} (' not in shown, f'{flag} of {command} has no help'


def test_the_overview_lists_every_command_with_a_line(capsys):
    assert command_line.command_names() == sorted(COMMANDS)
    assert command_line.main(['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in COMMANDS:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 3
    assert command_line.main([]) == 2


def test_the_overview_waits_for_no_large_library():
    code = (
        'import sys\n'
        'from llm.command_line import main\n'
        'assert main(["--help"]) == 0\n'
        'heavy = {"jax", "flax", "optax", "tensorflow_datasets", "grain", "orbax", "sentencepiece", "matplotlib"}\n'
        'print("loaded:", *sorted(heavy & set(sys.modules)))\n'
    )
    done = subprocess.run((sys.executable, '-c', code), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == 'loaded:'
    done = subprocess.run((sys.executable, '-m', 'llm', '--help'), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith('usage: python -m llm COMMAND')


def test_the_module_hands_the_exit_code_to_the_shell():
    done = subprocess.run((sys.executable, '-m', 'llm', 'trian'), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: there is no command 'trian'; perhaps you meant train\n"


# --------------------------------------------------------------------------------------------------------- exit codes


def raising(error: BaseException):
    def run(_):
        raise error

    return run


@pytest.mark.parametrize(
    ('error', 'code', 'says'),
    [
        (UserError('do better'), 2, 'do better'),
        (MachineError('the machine is tired'), 1, 'the machine is tired'),
        (Interrupted(15), 143, 'stopped by signal 15'),
        (Interrupted(2), 130, 'stopped by signal 2'),
        (KeyboardInterrupt(), 130, 'interrupted'),
        (OSError(errno.ENOSPC, 'No space left on device', 'file'), 1, 'no space left on device for file'),
        (RuntimeError('write failed: No space left on device\nmore'), 1, 'no space left on device'),
        (OSError(errno.EIO, 'Input/output error'), 1, 'Input/output error'),
        (MemoryError('out of memory'), 1, 'out of memory'),
        (RuntimeError('first line\nsecond line'), 1, 'RuntimeError: first line'),
        (ValueError(''), 1, 'ValueError'),
        (KeyError('missing'), 1, "KeyError: 'missing'"),
        (UserError('two\nlines'), 2, 'two'),
    ],
    ids=repr,
)
def test_each_failure_has_its_exit_code_and_one_line(fails, monkeypatch, error, code, says):
    monkeypatch.setattr(cache_command, 'run', raising(error))
    assert says in fails(code, 'cache')


def test_done_is_0(monkeypatch, capsys):
    monkeypatch.setattr(cache_command, 'run', lambda _: print('result'))
    assert command_line.main(['cache']) == 0
    assert capsys.readouterr() == ('result\n', '')


@pytest.mark.parametrize('place', ['before', 'after'])
def test_debug_shows_the_traceback_too(monkeypatch, capsys, place):
    monkeypatch.setattr(cache_command, 'run', raising(RuntimeError('deep down')))
    assert command_line.main(['--debug', 'cache'] if place == 'before' else ['cache', '--debug']) == 1
    output = capsys.readouterr().err
    assert 'Traceback (most recent call last)' in output
    assert 'in run' in output
    assert output.splitlines()[-1].startswith('error: RuntimeError: deep down')


def test_a_reader_that_leaves_is_no_traceback():
    """`python -m llm --help | head -0`, in a shell of its own."""
    code = (
        'import os, sys\n'
        'from llm.command_line import main\n'
        'read, write = os.pipe()\n'
        'os.dup2(write, 1)\n'
        'os.close(write), os.close(read)\n'
        'sys.exit(main(["--help"]))\n'
    )
    done = subprocess.run((sys.executable, '-c', code), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.returncode != 0
    assert 'Traceback' not in done.stderr
    assert 'Exception ignored' not in done.stderr
