"""Connections that must get on: who sends no request, or does not read the answer, is cut off.

uvicorn limits neither, and waits for ever when it closes a connection whose peer does not read.
"""

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0  # from the first byte of a request (or from connecting) to the end of its headers
STALL_SECONDS = 30.0  # without a byte taken, of those that wait to be sent
MOST_CONNECTIONS = 512
SEND_BUFFER = 128 * 2**10  # bytes that the kernel keeps for one slow reader


class Connection(H11Protocol):
    """uvicorn's connection; `stuck` is asked about it every second."""

    def connection_made(self, transport: Any) -> None:
        self._head_since: float | None = time.monotonic()  # when the client began to owe us a request
        self._stalled_since: float | None = None
        self._unsent = 0
        super().connection_made(transport)
        transport.max_size = 2**14  # bytes taken at a time: parsing tiny chunks must not hold the others up
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_since = None  # a request is being answered
        elif self._head_since is None:
            self._head_since = time.monotonic()

    def on_response_complete(self) -> None:
        self._head_since = None  # uvicorn's keep-alive limit begins
        super().on_response_complete()

    @property
    def answered_and_unsent(self) -> bool:
        """Whether an answer is written to its end, but not taken by the peer to its end."""
        answered = self.cycle is not None and self.cycle.response_complete
        return answered and self.transport.get_write_buffer_size() > 0

    def stuck(self, now: float) -> bool:
        """Whether the peer has kept us waiting for too long."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent:
            self._stalled_since = None
        elif self._stalled_since is None:
            self._stalled_since = now
        self._unsent = unsent
        late = self._head_since is not None and now - self._head_since > HEAD_SECONDS
        return late or (self._stalled_since is not None and now - self._stalled_since > STALL_SECONDS)


async def watch(connections: set[Connection], every: float = 1.0) -> None:
    """Cuts off, until cancelled, whoever is stuck. The application sees that as a client that left."""
    while True:
        await asyncio.sleep(every)
        for connection in list(connections):
            if connection.stuck(time.monotonic()):
                connection.transport.abort()
