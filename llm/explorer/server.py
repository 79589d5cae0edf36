"""From an explorer to a socket: listening until it is stopped."""

import asyncio
import socket
from collections.abc import Callable

from llm.explorer.app import Service
from llm.serving import server as server_lib
from llm.serving.connections import watch
from llm.serving.guard import Guard

PROTECTED = '/api'  # what a token is asked for; the page itself holds nothing of a run


async def serve(
    service: Service,
    guard: Callable[..., Guard],
    listening: socket.socket,
    stopped: Callable[[], bool],
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Answers until `stopped()`, which is asked ten times a second.

    Args:
        service: what answers.
        guard: `Guard`, with the address's settings.
        listening: socket.
        stopped: whether to end.
        ready: called once requests are answered.
    """
    server = server_lib.Server(server_lib.settings(guard(service.app(), protected=PROTECTED)))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    connections = server.server_state.connections
    watching = asyncio.create_task(watch(connections))
    try:
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        ready()
        while not stopped() and not serving.done():
            await asyncio.sleep(0.1)
    finally:
        watching.cancel()
        serving.cancel()
        await asyncio.gather(watching, serving, return_exceptions=True)
        for connection in list(connections):
            connection.transport.abort()


def run(service: Service, guard: Callable[..., Guard], listening: socket.socket, ready: Callable[[str], None]) -> None:
    """Answers until SIGTERM or Ctrl-C. The same signal once more ends it at once.

    Args:
        service, guard, listening: see `serve`.
        ready: called with the address once requests are answered.
    """
    from llm.training.signals import StopSignal

    url = server_lib.url(listening)
    with server_lib.logging_to_stderr(), StopSignal() as stop:
        asyncio.run(serve(service, guard, listening, lambda: stop.signal is not None, lambda: ready(url)))
