import pytest
import tyro

from llm import cache
from llm.commands import cache as command
from llm.errors import MachineError, UserError


@pytest.fixture(autouse=True)
def filled(tmp_path, monkeypatch):
    """A cache with a tokenizer of 3,000 bytes and a token store of 2,000."""
    monkeypatch.setenv('GLASSBOX_CACHE', str(tmp_path))
    for kind, size in (('tokenizers', 3000), ('token_stores', 2000)):
        cache.entry(
            kind, 'key', lambda path, size=size: (path / 'data').write_bytes(b'x' * size) and None, f'my {kind}'
        )


def cli(*args):
    command.run(tyro.cli(command.Args, args=list(args)))


def kinds():
    return {entry.kind for entry in cache.entries()}


def test_it_lists_what_there_is(capsys, tmp_path):
    cli()
    out = capsys.readouterr().out
    assert out.startswith(f'{tmp_path}: 2 entries, 4.9')
    assert 'my tokenizers' in out and '2.9' in out
    assert kinds() == {'tokenizers', 'token_stores'}


def test_cleaning_needs_a_yes(capsys):
    with pytest.raises(UserError, match='--yes'):
        cli('--clean')
    assert 'my tokenizers' in capsys.readouterr().out
    assert kinds() == {'tokenizers', 'token_stores'}


def test_one_kind_is_cleaned_alone():
    cli('--clean', 'tokenizers', '--yes')
    assert kinds() == {'token_stores'}


def test_without_a_kind_all_is_cleaned(capsys):
    cli('--clean', '--yes')
    assert kinds() == set()
    assert 'removed 2 of 2' in capsys.readouterr().out
    cli('--clean')  # nothing left to confirm


def test_an_entry_in_the_making_stays(monkeypatch):
    monkeypatch.setattr(cache, 'remove', lambda kind, key: False)
    with pytest.raises(MachineError, match='2 entries'):
        cli('--clean', '--yes')


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r'no kind tokenisers.*token_stores'):
        cli('--clean', 'tokenisers')
    with pytest.raises(UserError, match='--clean'):
        cli('--yes')
