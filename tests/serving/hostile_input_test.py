"""Bodies and bytes that are wrong: each is refused in OpenAI's form, and the next request is answered."""

import contextlib
import json
import socket
import time

import pytest
from plain_http import BODY, ask, open_raw, post, raw_request, read_to_end
from scripted_engine import ScriptedEngine, wait_for

from llm.serving import connections, exchange
from llm.serving.api_error import ApiError
from llm.serving.protocol import ChatRequest, CompletionRequest, parse

DEEP = b'[' * 5000 + b']' * 5000


@pytest.mark.parametrize(
    'body, status',
    [
        (b'', 400),
        (b'{', 400),
        (b'null', 400),
        (b'[]', 400),
        (b'"text"', 400),
        (b'{"prompt": "x"} and more', 400),
        (b'{"prompt": "\xff\xfe"}', 400),
        (b'{"prompt": "\\ud800"}', 400),
        (b'{"prompt": "\\ud800\\udc00 \\u0000"}', 200),
        (b'{"prompt": "x", "temperature": NaN}', 400),
        (b'{"prompt": "x", "temperature": Infinity}', 400),
        (b'{"prompt": "x", "temperature": 1e999}', 400),
        (b'{"prompt": "x", "temperature": 1e-300}', 200),
        (b'{"prompt": "x", "n": 1e2}', 400),
        (b'{"prompt": "x", "n": true}', 400),
        (b'{"prompt": "x", "seed": ' + b'9' * 20000 + b'}', 400),
        (b'{"prompt": "x", "stop": [1]}', 400),
        (b'{"prompt": "x", "stream": "yes"}', 400),
        (b'{"prompt": ' + DEEP + b'}', 400),
        (b'{"prompt": "x", "logit_bias": ' + DEEP + b'}', 400),
        (b'{"prompt": "x", "' + b'k' * 9000 + b'": 1}', 400),
        (b'{"prompt": "x", "model": "' + b'm' * 9000 + b'"}', 404),
        (b'{"prompt": ["x", "x", "x", "x", "x", "x", "x", "x", "x"]}', 400),
        (b'\x00\x01\x02', 400),
    ],
    ids=lambda value: value if isinstance(value, int) else repr(value[:40]),
)
def test_bodies_that_are_wrong(server, body, status):
    got, _, data = ask(server, 'POST', '/v1/completions', body)
    assert got == status, data[:300]
    answer = json.loads(data)
    if status != 200:
        error = answer['error']
        assert set(error) == {'message', 'type', 'param', 'code'}
        assert '\n' not in error['message'] and len(data) < 1500
        assert 'Traceback' not in error['message'] and '.py' not in error['message']
    assert post(server)[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    'asked',
    [
        {'prompt': [0.5] * 200_000},
        {'prompt': [[]] * 250_000},
        {'prompt': 'x', 'stop': [1] * 300_000},
        {'prompt': 'x', 'logit_bias': dict.fromkeys(map(str, range(80_000)), 1)},
        {'prompt': 'x'} | dict.fromkeys(map(str, range(80_000)), 1),
        {'messages': [1] * 300_000},
        {'messages': [{'role': 'user', 'content': ''}] * 30_000},
        {'messages': [{'role': 'user', 'content': [1] * 300_000}]},
        {'messages': [{'role': 'user', 'content': ''} | dict.fromkeys(map(str, range(80_000)), 1)]},
    ],
    ids=lambda asked: json.dumps(asked)[:40],
)
def test_refusing_takes_no_longer_than_reading(asked):
    """A large body that is wrong in very many places holds up everybody else for as long as it is checked."""
    body = json.dumps(asked).encode()
    kind = ChatRequest if 'messages' in asked else CompletionRequest
    seconds = []
    for _ in range(3):
        start = time.process_time()
        with pytest.raises(ApiError) as caught:
            parse(kind, body)
        seconds.append(time.process_time() - start)
        if seconds[-1] < 0.5:  # noting every fault takes seconds
            break
    assert caught.value.status == 400 and min(seconds) < 0.5


@pytest.mark.parametrize('chunked', [False, True])
def test_a_body_too_large_is_refused_and_not_kept(server, chunked):
    big = json.dumps(BODY | {'prompt': 'x' * 200_000}).encode()
    body = iter([big[i : i + 1000] for i in range(0, len(big), 1000)]) if chunked else big
    if chunked:
        import http.client

        connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=20)
        connection.request('POST', '/v1/completions', body, {'Content-Type': 'application/json'}, encode_chunked=True)
        answer = connection.getresponse()
        status, data = answer.status, answer.read()
        connection.close()
    else:
        status, _, data = ask(server, 'POST', '/v1/completions', body)
    assert status == 413 and b'65536 bytes' in data


def test_a_body_without_end_is_cut_off(server):
    raw = open_raw(server, b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n')
    raw.sendall(b'Transfer-Encoding: chunked\r\n\r\n')
    sent = 0
    with pytest.raises(OSError):
        for _ in range(10_000):
            raw.sendall(b'4000\r\n' + b'x' * 0x4000 + b'\r\n')
            sent += 0x4000
    raw.close()
    assert sent < 64 * 2**20
    assert post(server)[0] == 200


def test_wrong_content_type_encoding_route_and_method(server):
    assert post(server, headers={'Content-Type': 'text/json'})[0] == 415
    assert post(server, headers={'Content-Type': 'application/json; charset=utf-8'})[0] == 200
    assert post(server, headers={'Content-Encoding': 'gzip'})[0] == 415
    status, answer = post(server, path='/v1/embeddings')
    assert status == 404 and answer['error']['message'] == "there is no '/v1/embeddings' here"
    status, _, data = ask(server, 'GET', '/v1/completions')
    assert status == 405 and json.loads(data)['error']['message'] == "'/v1/completions' does not take GET"
    for path in ('/docs', '/openapi.json', '/v1/../health', '/%00', '/v1/completions/'):
        assert ask(server, 'GET', path)[0] == 404


def test_any_host_may_be_allowed_and_none_breaks_the_server(start):
    with start(hosts=None) as server:
        for host in ('[', 'a b', 'x' * 5000, '[::1]]:9', 'h\xf6st'):
            for path, expected in (('/v1/models', 200), ('/nowhere', 404), ('/v1/completions', 405)):
                status, _, data = ask(server, 'GET', path, headers={'Host': host})
                assert status in (expected, 400), (host, path, data)


@pytest.mark.parametrize(
    'data',
    [
        b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',  # the beginning of TLS
        b'GARBAGE\r\n\r\n',
        b'GET / HTTP/1.1\r\n\r\n',  # without a host
        b'GET / HTTP/9.9\r\nHost: localhost\r\n\r\n',
        b'GET /health HTTP/1.1\r\nHost: localhost\r\nX: ' + b'y' * 2_000_000 + b'\r\n\r\n',
        b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n',
        b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef',
        raw_request(b'{}', headers='Transfer-Encoding: chunked\r\n'),
    ],
)
def test_bytes_that_are_no_request(server, data):
    answer = b''
    with contextlib.suppress(OSError), open_raw(server, b'') as raw:  # cut off while it still sends
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        answer = read_to_end(raw)
    assert answer == b'' or answer.startswith(b'HTTP/1.1 4')
    assert post(server)[0] == 200


def test_requests_behind_each_other_on_one_connection(server):
    with open_raw(
        server, raw_request(BODY) * 3 + raw_request(b'{') + raw_request(BODY, headers='Connection: close\r\n')
    ) as raw:
        answers = read_to_end(raw)
    assert answers.count(b'HTTP/1.1 200') == 4 and answers.count(b'HTTP/1.1 400') == 1


def test_a_body_that_comes_too_slowly(server, monkeypatch):
    monkeypatch.setattr(exchange.read_body, '__defaults__', (0.2,))
    with open_raw(server, raw_request(BODY)[:-5]) as raw:
        answer = read_to_end(raw)
    assert answer.startswith(b'HTTP/1.1 408') and b'longer than 0.2 seconds' in answer
    wait_for(lambda: not server.service.exchanges)


def test_a_request_that_never_comes(server, monkeypatch):
    monkeypatch.setattr(connections, 'HEAD_SECONDS', 0.3)
    silent = open_raw(server, b'')
    slow = open_raw(server, b'GET /health HT')
    start = time.monotonic()
    for raw in (silent, slow):
        with raw, contextlib.suppress(ConnectionResetError):
            assert read_to_end(raw) == b''
    assert time.monotonic() - start < 10


def test_no_more_connections_than_there_may_be(server, monkeypatch):
    monkeypatch.setattr(connections, 'MOST_CONNECTIONS', 5)
    raws = [open_raw(server, b'') for _ in range(12)]
    wait_for(lambda: len(server.connections) == 5)
    for raw in raws:
        raw.close()
    wait_for(lambda: not server.connections)
    assert post(server)[0] == 200


def test_a_client_that_leaves_is_not_written_for(start, generator):
    engine = ScriptedEngine(generator, delay=0.005)
    with start(engine) as server:
        for stream in (True, False):
            raw = open_raw(server, raw_request(BODY | {'max_tokens': 2000, 'n': 3, 'stream': stream}))
            wait_for(lambda: engine.statistics().running == 3)
            raw.close()
            wait_for(lambda: engine.statistics().running == 0)
        assert engine.statistics().cancelled == 6
        raw = open_raw(server, raw_request(BODY)[:-3])  # leaves within its body
        wait_for(lambda: server.service.exchanges)
        raw.close()
        wait_for(lambda: not server.service.exchanges)
        assert b'status="499"' in ask(server, 'GET', '/metrics')[2]


def test_a_client_that_does_not_read_is_cut_off(start, generator, monkeypatch):
    monkeypatch.setattr(connections, 'STALL_SECONDS', 0.5)
    engine = ScriptedEngine(generator)
    with start(engine) as server:
        body = BODY | {'max_tokens': 2000, 'n': 8, 'stream': True}
        raw = open_raw(server, raw_request(body, path='/v1/completions'), receive_buffer=4096)
        wait_for(lambda: engine.statistics().accepted == 8)
        wait_for(lambda: not server.connections, 20)
        wait_for(lambda: not server.service.exchanges)
        raw.close()
        assert post(server)[0] == 200


def test_what_waits_for_a_client_is_bounded(start, generator, monkeypatch):
    monkeypatch.setattr('llm.serving.inbox.MOST_WAITING', 20_000)
    engine = ScriptedEngine(generator)
    with start(engine) as server:
        body = BODY | {'max_tokens': 2000, 'n': 8, 'stream': True, 'logprobs': 5}
        raw = open_raw(server, raw_request(body), receive_buffer=4096)
        wait_for(lambda: engine.statistics().cancelled > 0)
        wait_for(lambda: not server.service.exchanges)
        assert engine.statistics().running == 0
        raw.close()
