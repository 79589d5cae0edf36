import io

import pytest
import tyro

from llm.commands import tokenize as command
from llm.config import Config, TokenizerConfig
from llm.errors import MachineError, UserError
from llm.tokenizer import Tokenizer, train
from llm.workdir import Workdir


@pytest.fixture
def workdir(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.write_config(Config())
    train(TokenizerConfig(kind='byte'), 272, []).save(workdir.tokenizer_file)
    return workdir


def cli(*args):
    command.run(tyro.cli(command.Args, args=[str(arg) for arg in args]))


def rows(capsys):
    *table, _, total = capsys.readouterr().out.splitlines()
    return [line.split() for line in table[2:]], total


@pytest.mark.parametrize('by', ['workdir', 'tokenizer'])
def test_each_token_has_its_id_piece_and_bytes(workdir, by, capsys):
    cli('aé', f'--{by}', workdir.path if by == 'workdir' else workdir.tokenizer_file)
    table, total = rows(capsys)
    assert table == [['113', 'a', '61'], ['211', '<0xC3>', 'c3'], ['185', '<0xA9>', 'a9']]
    assert total == '3 bytes in 3 tokens: 1.000 bytes per token; the round trip is exact'


def test_a_dash_reads_stdin_byte_for_byte(workdir, capsys, monkeypatch):
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'\xff\n')))
    cli('-', '--workdir', workdir.path)
    assert [row[0] for row in rows(capsys)[0]] == [str(16 + 0xFF), str(16 + 0x0A)]


def test_nothing_is_no_tokens(workdir, capsys):
    cli('', '--workdir', workdir.path)
    assert rows(capsys) == ([], '0 bytes in 0 tokens; the round trip is exact')


def test_a_text_that_does_not_come_back_is_a_failure(workdir, monkeypatch):
    monkeypatch.setattr(Tokenizer, 'decode_bytes', lambda self, ids: b'other')
    with pytest.raises(MachineError, match='round trip'):
        cli('text', '--workdir', workdir.path)


def test_one_tokenizer_is_needed(workdir, tmp_path):
    for choice in ([], ['--workdir', workdir.path, '--tokenizer', workdir.tokenizer_file]):
        with pytest.raises(UserError, match='either --workdir DIR or --tokenizer FILE'):
            cli('text', *choice)
    with pytest.raises(UserError, match='nowhere'):
        cli('text', '--tokenizer', tmp_path / 'nowhere')
