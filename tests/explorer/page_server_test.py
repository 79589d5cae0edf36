"""The explorer over HTTP: who is answered, with what, and that nothing but one line comes of a mistake."""

import asyncio
import contextlib
import functools
import http.client
import json
import threading
import time

import pytest

from llm.errors import UserError
from llm.explorer import app as app_module
from llm.explorer import server as explorer_server
from llm.explorer.app import Service
from llm.explorer.explorer import NotFound
from llm.serving import server as server_lib
from llm.serving.address import LOOPBACK_NAMES
from llm.serving.guard import Guard

TOKEN = 'a token that is long enough'


class Scripted:
    """In the place of an explorer: says what it was asked, slowly if it is told to, and fails on demand."""

    def __init__(self):
        self.asked, self.together, self._now = [], 0, 0
        self.go = threading.Event()
        self.go.set()

    def answer(self, method, path, fields):
        self._now += 1
        self.together = max(self.together, self._now)
        try:
            self.asked.append((method, path, fields))
            self.go.wait(10)
            if path == 'wrong':
                raise UserError('this is wrong;\n  do that')
            if path == 'absent':
                raise NotFound('not here')
            if path == 'bug':
                raise ZeroDivisionError('secret detail')
            return {'asked': [method, path, fields], 'infinite': float('inf')}
        finally:
            self._now -= 1


class Running:
    """A server in a thread, on a free port of the loopback address."""

    def __init__(self, explorer, token=None):
        self._stop, ready = threading.Event(), threading.Event()
        listening = server_lib.listen('127.0.0.1', 0)
        self.port = listening.getsockname()[1]
        guard = functools.partial(Guard, token=token, hosts=LOOPBACK_NAMES)
        serve = lambda: explorer_server.serve(Service(explorer), guard, listening, self._stop.is_set, ready.set)
        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()
        assert ready.wait(20)

    def stop(self):
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def ask(self, method, path, body=None, headers=(), timeout=20):
        """Status, headers and body."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout)
        headers = dict(headers)
        if body is not None:
            headers.setdefault('Content-Type', 'application/json')
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


@pytest.fixture
def scripted():
    return Scripted()


@pytest.fixture
def server(scripted):
    running = Running(scripted)
    yield running
    scripted.go.set()
    running.stop()


def test_questions_reach_the_explorer(server, scripted):
    status, headers, body = server.ask('GET', '/api/traces/x/pattern?layer=1&head=2')
    assert status == 200 and headers['cache-control'] == 'no-store'
    assert json.loads(body) == {'asked': ['GET', 'traces/x/pattern', {'layer': '1', 'head': '2'}], 'infinite': None}
    status, _, body = server.ask('POST', '/api/traces', json.dumps({'prompt': 'é', 'edits': []}))
    assert status == 200 and scripted.asked[-1] == ('POST', 'traces', {'prompt': 'é', 'edits': []})


@pytest.mark.parametrize(
    ('method', 'path', 'body', 'status', 'message'),
    [
        ('GET', '/api/wrong', None, 400, 'this is wrong; do that'),
        ('GET', '/api/absent', None, 404, 'not here'),
        ('GET', '/api/bug', None, 500, 'the server failed (ZeroDivisionError); its log says how'),
        ('GET', '/nothing.js', None, 404, "there is no '/nothing.js' here"),
        ('GET', '/../app.py', None, 404, "there is no '/../app.py' here"),
        ('GET', '/%2e%2e/app.py', None, 404, "there is no '/../app.py' here"),
        ('DELETE', '/api/traces', None, 405, "'/api/traces' does not take DELETE"),
        ('POST', '/api/traces', '{"prompt":', 400, 'the body is not JSON that can be read'),
        ('POST', '/api/traces', b'\xff\xfe\x00', 400, 'the body is not JSON that can be read'),
        ('POST', '/api/traces', '[' * 100_000, 400, 'the body is not JSON that can be read'),
        ('POST', '/api/traces', 'x' * (2**20 + 1), 413, 'the body is larger than 1048576 bytes'),
    ],
)
def test_a_mistake_is_told_in_one_line(server, method, path, body, status, message):
    found, _, data = server.ask(method, path, body)
    said = json.loads(data)['error']['message']
    assert found == status and said.startswith(message) and '\n' not in said
    assert b'Traceback' not in data and b'secret' not in data


def test_the_page_is_served_and_may_load_nothing_from_elsewhere(server):
    status, headers, body = server.ask('GET', '/')
    assert status == 200 and b'<!doctype html>' in body and headers['content-type'].startswith('text/html')
    policy = headers['content-security-policy']
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
    status, headers, _ = server.ask('GET', '/main.js')
    assert status == 200 and headers['content-type'].startswith('text/javascript')
    for path in app_module.PAGE.rglob('*.*'):
        status, _, body = server.ask('GET', f'/{path.relative_to(app_module.PAGE).as_posix()}')
        assert status == 200 and body == path.read_bytes()
        assert b'http://' not in body.replace(b'http://www.w3.org/', b'') and b'https://' not in body


def test_foreign_pages_are_refused(server, scripted):
    assert server.ask('GET', '/api/models', headers={'Origin': 'http://elsewhere.example'})[0] == 403
    assert server.ask('GET', '/api/models', headers={'Host': 'elsewhere.example'})[0] == 403
    assert server.ask('POST', '/api/traces', '{}', {'Content-Type': 'text/plain'})[0] == 415
    assert scripted.asked == []


def test_a_token_guards_the_answers_and_not_the_page(scripted):
    running = Running(scripted, TOKEN)
    try:
        assert running.ask('GET', '/')[0] == 200
        assert running.ask('GET', '/api/models')[0] == 401
        assert running.ask('GET', '/api/models', headers={'Authorization': 'Bearer wrong'})[0] == 401
        assert scripted.asked == []
        assert running.ask('GET', '/api/models', headers={'Authorization': f'Bearer {TOKEN}'})[0] == 200
    finally:
        running.stop()


def test_one_question_at_a_time_and_none_of_clients_that_left(server, scripted):
    scripted.go.clear()
    asking = [threading.Thread(target=server.ask, args=('GET', f'/api/slow/{i}')) for i in range(4)]
    for thread in asking:
        thread.start()
    while not scripted.asked:
        time.sleep(0.01)
    with pytest.raises(TimeoutError):
        server.ask('GET', '/api/left', timeout=0.3)  # gives up before its turn
    scripted.go.set()
    for thread in asking:
        thread.join(20)
    server.ask('GET', '/api/last')
    paths = [path for _, path, _ in scripted.asked]
    assert sorted(paths) == ['last', *(f'slow/{i}' for i in range(4))] and scripted.together == 1


def test_a_page_goes_on_while_a_text_is_written(server, scripted):
    scripted.go.clear()
    looking = threading.Thread(target=server.ask, args=('GET', '/api/slow'))
    looking.start()
    while not scripted.asked:
        time.sleep(0.01)
    writing = threading.Thread(target=server.ask, args=('POST', '/api/sessions', '{}'))
    writing.start()
    while len(scripted.asked) < 2:
        time.sleep(0.01)
    scripted.go.set()
    looking.join(20)
    writing.join(20)
    assert scripted.together == 2


def test_too_many_waiting_are_refused(server, scripted, monkeypatch):
    monkeypatch.setattr(app_module, 'MOST_WAITING', 1)
    scripted.go.clear()
    first = threading.Thread(target=server.ask, args=('GET', '/api/slow'))
    first.start()
    while not scripted.asked:
        time.sleep(0.01)
    status, headers, _ = server.ask('GET', '/api/more')
    assert status == 429 and headers['retry-after'] == '1'
    scripted.go.set()
    first.join(20)
    assert server.ask('GET', '/api/more')[0] == 200
