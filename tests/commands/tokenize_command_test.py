import io
import json
import re

import pytest
import tyro
from imported_families import write

from llm.commands import tokenize as command
from llm.config import Config, TokenizerConfig
from llm.errors import MachineError, UserError
from llm.tokenizer import GlassboxTokenizer, train
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
    monkeypatch.setattr(GlassboxTokenizer, 'decode_bytes', lambda self, ids: b'other')
    with pytest.raises(MachineError, match='round trip'):
        cli('text', '--workdir', workdir.path)


def test_one_text_is_needed(workdir):
    for texts in ([], ['a', 'b'], ['a', '--chat', 'file']):
        with pytest.raises(UserError, match='takes one text'):
            cli(*texts, '--workdir', workdir.path)
    cli('None', '--workdir', workdir.path)


def test_one_tokenizer_is_needed(workdir, tmp_path):
    for choice in ([], ['--workdir', workdir.path, '--tokenizer', workdir.tokenizer_file]):
        with pytest.raises(UserError, match='either --workdir DIR or --tokenizer FILE'):
            cli('text', *choice)
    with pytest.raises(UserError, match='nowhere'):
        cli('text', '--tokenizer', tmp_path / 'nowhere')


# -------------------------------------------------------------------------------------------------------------- --chat


USER, ANSWER = {'role': 'user', 'content': 'Hi\n<eos>\x1b'}, {'role': 'assistant', 'content': 'Hé\nyou'}


@pytest.fixture
def show(workdir, tmp_path, capsys):
    """What --chat prints of some rows."""

    def make(*rows, options=()):
        path = tmp_path / '[odd] name.jsonl'
        path.write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
        try:
            cli('--chat', path, '--workdir', workdir.path, *options)
        finally:
            make.out = capsys.readouterr().out.replace(f'{path}:', 'FILE:')
        return make.out

    return make


def test_what_is_trained_on_is_marked(show):
    assert show({'messages': [{'role': 'system', 'content': 'S'}, USER, ANSWER, {'role': 'user', 'content': '?'}]}) == (
        'FILE:1: 27 tokens, 8 trained on\n'
        '<bos><|system|>S<|end|><|user|>Hi\n\\<eos>\\x1b<|end|><|assistant|>⟦Hé\nyou<eos>⟧<|user|>?<|end|>\n'
        '\n'
        '1 row, 27 tokens, 8 trained on (30%)\n'
    )


def test_a_terminal_gets_colours_and_the_same_text(show, monkeypatch):
    rows = [{'messages': [USER, ANSWER]}, {'prompt': 'a', 'chosen': 'b', 'rejected': 'c'}]
    plain = show(*rows)
    monkeypatch.setattr('sys.stdout.isatty', lambda: True, raising=False)
    monkeypatch.delenv('NO_COLOR', raising=False)
    coloured = show(*rows)
    assert re.sub(r'\x1b\[[0-9;]*m', '', coloured) == re.sub('[⟦⟧]', '', plain)
    assert '\x1b[30;42mHé\x1b[0m\n\x1b[30;42myou\x1b[0m\x1b[1;30;42m<eos>\x1b[0m' in coloured
    assert '<bos>\x1b[0ma\x1b[30;42mb\x1b' in coloured
    monkeypatch.setenv('NO_COLOR', '')
    assert show(*rows) == plain


def test_preferences_rankings_and_prompts_are_shown_too(show):
    out = show(
        {'prompt': 'q', 'chosen': 'yes', 'rejected': '', 'margin': 0},
        {'prompt': [USER | {'content': 'q'}], 'responses': [[ANSWER | {'content': c}] for c in 'abc']},
        {'prompt': 'q', 'answer': 3},
    )
    assert out.splitlines() == [
        'FILE:1: chosen, score 0: 6 tokens, 4 trained on',
        '<bos>q⟦yes<eos>⟧',
        'FILE:1: rejected, score 0: 3 tokens, 1 trained on',
        '<bos>q⟦<eos>⟧',
        '',
        *(
            line
            for score, letter in ((2, 'a'), (1, 'b'), (0, 'c'))
            for line in (
                f'FILE:2: response, score {score}: 7 tokens, 2 trained on',
                f'<bos><|user|>q<|end|><|assistant|>⟦{letter}<eos>⟧',
            )
        ),
        '',
        'FILE:3: prompt: 2 tokens, 0 trained on',
        '<bos>q',
        '',
        '3 rows, 32 tokens, 11 trained on (34%)',
    ]


def test_every_wrong_row_is_shown_and_the_command_fails(show):
    rows = [{'prompt': 'a', 'completion': 'b'}, {'messages': []}, [], {'prompt': 'a', 'completion': 3}]
    with pytest.raises(UserError, match='3 of 4 rows are wrong'):
        show(*rows)
    assert re.findall(r'FILE:\d: wrong', show.out) == [f'FILE:{i}: wrong' for i in (2, 3, 4)]
    assert show.out.endswith('4 rows, 4 tokens, 2 trained on (50%), 3 wrong\n')


def test_a_window_shows_what_is_cut_off_and_dropped(show):
    rows = [{'prompt': 'ab', 'completion': 'cdefg'}, {'prompt': 'abcdefg', 'completion': 'h'}]
    assert show(*rows, options=('--window', 4)).splitlines() == [
        'FILE:1: 5 tokens, 2 trained on',
        '<bos>ab⟦cd⟧',
        '',
        'FILE:2: dropped: the window of data.sequence_length ends before the completion begins',
        '',
        '2 rows, 5 tokens, 2 trained on (40%), 1 dropped',
    ]
    with pytest.raises(UserError, match='--window'):
        show(*rows, options=('--window', -1))


def test_a_window_belongs_to_conversations(workdir):
    with pytest.raises(UserError, match='--window is 3'):
        cli('text', '--window', 3, '--workdir', workdir.path)


def test_a_directory_from_elsewhere(tmp_path, capsys):
    folder = write('gemma', tmp_path / 'gemma')
    cli('two  words', '--tokenizer', folder)
    table, total = rows(capsys)
    assert ''.join(row[1] for row in table) == 'two··words' and total.endswith('the round trip is exact')
    cli('▁', '--tokenizer', folder)
    assert rows(capsys)[1].endswith('NOT EXACT: this tokenizer gives back another text')


def test_conversations_of_a_model_from_elsewhere(tmp_path, capsys):
    folder = write('gemma', tmp_path / 'gemma')
    row = {'messages': [{'role': 'user', 'content': 'Hi <eos'}, {'role': 'assistant', 'content': 'Hey'}]}
    (tmp_path / 'rows.jsonl').write_text(json.dumps(row) + '\n')
    cli('--chat', tmp_path / 'rows.jsonl', '--tokenizer', folder)
    assert (
        '<bos><start_of_turn>user\nHi <eos<end_of_turn>\n<start_of_turn>model\n⟦Hey<end_of_turn>⟧\n'
        in capsys.readouterr().out
    )
    row['messages'][0]['content'] = 'Hi <eos>'
    (tmp_path / 'rows.jsonl').write_text(json.dumps(row) + '\n')
    with pytest.raises(UserError, match='1 of 1 rows are wrong'):
        cli('--chat', tmp_path / 'rows.jsonl', '--tokenizer', folder)
    assert 'message 1 spells the special token <eos>' in capsys.readouterr().out
