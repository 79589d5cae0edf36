"""Being asked to stop: what runs is finished, what comes is refused, and what takes too long is told so."""

import concurrent.futures
import json
import re
import time

import openai
import pytest
from plain_http import BODY, ask, open_raw, post, raw_request, read_to_end
from scripted_engine import ScriptedEngine, wait_for

from llm.serving import server as server_lib


def client_of(server):
    return openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0)


def test_what_runs_is_finished_and_what_comes_is_refused(start, generator):
    engine = ScriptedEngine(generator, slots=1, delay=0.02)
    with start(engine) as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert ask(server, 'GET', '/health')[0] == 200
        running = pool.submit(post, server, BODY | {'max_tokens': 60})
        queued = pool.submit(post, server, BODY | {'max_tokens': 5})
        wait_for(lambda: len(engine.handles) == 2)
        server.stop(wait=False)
        wait_for(lambda: server.service.draining)
        status, headers, _ = ask(server, 'POST', '/v1/completions', BODY)
        assert status == 503 and int(headers['retry-after']) > 0
        status, _, data = ask(server, 'GET', '/health')
        assert status == 503 and b'"draining"' in data
        assert b'glassbox_ready 0.0' in ask(server, 'GET', '/metrics')[2]
        for future, tokens in ((running, 60), (queued, 5)):
            status, answer = future.result()
            assert status == 200 and answer['usage']['completion_tokens'] == tokens
    assert server.cut == 0
    with pytest.raises(OSError):
        ask(server, 'GET', '/health')


def test_what_takes_too_long_is_cut_off_and_told(start, generator):
    engine = ScriptedEngine(generator, delay=0.02)
    with start(engine, drain_seconds=0.3) as server, concurrent.futures.ThreadPoolExecutor(1) as pool:
        client = client_of(server)
        whole = pool.submit(post, server, BODY | {'max_tokens': 2000})
        stream = client.completions.create(model='tiny', prompt='x', max_tokens=2000, stream=True)
        next(stream)
        wait_for(lambda: len(engine.handles) == 2)
        server.stop(wait=False)
        with pytest.raises(openai.APIError, match='the server is stopping'):
            list(stream)
        status, answer = whole.result()
        assert status == 503 and answer['error']['code'] == 'stopping'
    assert server.cut == 2
    assert {handle.finish_reason for handle in engine.handles} == {'cancelled'}


def test_a_connection_that_is_kept_open_does_not_hold_the_server(start):
    with start() as server:
        client = client_of(server)
        client.models.list()  # its connection stays open
        assert len(server.connections) == 1
    assert server.cut == 0


def test_an_answer_that_is_not_read_yet_is_not_lost(start, generator, monkeypatch):
    monkeypatch.setattr(server_lib, 'CUT_SECONDS', 0.1)
    engine = ScriptedEngine(generator)
    with start(engine) as server:
        body = BODY | {'max_tokens': 1500, 'n': 8, 'logprobs': 5}  # megabytes: more than the kernel keeps
        raw = open_raw(server, raw_request(body), receive_buffer=4096)
        wait_for(lambda: engine.statistics().completed == 8 and not server.service.exchanges)
        server.stop(wait=False)
        time.sleep(1.0)
        assert server.connections
        answer = read_to_end(raw)
        raw.close()
    assert server.cut == 0
    head, _, body = answer.partition(b'\r\n\r\n')
    assert len(body) == int(re.search(rb'content-length: (\d+)', head)[1])
    assert json.loads(body)['usage']['completion_tokens'] == 12_000
