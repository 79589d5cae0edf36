import dataclasses
import errno
import json
import os

import pytest

from llm.config import DataConfig
from llm.data import corpora, python_stdlib
from llm.errors import MachineError, UserError


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(corpora.logging, 'warning', lambda form, *values: found.append(form % values))
    corpora._warn_once.cache_clear()
    return found


def read(source, **settings):
    return list(corpora.documents(source, DataConfig(**settings)))


def pairs(source, **settings):
    return [(document.identity, document.text) for document in read(source, **settings)]


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


# --------------------------------------------------------------------------------------------------------------- text


def test_text_is_sorted_and_named_from_the_first_wildcard(tmp_path):
    write(tmp_path, {'b/2.txt': b'two', 'a.txt': b'one', 'b/c/3.txt': 'drüe▁\r\n'.encode(), 'b/no.md': b'no'})
    assert pairs(f'text:{tmp_path}/**/*.txt') == [
        ('a.txt', b'one'),
        ('b/2.txt', b'two'),
        ('b/c/3.txt', 'drüe▁\r\n'.encode()),
    ]
    assert pairs(f'text:{tmp_path}/b/*.txt') == [('2.txt', b'two')]
    assert pairs(f'text:{tmp_path}/b/2.txt') == [('2.txt', b'two')]


def test_relative_patterns_start_here(tmp_path, monkeypatch):
    write(tmp_path, {'books/a.txt': b'one'})
    monkeypatch.chdir(tmp_path)
    assert pairs('text:books/*.txt') == [('a.txt', b'one')]
    assert pairs('text:*/a.txt') == [('books/a.txt', b'one')]


def test_bad_bytes_are_reported_with_their_place_and_replaced(tmp_path, warnings):
    write(tmp_path, {'bad.txt': b'fine \xff\xfe end', 'good.txt': b'good'})
    assert pairs(f'text:{tmp_path}/*.txt') == [('bad.txt', 'fine \ufffd\ufffd end'.encode()), ('good.txt', b'good')]
    assert len(warnings) == 1
    assert str(tmp_path / 'bad.txt') in warnings[0]
    assert 'byte 5' in warnings[0]
    read(f'text:{tmp_path}/*.txt')
    assert len(warnings) == 1, 'said again when read again'


def test_bad_bytes_are_refused_if_so_chosen(tmp_path):
    write(tmp_path, {'bad.txt': b'fine \xff'})
    with pytest.raises(UserError, match=r'bad\.txt is not UTF-8 at byte 5.*data\.bad_bytes'):
        read(f'text:{tmp_path}/*.txt', bad_bytes='refuse')


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('text:{0}/nothing-*.txt', 'matches no file'),
        ('text:{0}/missing.txt', 'matches no file'),
        ('text:{0}', r'is a folder.*\*\*/\*\.txt'),
        ('text:{0}/dangling.txt', r'cannot read .*dangling\.txt'),
        ('text:', 'use python_stdlib'),
        ('python', 'use python_stdlib'),
        ('csv:{0}/*', 'use python_stdlib'),
        ('jsonl:{0}/nothing', 'matches no file'),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path, source, message):
    os.symlink(tmp_path / 'gone', tmp_path / 'dangling.txt')
    with pytest.raises(UserError, match=message) as raised:
        read(source.format(tmp_path))
    assert '\n' not in str(raised.value)


def test_a_file_that_vanishes_is_named(tmp_path):
    write(tmp_path, {'a.txt': b'one'})
    corpus = corpora.open_corpus(f'text:{tmp_path}/*.txt', DataConfig())
    (tmp_path / 'a.txt').unlink()
    with pytest.raises(UserError, match=r'cannot read .*a\.txt'):
        list(corpus.read())


def test_fingerprint_follows_the_files(tmp_path):
    write(tmp_path, {'a.txt': b'one', 'b.txt': b'two'})

    def fingerprint():
        return corpora.open_corpus(f'text:{tmp_path}/*.txt', DataConfig()).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    status = (tmp_path / 'a.txt').stat()
    write(tmp_path, {'a.txt': b'longer'})
    os.utime(tmp_path / 'a.txt', ns=(status.st_atime_ns, status.st_mtime_ns))
    longer = fingerprint()
    os.utime(tmp_path / 'a.txt', ns=(0, 0))
    older = fingerprint()
    (tmp_path / 'b.txt').rename(tmp_path / 'c.txt')
    assert len({first, longer, older, fingerprint()}) == 4


# -------------------------------------------------------------------------------------------------------------- jsonl


def test_jsonl_reads_a_field_and_names_lines(tmp_path):
    rows = [{'text': 'one\n', 'body': 'ONE'}, {'text': '', 'body': 'ÜBER ▁'}]
    write(tmp_path, {'x/a.jsonl': b'\n'.join(json.dumps(row).encode() for row in rows) + b'\n\n'})
    assert pairs(f'jsonl:{tmp_path}/**/*.jsonl') == [('x/a.jsonl#1', b'one\n'), ('x/a.jsonl#2', b'')]
    assert pairs(f'jsonl:{tmp_path}/x/*', text_field='body')[1] == ('a.jsonl#2', 'ÜBER ▁'.encode())


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        (b'{"text": "cut off', 'is not JSON'),
        (b'["a list"]', "no text in the field 'text'"),
        (b'{"body": "x"}', "no text in the field 'text'.*data.text_field"),
        (b'{"text": 3}', "no text in the field 'text'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    write(tmp_path, {'a.jsonl': b'{"text": "fine"}\n\n' + line + b'\n'})
    with pytest.raises(UserError, match=rf'a\.jsonl:3 .*{message}'):
        read(f'jsonl:{tmp_path}/*.jsonl')


def test_bad_bytes_in_jsonl_have_their_offset_in_the_file(tmp_path, warnings):
    write(tmp_path, {'a.jsonl': b'{"text": "fine"}\n{"text": "\xff"}\n{"text": "\\ud800"}\n'})
    assert [text.decode() for _, text in pairs(f'jsonl:{tmp_path}/*.jsonl')][:2] == ['fine', '\ufffd']
    assert 'byte 27' in warnings[0]
    assert 'the text of' in warnings[1]
    assert 'a.jsonl:3' in warnings[1]


# --------------------------------------------------------------------------------------------------------------- TFDS


def test_python_stdlib_is_the_installed_source(monkeypatch):
    some = [path for path in python_stdlib.source_files() if path.parent.name in ('json', 'asyncio')]
    monkeypatch.setattr(python_stdlib, 'source_files', lambda: some)
    found = dict(pairs('python_stdlib'))
    folder = python_stdlib.source_folder()
    assert found == {path.relative_to(folder).as_posix(): path.read_bytes() for path in some}
    assert 'json/decoder.py' in found


def test_python_stdlib_leaves_out_tests_and_what_was_installed():
    names = [path.relative_to(python_stdlib.source_folder()).as_posix() for path in python_stdlib.source_files()]
    assert names == sorted(names)
    assert {'os.py', 'json/__init__.py', 'unittest/case.py'} <= set(names)
    left_out = ('site-packages', 'dist-packages', 'test', 'tests', 'idle_test', '__pycache__')
    assert not [name for name in names if set(left_out) & set(name.split('/')[:-1])]


def test_a_damaged_cached_corpus_is_named(monkeypatch, cache_root):
    some = [path for path in python_stdlib.source_files() if path.parent.name == 'json']
    monkeypatch.setattr(python_stdlib, 'source_files', lambda: some)
    read('python_stdlib')
    [file] = cache_root.rglob('*.array_record*')
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=f'{cache_root}.*damaged.*delete'):
        read('python_stdlib')


def test_a_full_disk_is_the_machines_failure_and_leaves_nothing(monkeypatch, cache_root):
    def full(self):
        raise RuntimeError(f'Failed to finalize writing: write() failed: {os.strerror(errno.ENOSPC)}; at byte 3')

    monkeypatch.setattr(python_stdlib.PythonStdlib, 'download_and_prepare', full)
    with pytest.raises(MachineError, match='no space left'):
        read('python_stdlib')
    assert not [path for path in cache_root.glob('corpora/*') if path.is_dir()]


def test_any_tfds_dataset_by_name(monkeypatch, tmp_path):
    some = [path for path in python_stdlib.source_files() if path.parent.name == 'json']
    monkeypatch.setattr(python_stdlib, 'source_files', lambda: some)
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path / 'tfds'))
    found = read('tfds:python_stdlib')
    assert sorted(document.text for document in found) == sorted(path.read_bytes() for path in some)
    assert [document.identity for document in found] == [f'train#{i}' for i in range(len(some))]
    assert read('tfds:python_stdlib@train') == found
    assert {document.text.decode() for document in read('tfds:python_stdlib', text_field='identity')} == {
        path.relative_to(python_stdlib.source_folder()).as_posix() for path in some
    }
    with pytest.raises(UserError, match=r'no field .body.*identity, text'):
        read('tfds:python_stdlib', text_field='body')
    with pytest.raises(UserError, match='not available here'):
        read('tfds:python_stdlib@nosuchsplit')


def test_an_unknown_tfds_dataset_is_one_line():
    with pytest.raises(UserError, match=r'tfds:no_such_dataset is not available here .*TensorFlow') as raised:
        read('tfds:no_such_dataset')
    assert '\n' not in str(raised.value)


def test_documents_are_plain_values():
    document = corpora.Document('a', b'b')
    with pytest.raises(dataclasses.FrozenInstanceError):
        document.text = b'c'
