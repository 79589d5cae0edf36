"""HTTP as anybody may speak it, right or wrong."""

import http.client
import json
import socket

BODY = {'model': 'tiny', 'prompt': 'x', 'max_tokens': 4, 'seed': 0}


def ask(server, method, path, body=None, headers=()):
    """Status, headers and body of an answer. `body` is JSON, or bytes as they are."""
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=20)
    headers = dict(headers)
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    if body is not None:
        headers.setdefault('Content-Type', 'application/json')
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def post(server, body=BODY, path='/v1/completions', headers=()):
    """Status and decoded JSON of an answer."""
    status, _, data = ask(server, 'POST', path, body, headers)
    return status, json.loads(data)


def open_raw(server, data, receive_buffer=None):
    """A socket on which these bytes have been sent."""
    raw = socket.socket()
    if receive_buffer is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    raw.settimeout(20)
    raw.connect(('127.0.0.1', server.port))
    raw.sendall(data)
    return raw


def raw_request(body, path='/v1/completions', headers=''):
    """The bytes of a request."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f'POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}'
    return f'{head}Content-Length: {len(body)}\r\n\r\n'.encode() + body


def read_to_end(raw):
    """What comes until the other side closes."""
    parts = []
    while part := raw.recv(65536):
        parts.append(part)
    return b''.join(parts)
