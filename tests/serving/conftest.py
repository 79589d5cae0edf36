"""Servers in a thread, on a free port of the loopback address."""

import asyncio
import contextlib
import functools
import threading

import pytest
from scripted_engine import ScriptedEngine, make_generator

from llm.serving import server as server_lib
from llm.serving.address import LOOPBACK_NAMES
from llm.serving.guard import Guard
from llm.serving.service import Limits, Service


@pytest.fixture(scope='session')
def generator():
    return make_generator()


class Running:
    """A server that answers.

    Attributes:
        url: of its root.
        service: what answers.
        connections: open ones.
        cut: requests cut off when it stopped.
    """

    def __init__(self, service, token=None, hosts=LOOPBACK_NAMES, drain_seconds=5.0):
        self.service, self.cut = service, None
        self._stop, ready = threading.Event(), threading.Event()
        listening = server_lib.listen('127.0.0.1', 0)
        self.url = server_lib.url(listening)
        self.port = listening.getsockname()[1]
        guard = functools.partial(Guard, token=token, hosts=hosts)

        def run():
            self.cut = asyncio.run(
                server_lib.serve(service, guard, listening, self._stop.is_set, drain_seconds, ready.set)
            )

        service.engine.start()
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert ready.wait(20)

    @property
    def connections(self):
        return int(self.service.metrics.connections.collect()[0].samples[0].value) * [None]

    def stop(self, wait=True):
        self._stop.set()
        if wait:
            self._thread.join(30)
            assert not self._thread.is_alive()
            self.service.engine.stop(drain=False)


@pytest.fixture(scope='module')
def start(generator):
    """A context manager: a server with these limits, around this engine (a scripted one by default)."""

    @contextlib.contextmanager
    def start(engine=None, token=None, hosts=LOOPBACK_NAMES, drain_seconds=5.0, **limits):
        engine = engine or ScriptedEngine(generator)
        most = {
            'max_body': 2**16,
            'max_new_tokens': 2048,
            'max_choices': 8,
            'max_exchanges': 1000,
            'request_timeout': 60.0,
        }
        service = Service(engine, engine.generator, 'tiny', engine.capacity, Limits(**most | limits))
        running = Running(service, token, hosts, drain_seconds)
        try:
            yield running
        finally:
            running.stop()

    return start


@pytest.fixture(scope='module')
def server(start):
    with start() as running:
        yield running
