"""Folders that are made whole or not at all, also by commands that are stopped."""

import os
import signal
import subprocess
import sys
import time

import pytest

from llm import command_line
from llm.errors import MachineError, UserError
from llm.interop.huggingface.whole_folder import whole_folder


@pytest.fixture(autouse=True)
def spared():
    """A SIGTERM that nobody handles fails the test, not all tests."""

    def fail(*_):
        raise AssertionError('SIGTERM would have ended the process')

    before = signal.signal(signal.SIGTERM, fail)
    yield
    assert signal.signal(signal.SIGTERM, before) is fail


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize('taken', [(), Exception])
def test_a_stopped_import_leaves_nothing(taken, saved_model, tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        assert len(names(tmp_path)) == 1
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except taken as error:  # as some do who say what they could not do
            raise MachineError('failed') from error

    monkeypatch.setattr('llm.interop.huggingface.workdirs.copy_tokenizer', stopped)
    command = ['import', '--from', str(saved_model('llama3')), '--workdir', str(tmp_path / 'run')]
    assert command_line.main(command) == 128 + signal.SIGTERM
    assert 'stopped by signal 15; nothing is left behind' in capsys.readouterr().err
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    kept = [f'run.{os.getppid()}.tmp', f'run2.{dead.pid}.tmp', 'run.old.tmp']
    for name in (f'run.{dead.pid}.tmp', f'run.{os.getpid()}.tmp', *kept):
        (tmp_path / name / 'checkpoints').mkdir(parents=True)
    with whole_folder(tmp_path / 'run') as folder:
        assert names(folder) == []
        (folder / 'file').touch()
    assert names(tmp_path) == sorted(['run', *kept])
    assert names(tmp_path / 'run') == ['file']


def test_folders_on_the_way_go_too(tmp_path):
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / 'a' / 'b' / 'run') as folder:
        assert folder.is_dir() and 1 / 0
    assert names(tmp_path) == []


def test_what_is_in_the_way_is_called_by_its_name(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    (tmp_path / 'file').touch()
    for name in ('link', 'file', 'file/run'):
        message = r'cannot be made \(Not a directory\)' if '/' in name else 'exists'
        with pytest.raises(UserError, match=f'^{tmp_path / name} {message}; '), whole_folder(tmp_path / name):
            pass
