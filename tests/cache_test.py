import errno
import threading
import time

import pytest

from llm import cache
from llm.errors import MachineError, UserError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv('GLASSBOX_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def fill(path):
    (path / 'content').write_text('whole')


def everything(root):
    return sorted(path.name for path in root.rglob('*') if path.suffix != '.lock' and path.name != 'tokenizers')


def test_root_follows_the_environment(root, monkeypatch):
    assert cache.root() == root
    monkeypatch.delenv('GLASSBOX_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', '/somewhere')
    assert str(cache.root()) == '/somewhere/glassbox'


def test_an_entry_is_built_once(root):
    path = cache.entry('tokenizers', 'abc', fill, 'a test')
    assert path == root / 'tokenizers' / 'abc'
    assert (path / 'content').read_text() == 'whole'

    def again(path):
        raise AssertionError('built twice')

    assert cache.entry('tokenizers', 'abc', again, 'a test') == path


@pytest.mark.parametrize('failure', [ValueError('broken'), KeyboardInterrupt()])
def test_a_failed_build_leaves_nothing(root, failure):
    def build(path):
        fill(path)
        raise failure

    with pytest.raises(type(failure)):
        cache.entry('tokenizers', 'abc', build, '')
    assert everything(root) == []
    cache.entry('tokenizers', 'abc', fill, '')
    assert (root / 'tokenizers' / 'abc' / 'content').is_file()


def test_what_a_killed_build_left_is_listed_and_built_over(root):
    left = root / 'tokenizers' / 'abc.tmp'
    left.mkdir(parents=True)
    (left / 'half').write_text('half')
    assert [(e.key, e.description) for e in cache.entries()] == [('abc.tmp', 'an unfinished build')]
    path = cache.entry('tokenizers', 'abc', fill, '')
    assert not left.exists()
    assert not (path / 'half').exists()


def test_of_many_that_ask_at_once_one_builds(root):
    builds, together = [], threading.Barrier(8)

    def build(path):
        builds.append(path)
        time.sleep(0.02)  # long enough for the others to arrive
        fill(path)

    def ask():
        together.wait()
        assert (cache.entry('tokenizers', 'abc', build, '') / 'content').read_text() == 'whole'

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


def test_entries_and_removal(root):
    cache.entry('tokenizers', 'small', fill, 'a small one')
    cache.entry('token_stores', 'large', lambda path: (path / 'x').write_bytes(bytes(10_000)), 'a large one')
    (cache.folder('compiled', 'xla') / 'program').write_bytes(bytes(100))
    found = cache.entries()
    assert [(e.kind, e.key, e.description) for e in found] == [
        ('token_stores', 'large', 'a large one'),
        ('compiled', 'xla', ''),
        ('tokenizers', 'small', 'a small one'),
    ]
    assert found[0].bytes == 10_000 + len('a large one\n')
    assert cache.remove('token_stores', 'large')
    assert {e.key for e in cache.entries()} == {'xla', 'small'}


def test_what_is_being_built_is_not_removed(root):
    removed = []

    def build(path):
        fill(path)
        removed.append(cache.remove('tokenizers', 'abc'))

    path = cache.entry('tokenizers', 'abc', build, '')
    assert removed == [False]
    assert (path / 'content').is_file()
    assert cache.remove('tokenizers', 'abc')
    assert everything(root) == []


def test_full_disk_and_unwritable_folder_are_told_apart(root):
    def build(path):
        fill(path)
        raise OSError(errno.ENOSPC, 'No space left on device')

    with pytest.raises(MachineError, match='no space left'):
        cache.entry('tokenizers', 'abc', build, '')
    assert everything(root) == []
    (root / 'token_stores').write_text('a file where a folder should be')
    with pytest.raises(UserError, match='GLASSBOX_CACHE'):
        cache.entry('token_stores', 'abc', fill, '')
