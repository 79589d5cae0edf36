"""From an engine's thread to the event loop: the events of all texts of one answer, until they can be sent."""

import asyncio
import functools
from collections.abc import Callable, Sequence

from llm.inference.engine import Event, Handle
from llm.serving.answers import merge

# Bytes that may wait for a client who reads more slowly than the model writes. Text alone hardly ever gets there.
MOST_WAITING = 2 * 2**20
_TOKEN_BYTES = 120  # of Python objects for a token or an alternative, about


class Inbox:
    """Takes the events of some handles; read in one coroutine."""

    def __init__(self, handles: Sequence[Handle], overflow: Callable[[], object]):
        """To be made in the event loop. From now on, the engine's thread hands on what the handles write.

        Args:
            handles: whose events these are.
            overflow: called once if more than `MOST_WAITING` bytes wait; what comes then is dropped.
        """
        self._loop = asyncio.get_running_loop()
        self._overflow = overflow
        self._events: dict[int, list[Event]] = {}
        self._ended: list[int] = []
        self._waiting = 0  # bytes
        self._wake = asyncio.Event()
        self._overflowed = False
        for index, handle in enumerate(handles):
            handle.subscribe(functools.partial(self._hand_on, index))

    async def read(self, timeout: float | None = None) -> list[tuple[int, Event | None, bool]]:
        """Waits for events, and takes all: per handle its index, its events merged (None if none), whether it ended.

        Raises:
            TimeoutError: if nothing came within so many seconds.
        """
        async with asyncio.timeout(timeout):
            await self._wake.wait()
        self._wake.clear()
        events, ended, self._events, self._ended, self._waiting = self._events, self._ended, {}, [], 0
        return [
            (index, merge(events[index]) if index in events else None, index in ended)
            for index in sorted({*events, *ended})
        ]

    def _hand_on(self, index: int, event: Event | None) -> None:
        # A loop that is closed raises, and the engine then cancels the request.
        self._loop.call_soon_threadsafe(self._put, index, event)

    def _put(self, index: int, event: Event | None) -> None:
        self._wake.set()
        if event is None:
            self._ended.append(index)
        elif not self._overflowed:
            self._waiting += len(event.text) + _TOKEN_BYTES * (len(event.ids) + sum(map(len, event.top)))
            self._events.setdefault(index, []).append(event)
            if self._waiting > MOST_WAITING:
                self._overflowed = True
                self._events.clear()
                self._overflow()
