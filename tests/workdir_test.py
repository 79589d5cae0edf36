"""A workdir survives crashes: files are old or new, never half; the last attempt's rows count."""

import json
import os

import pytest

from llm.config import SGD, Config
from llm.errors import UserError
from llm.workdir import Workdir, write_atomically


def write_rows(workdir: Workdir, *rows: dict, torn: str = '') -> None:
    workdir.metrics_file.write_text(''.join(json.dumps(row) + '\n' for row in rows) + torn)


def row(step: int, attempt: int = 1, kind: str = 'train', **more) -> dict:
    return {'kind': kind, 'step': step, 'attempt': attempt} | more


@pytest.mark.parametrize('crash_in', ['fsync', 'replace'])
def test_a_crash_while_writing_leaves_the_old_content(tmp_path, monkeypatch, crash_in):
    path = tmp_path / 'summary.json'
    write_atomically(path, 'old')

    def crash(*_):
        raise OSError('the disk is gone')

    with monkeypatch.context() as patched:
        patched.setattr(os, crash_in, crash)
        with pytest.raises(OSError):
            write_atomically(path, 'new, and longer')
    assert path.read_text() == 'old'
    write_atomically(path, 'new')
    assert path.read_text() == 'new'
    assert os.listdir(tmp_path) == ['summary.json']  # what the crash left is taken over


def test_text_is_on_the_disk_before_the_name_points_to_it(tmp_path, monkeypatch):
    """Or a power cut could leave the new name with no content."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, 'fsync', lambda fd: (calls.append(('fsync', os.fstat(fd).st_size)), fsync(fd)))
    monkeypatch.setattr(os, 'replace', lambda *names: (calls.append(('replace', 0)), replace(*names)))
    write_atomically(tmp_path / 'x', 'twelve bytes')
    assert calls == [('fsync', 12), ('replace', 0)]


def test_what_is_written_is_read_back(tmp_path):
    workdir = Workdir(tmp_path)
    config = Config(name='µ', optimizer=SGD(momentum=0.5))
    workdir.write_config(config)
    workdir.write_summary({'status': 'done', 'step': 3})
    workdir.write_runtime({'host_threads': 2})
    opened = Workdir.open(tmp_path)
    assert opened.config() == config
    assert opened.summary() == {'status': 'done', 'step': 3}
    assert opened.runtime() == {'host_threads': 2}


def test_before_the_first_start_there_is_nothing(tmp_path):
    workdir = Workdir(tmp_path)
    assert workdir.summary() == workdir.runtime() == {}
    assert workdir.rows() == []
    assert workdir.last_attempt() == 0
    assert workdir.repair_metrics() is False


def test_only_a_folder_with_a_config_is_a_workdir(tmp_path):
    with pytest.raises(UserError, match=r'there is no workdir .*nowhere'):
        Workdir.open(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='is not a workdir'):
        Workdir.open(tmp_path)
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError):
        Workdir.open(tmp_path / 'file')


@pytest.mark.parametrize('name', ['summary', 'runtime', 'config'])
@pytest.mark.parametrize(
    'content', [b'{"status": "do', b'', b'\xff\xfe\x00', b'[1, 2]'], ids=['torn', 'empty', 'binary', 'list']
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, content):
    workdir = Workdir(tmp_path)
    (tmp_path / f'{name}.json').write_bytes(content)
    with pytest.raises(UserError, match=rf'{name}\.json') as error:
        getattr(workdir, name)()
    assert '\n' not in str(error.value)


def test_the_last_attempts_rows_count(tmp_path):
    workdir = Workdir(tmp_path)
    write_rows(
        workdir,
        row(1, loss=3.0),
        row(2, loss=2.0),
        row(2, kind='evaluation', loss=2.5),
        row(3, loss=1.5),
        row(2, attempt=2, loss=2.1),
        row(4, attempt=2, loss=1.0),
    )
    assert [(r['step'], r['attempt'], r['loss']) for r in workdir.rows('train')] == [
        (1, 1, 3.0),
        (2, 2, 2.1),
        (3, 1, 1.5),
        (4, 2, 1.0),
    ]
    assert [r['loss'] for r in workdir.rows('evaluation')] == [2.5]
    assert len(workdir.rows()) == 5
    assert workdir.last_attempt() == 2


def test_every_event_is_kept_in_order(tmp_path):
    workdir = Workdir(tmp_path)
    events = [row(2, 1, 'event', message='a'), row(2, 1, 'event', message='b'), row(1, 2, 'event', message='c')]
    write_rows(workdir, *events)
    assert [r['message'] for r in workdir.rows('event')] == ['c', 'a', 'b']


def test_a_torn_last_line_is_passed_over_and_cut_off(tmp_path):
    workdir = Workdir(tmp_path)
    write_rows(workdir, row(1, loss=3.0), row(2, loss=2.0), torn='{"kind": "train", "step": 3, "lo')
    assert [r['step'] for r in workdir.rows()] == [1, 2]
    assert workdir.repair_metrics() is True
    whole = workdir.metrics_file.read_text()
    assert whole.endswith('2.0}\n')
    with open(workdir.metrics_file, 'a') as file:
        file.write(json.dumps(row(3, loss=1.0)) + '\n')
    assert [r['step'] for r in workdir.rows()] == [1, 2, 3]
    assert workdir.repair_metrics() is False


def test_a_tear_within_a_character_is_passed_over_and_cut_off(tmp_path):
    """Samples hold any text; JSON escapes it, but a file may have been written by another hand."""
    workdir = Workdir(tmp_path)
    line = json.dumps(row(1, kind='sample', text='é'), ensure_ascii=False).encode() + b'\n'
    workdir.metrics_file.write_bytes(line + line[: line.index('é'.encode()) + 1])
    assert [r['text'] for r in workdir.rows()] == ['é']
    assert workdir.repair_metrics() is True
    assert workdir.metrics_file.read_bytes() == line


def test_a_file_that_is_all_tear_becomes_empty(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.metrics_file.write_text('{"kind"')
    assert workdir.repair_metrics() is True
    assert workdir.metrics_file.read_bytes() == b''
