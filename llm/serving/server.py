"""From a service to a socket: listening, and stopping without losing what runs."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from llm.errors import Interrupted, MachineError, UserError
from llm.serving.connections import SEND_BUFFER, STALL_SECONDS, Connection, watch
from llm.serving.guard import Guard
from llm.serving.service import Service

KEEP_ALIVE_SECONDS = 75
HEAD_BYTES = 32 * 2**10
CUT_SECONDS = 5.0  # for telling clients whose answers were cut off, and for closing

log = logging.getLogger('llm.serving')


def listen(host: str, port: int) -> socket.socket:
    """Takes an address; port 0 is any that is free. Connections are refused until `serve` runs.

    Raises:
        UserError: if it cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise UserError(f'--host {host}, --port {port}: {error}') from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections inherit it
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # whose peer is gone without a word is found out
        if hasattr(socket, 'TCP_USER_TIMEOUT'):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, int(STALL_SECONDS))
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * STALL_SECONDS))
        found.bind(address)
    except (OSError, OverflowError) as error:
        found.close()
        raise UserError(f'cannot listen on {host} port {port} ({error}); choose another with --port') from error
    return found


def url(listening: socket.socket) -> str:
    host, port, *_ = listening.getsockname()
    return f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'


class Server(uvicorn.Server):
    """uvicorn's, with our signals."""

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def settings(app: Any) -> uvicorn.Config:
    """uvicorn's settings for an application: our connections, no log of its own, nothing believed of proxies."""
    return uvicorn.Config(
        app,
        http=Connection,
        loop='asyncio',
        ws='none',
        lifespan='off',
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_graceful_shutdown=int(CUT_SECONDS),
    )


async def serve(
    service: Service,
    guard: Callable[..., Guard],
    listening: socket.socket,
    stopped: Callable[[], bool],
    drain_seconds: float,
    ready: Callable[[], None] = lambda: None,
) -> int:
    """Answers until `stopped()` or the engine fails; then refuses new requests, finishes what runs, and returns.

    Args:
        service: what answers; its engine is started.
        guard: from an application to one that is guarded.
        listening: socket.
        stopped: asked ten times a second.
        drain_seconds: that running requests have left to finish; then they are cut off, and their clients told.
        ready: called once requests are answered.

    Returns:
        How many requests were cut off.
    """
    server = Server(settings(guard(service.app())))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    connections = server.server_state.connections
    service.metrics.connections.set_function(lambda: len(connections))
    watching = asyncio.create_task(watch(connections))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        ready()
        while not stopped() and service.engine.failure is None and not serving.done():
            await asyncio.sleep(0.1)
        service.drain()
        unfinished = lambda: len(service.exchanges) + sum(one.answered_and_unsent for one in connections)
        log.info('draining: %d requests run', unfinished())
        await _until(lambda: not unfinished(), drain_seconds)
        cut = unfinished()
        for exchange in list(service.exchanges):
            exchange.cancel()
        await _until(lambda: not service.exchanges, CUT_SECONDS)
        server.should_exit = True
        await serving
        return cut
    finally:
        watching.cancel()
        serving.cancel()
        await asyncio.gather(watching, serving, return_exceptions=True)
        for connection in list(connections):
            connection.transport.abort()


async def _until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        await asyncio.sleep(0.05)


@contextlib.contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Shows the log of requests on stderr, and nothing of uvicorn's: its errors hold stack traces."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
    uvicorn_log = logging.getLogger('uvicorn.error')
    before = log.level, log.propagate, uvicorn_log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    uvicorn_log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before[1]
        log.setLevel(before[0])
        uvicorn_log.setLevel(before[2])


def run(
    service: Service,
    guard: Callable[..., Guard],
    listening: socket.socket,
    drain_seconds: float,
) -> None:
    """Answers until SIGTERM or Ctrl-C. The same signal once more ends it at once.

    Raises:
        Interrupted: if requests had to be cut off.
        MachineError: if the engine broke down.
    """
    from llm.training.signals import StopSignal

    with logging_to_stderr(), StopSignal() as stop:
        ready = lambda: print(f'{service.name} answers at {url(listening)}/v1', flush=True)
        stopped = lambda: stop.signal is not None
        service.engine.start()
        try:
            cut = asyncio.run(serve(service, guard, listening, stopped, drain_seconds, ready))
        finally:
            service.engine.stop(drain=False, timeout=CUT_SECONDS)
        if service.engine.failure is not None:
            raise MachineError(service.engine.failure)
        if cut:
            why = f'{cut} requests were cut off after {drain_seconds:g} seconds (--drain-timeout)'
            raise Interrupted(stop.signal or signal.SIGTERM, why)
