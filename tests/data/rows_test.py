import json
import sys
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds

from llm.config import DataConfig
from llm.data import corpora
from llm.data.rows import Row, open_rows
from llm.errors import UserError

MESSAGES = [{'role': 'user', 'content': 'Grüße'}, {'role': 'assistant', 'content': 'Hello'}]


class LittleChats(tfds.core.GeneratorBasedBuilder):
    """Conversations in both forms that TFDS has, numbers and lists."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        message = {'role': tfds.features.Text(), 'content': tfds.features.Text()}
        features = {
            'messages': tfds.features.Sequence(message),
            'prompt': tfds.features.Text(),
            'scores': tfds.features.Sequence(tfds.features.Scalar(np.float32)),
            'margin': tfds.features.Scalar(np.float64),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(3), 'test': self._generate_examples(1)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {'messages': MESSAGES, 'prompt': f'Grüße {i}', 'scores': [1.5, 0.5], 'margin': i}


def write(path, *lines):
    path.write_bytes(b'\n'.join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return f'jsonl:{path}'


def read(source, **settings):
    return open_rows(source, DataConfig(**settings))


def test_jsonl_rows_know_their_lines(tmp_path):
    source = write(tmp_path / 'a.jsonl', {'a': 1}, b'  ', b'{"b": "\\u00fc"}', b'')
    assert read(source) == [
        Row('a.jsonl#1', f'{tmp_path}/a.jsonl:1', {'a': 1}),
        Row('a.jsonl#3', f'{tmp_path}/a.jsonl:3', {'b': 'ü'}),
    ]


def test_identities_are_those_of_a_corpus(tmp_path):
    for name in ('x/a.jsonl', 'b.jsonl'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, {'text': 'one'}, {'text': 'two'})
    source = f'jsonl:{tmp_path}/**/*.jsonl'
    documents = corpora.documents(source, DataConfig())
    assert [row.identity for row in read(source)] == [document.identity for document in documents]


def test_lines_that_are_no_objects_are_kept_with_their_problem(tmp_path):
    rows = read(write(tmp_path / 'a.jsonl', b'{"a": }', [1], b'[' * 100_000, {'a': 1}))
    assert [row.where for row in rows] == [f'{tmp_path}/a.jsonl:{i}' for i in (1, 2, 3, 4)]
    assert [bool(row.problem) for row in rows] == [True, True, True, False]
    assert 'column 7' in rows[0].problem
    assert 'not a JSON object' in rows[1].problem


def test_bad_bytes_are_replaced_or_refused(tmp_path):
    source = write(tmp_path / 'a.jsonl', b'{"a": "\xff", "b": [{"c": "x\\ud800y"}]}')
    (row,) = read(source)
    assert row.fields['a'] == '\ufffd'
    text = row.fields['b'][0]['c']
    assert text.encode().decode() == text and text.startswith('x\ufffd') and text.endswith('\ufffdy')
    with pytest.raises(UserError, match=r'a\.jsonl is not UTF-8 at byte 7'):
        read(source, bad_bytes='refuse')
    for half in ('\\ud800', '\\udcc3\\udca9'):
        source = write(tmp_path / 'b.jsonl', f'{{"a": "{half}"}}'.encode())
        with pytest.raises(UserError, match=r'text of .*b\.jsonl:1 is not UTF-8'):
            read(source, bad_bytes='refuse')
        assert set(read(source)[0].fields['a']) == {'\ufffd'}


def test_tfds_by_name_gives_plain_values(tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    rows = read('tfds:little_chats')
    assert [row.identity for row in rows] == ['test#0', 'train#0', 'train#1', 'train#2']
    assert rows[2].where == 'tfds:little_chats train#1'
    for row in rows:
        assert row.fields['messages'] == MESSAGES
        assert row.fields['scores'] == [1.5, 0.5]
        assert json.loads(json.dumps(row.fields)) == row.fields
    assert sorted(row.fields['prompt'] for row in rows[1:]) == ['Grüße 0', 'Grüße 1', 'Grüße 2']
    assert len(read('tfds:little_chats@test')) == 1


@pytest.fixture
def tasks(monkeypatch):
    module = types.ModuleType('llm.data.tasks')
    module.TASKS = {
        'plain': lambda: iter([{'a': 1}, {'a': 2}]),
        'named': lambda: iter([{'a': 1, 'identity': 'ast.py'}]),
        'none': lambda: iter([]),
    }
    monkeypatch.setitem(sys.modules, 'llm.data.tasks', module)


def test_tasks_may_name_their_rows(tasks):
    assert read('task:plain') == [
        Row('plain#0', 'task:plain row 0', {'a': 1}),
        Row('plain#1', 'task:plain row 1', {'a': 2}),
    ]
    assert read('task:named') == [Row('ast.py', 'task:named row 0', {'a': 1})]


def test_sources_that_give_nothing(tasks, tmp_path):
    (tmp_path / 'empty.jsonl').write_text('\n\n')
    for source, message in [
        ('task:other', 'task:named, task:none, task:plain'),
        ('task:none', 'has no rows'),
        (f'jsonl:{tmp_path}/empty.jsonl', 'has no rows'),
        (f'jsonl:{tmp_path}/missing.jsonl', 'matches no file'),
        ('python_stdlib', 'jsonl:GLOB, tfds:NAME or task:NAME'),
        ('text:a', 'jsonl:GLOB, tfds:NAME or task:NAME'),
        ('jsonl:', 'jsonl:GLOB, tfds:NAME or task:NAME'),
    ]:
        with pytest.raises(UserError, match=message) as raised:
            read(source)
        assert '\n' not in str(raised.value)


def test_bad_bytes_of_tfds_are_replaced_or_refused(tmp_path, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    monkeypatch.setitem(MESSAGES[0], 'content', b'a\xffb')
    assert read('tfds:little_chats@test')[0].fields['messages'][0]['content'] == 'a\ufffdb'
    with pytest.raises(UserError, match='tfds:little_chats@test test#0 is not UTF-8 at byte 1'):
        read('tfds:little_chats@test', bad_bytes='refuse')
