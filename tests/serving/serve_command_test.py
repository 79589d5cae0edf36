"""`serve`: what it refuses before it begins, and how it ends."""

import functools
import io
import os
import signal
import socket
import sys
import threading

import pytest
from plain_http import BODY, open_raw, post, raw_request, read_to_end
from scripted_engine import ScriptedEngine, wait_for

from llm.command_line import main
from llm.errors import Interrupted, MachineError
from llm.serving import server as server_lib
from llm.serving.address import TOKEN_VARIABLE
from llm.serving.guard import Guard
from llm.serving.service import Limits, Service


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """A function from options to the one line that is said."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)

    def refused(*options, code=2):
        assert main(['serve', '--workdir', str(tmp_path / 'none'), *options]) == code
        said = capsys.readouterr()
        assert said.out == '' and said.err.startswith('error: ') and said.err.count('\n') == 1
        return said.err

    return refused


def test_addresses_that_others_reach_need_a_token(refused, tmp_path, monkeypatch):
    for host in ('0.0.0.0', '::', '192.168.1.7', 'lab.example'):
        assert 'set a token' in refused('--host', host)
    monkeypatch.setenv(TOKEN_VARIABLE, 'x' * 32)
    assert 'there is no workdir' in refused('--host', '0.0.0.0')
    monkeypatch.setenv(TOKEN_VARIABLE, 'short')
    assert f'{TOKEN_VARIABLE} must hold at least 16' in refused()
    monkeypatch.setenv(TOKEN_VARIABLE, '')
    assert f'{TOKEN_VARIABLE} must hold at least 16' in refused('--host', '0.0.0.0')
    file = tmp_path / 'token'
    assert 'cannot read --token-file' in refused('--token-file', str(file))
    file.write_text('one word and another, long enough\n')
    assert 'visible ASCII' in refused('--token-file', str(file))
    file.write_text('x' * 32 + '\n')
    assert 'there is no workdir' in refused('--token-file', str(file), '--host', '0.0.0.0')


@pytest.mark.parametrize(
    'options',
    [('--slots', '0'), ('--max-queue', '0'), ('--port', '70000'), ('--request-timeout', '0'), ('--max-body', '-1')],
)
def test_numbers_out_of_range(refused, options):
    assert options[0] in refused(*options)


def test_without_the_extra_one_line_says_what_to_install(refused, monkeypatch):
    for name in [name for name in sys.modules if name.startswith('llm.serving')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr('llm.serving', raising=False)
    monkeypatch.setitem(sys.modules, 'uvicorn', None)
    assert "pip install 'glassbox-llm[serve]'" in refused()


def test_a_port_that_is_taken():
    with socket.create_server(('127.0.0.1', 0)) as taken, pytest.raises(Exception, match='choose another with --port'):
        server_lib.listen('127.0.0.1', taken.getsockname()[1])


def run_until(generator, act, engine=None, drain_seconds=0.2):
    """Runs a server in this thread, and `act(server, engine)` in another as soon as it answers."""
    engine = engine or ScriptedEngine(generator, delay=0.01)
    limits = Limits(max_body=2**16, max_new_tokens=2048, max_choices=8, max_exchanges=8, request_timeout=60.0)
    service = Service(engine, generator, 'tiny', engine.capacity, limits)
    listening = server_lib.listen('127.0.0.1', 0)
    server = type('Server', (), {'port': listening.getsockname()[1]})
    failures = []

    def follow():
        try:
            wait_for(lambda: _answers(server))
            act(server, engine)
        except BaseException as error:
            failures.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        server_lib.run(service, functools.partial(Guard), listening, drain_seconds)
    finally:
        thread.join()
        assert not failures, failures


def _answers(server):
    try:
        return post(server, BODY | {'max_tokens': 1})[0] == 200
    except OSError:
        return False


def test_a_signal_ends_it_with_one_line_of_output(generator, capsys):
    run_until(generator, lambda server, engine: os.kill(os.getpid(), signal.SIGTERM))
    said = capsys.readouterr()
    assert said.out.startswith('tiny answers at http://127.0.0.1:') and said.out.count('\n') == 1
    assert 'cmpl-' in said.err and 'draining' in said.err


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_who_is_cut_off_shows_in_the_exit_code(generator, number):
    def act(server, engine):
        with open_raw(server, raw_request(BODY | {'max_tokens': 2000})) as raw:
            wait_for(lambda: engine.statistics().running == 1)
            os.kill(os.getpid(), number)
            assert b'HTTP/1.1 503' in read_to_end(raw)

    with pytest.raises(Interrupted, match=r'1 requests were cut off after 0.2 seconds') as caught:
        run_until(generator, act)
    assert caught.value.exit_code == 128 + number


def test_an_engine_that_breaks_down_ends_the_server(generator):
    """Though nobody asks it for anything any more."""

    def act(server, engine):
        engine.failure = 'the engine broke down'

    with pytest.raises(MachineError, match='the engine broke down'):
        run_until(generator, act, ScriptedEngine(generator))


def test_a_bug_is_told_without_its_trace(start, generator, monkeypatch):
    def broken(*_):
        raise KeyError('secret')

    stderr = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', stderr)
    with start() as server, server_lib.logging_to_stderr():
        monkeypatch.setattr(server.service, 'prompts', broken)
        status, answer = post(server)
        assert status == 500 and answer['error']['code'] == 'internal_error'
        assert 'secret' not in answer['error']['message']
        monkeypatch.undo()
        assert post(server)[0] == 200
    assert 'KeyError' in stderr.getvalue() and 'Traceback' not in stderr.getvalue()
