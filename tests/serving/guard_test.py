"""Who may speak to the server: names of hosts, origins of web pages, the token."""

import pytest
from plain_http import BODY, ask, post

from llm.serving.address import is_loopback

TOKEN = 'a token of visible letters'.replace(' ', '-')


def test_requests_must_name_one_of_our_hosts(server):
    for host in ('localhost', '127.0.0.1', 'LOCALHOST:80', '[::1]:9', 'localhost.'):
        assert post(server, headers={'Host': host})[0] == 200, host
    for host in ('evil.example', 'evil.example:8000', '127.0.0.1.evil.example', '', '[', 'localhost@evil.example'):
        for path in ('/v1/models', '/health', '/metrics', '/nowhere'):
            assert ask(server, 'GET', path, headers={'Host': host})[0] == 403, (host, path)
    status, answer = post(server, headers={'Host': 'evil.example'})
    assert status == 403 and answer['error']['type'] == 'permission_error'


def test_further_names_can_be_allowed(start):
    with start(hosts=('localhost', 'Lab.Example')) as server:
        assert post(server, headers={'Host': 'lab.example:1'})[0] == 200
        assert post(server, headers={'Host': '127.0.0.1'})[0] == 403
    with start(hosts=None) as server:
        assert post(server, headers={'Host': 'anything'})[0] == 200


def test_pages_of_other_origins_are_refused_and_told_nothing(server):
    own = f'127.0.0.1:{server.port}'
    assert post(server, headers={'Origin': f'http://{own}'})[0] == 200
    assert post(server, headers={'Sec-Fetch-Site': 'same-origin'})[0] == 200
    for headers in (
        {'Origin': 'https://evil.example'},
        {'Origin': 'null'},
        {'Origin': f'http://127.0.0.1:{server.port + 1}'},
        {'Origin': f'file://{own}'},
        {'Sec-Fetch-Site': 'cross-site'},
        {'Sec-Fetch-Site': 'same-site'},
    ):
        for method, path, body in (('POST', '/v1/completions', BODY), ('GET', '/metrics', None)):
            status, answer, _ = ask(server, method, path, body, headers)
            assert status == 403, headers
            assert not any(name.lower().startswith('access-control') for name in answer)
    # What a page may send without asking first is no JSON by its header.
    for kind in ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data'):
        assert post(server, headers={'Content-Type': kind})[0] == 415
    preflight = {'Origin': 'https://evil.example', 'Access-Control-Request-Method': 'POST'}
    status, answer, _ = ask(server, 'OPTIONS', '/v1/completions', headers=preflight)
    assert status == 403 and not any(name.lower().startswith('access-control') for name in answer)


@pytest.mark.parametrize('method, path', [('GET', '/v1/models'), ('POST', '/v1/completions'), ('GET', '/v1/nowhere')])
def test_the_token_is_needed_on_every_route_of_the_api(start, method, path):
    with start(token=TOKEN) as server:
        body = BODY if method == 'POST' else None
        for given in (
            None,
            f'Bearer {TOKEN}x',
            f'Bearer {TOKEN[:-1]}',
            TOKEN,
            f'Basic {TOKEN}',
            'Bearer',
            'Bearer \xff',
        ):
            headers = {} if given is None else {'Authorization': given}
            status, answer, data = ask(server, method, path, body, headers)
            assert status == 401, given
            assert answer['www-authenticate'] == 'Bearer' and TOKEN.encode() not in data
        expected = 404 if path.endswith('nowhere') else 200
        assert ask(server, method, path, body, {'Authorization': f'Bearer {TOKEN}'})[0] == expected
        assert ask(server, 'GET', '/health')[0] == 200
        # A path that is written otherwise is no way around.
        assert ask(server, 'GET', '/v1%2fmodels')[0] in (401, 404)
        assert ask(server, 'GET', '//v1/models')[0] == 404


def test_addresses_that_only_this_machine_reaches():
    assert all(map(is_loopback, ('localhost', '127.0.0.1', '127.8.9.1', '::1', '[::1]')))
    assert not any(map(is_loopback, ('0.0.0.0', '::', '', '192.168.1.2', 'lab.example', 'localhost.evil.example')))
