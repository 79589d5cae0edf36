"""One request for text and its answer, from the first byte of the body to the last of the answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm.inference.engine import Event, Handle
from llm.serving.answers import FINISH_REASONS, Answer, dumps, merge, usage
from llm.serving.api_error import CLOSE, NO_RETRY, ApiError
from llm.serving.inbox import Inbox

BODY_SECONDS = 15.0  # that a client may take to send a body
HEARTBEAT_SECONDS = 15.0  # between signs of life in a stream that has nothing to say yet
_DISCARDED = 16  # times the limit that is read of a body too large, so that its sender gets to read why

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class ClientLeft(Exception):
    """The connection is gone; nobody is there to be told."""


@dataclass(eq=False)
class Exchange:
    """What is known of a request while it lasts; the log and the metrics are written from it.

    Attributes:
        route: its path.
        name: in the log: the answer's id, as soon as it has one.
        started: by the monotonic clock.
        status: of the answer; 499 if the client left first.
        handles: the engine's requests, one for each text.
        n: texts for each prompt; they follow each other in `handles`.
        first: seconds until the first token.
        tokens: written so far.
    """

    route: str
    name: str = ''
    started: float = field(default_factory=time.monotonic)
    status: int = 500
    handles: Sequence[Handle] = ()
    n: int = 1
    first: float | None = None
    tokens: int = 0

    def __post_init__(self):
        self.name = self.name or self.route

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def cancel(self) -> None:
        """Lets the engine give up what is not written yet."""
        for handle in self.handles:
            if handle.finish_reason is None:
                handle.cancel()

    def note(self, event: Event) -> None:
        """Counts what was written."""
        if event.ids and self.first is None:
            self.first = self.seconds
        self.tokens += len(event.ids)

    def usage(self) -> dict[str, int]:
        """Counts of tokens; a prompt that is continued several times counts once."""
        return usage(sum(len(handle.prompt) for handle in self.handles[:: self.n]), self.tokens)


async def read_body(headers: Any, receive: Receive, limit: int, seconds: float = BODY_SECONDS) -> bytes:
    """The body of a request.

    Args:
        headers: of the request.
        receive: ASGI's.
        limit: most bytes; what is longer is read and dropped up to a limit of its own, never kept.
        seconds: that it may take.

    Raises:
        ApiError: 408, 413 or 415.
        ClientLeft: if the connection ended first.
    """
    kind = headers.get('content-type', '').partition(';')[0].strip().lower()
    if kind != 'application/json':
        raise ApiError(415, 'send JSON, with the header Content-Type: application/json', headers=CLOSE)
    if headers.get('content-encoding', 'identity') != 'identity':
        raise ApiError(415, 'send the body as it is, without Content-Encoding', headers=CLOSE)
    parts, size, more = [], 0, True
    try:
        async with asyncio.timeout(seconds):
            while more and size <= _DISCARDED * limit:
                message = await receive()
                if message['type'] == 'http.disconnect':
                    raise ClientLeft
                part, more = message.get('body', b''), message.get('more_body', False)
                size += len(part)
                if size > limit:
                    parts.clear()
                else:
                    parts.append(part)
    except TimeoutError:
        raise ApiError(408, f'the body took longer than {seconds:g} seconds', headers=NO_RETRY | CLOSE) from None
    if size > limit:
        raise ApiError(413, f'the body is larger than {limit} bytes; --max-body sets the limit', headers=CLOSE)
    return b''.join(parts)


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Does the work, or as much of it as there is time for until the connection ends.

    Raises:
        ClientLeft: if the connection ended first, or the work was cancelled.
    """

    async def gone() -> None:
        while (await receive())['type'] != 'http.disconnect':
            pass

    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done() or working.cancelled():
            raise ClientLeft
        working.result()
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def send_whole(send: Send, exchange: Exchange, answer: Answer, echoes: Sequence[str]) -> None:
    """Waits for all texts, then sends them as one JSON object.

    Raises:
        ApiError: if one of them failed.
    """
    handles = exchange.handles
    inbox = Inbox(handles, overflow=asyncio.current_task().cancel)
    written: list[list[Event]] = [[] for _ in handles]
    running = len(handles)
    while running:
        for index, event, ended in await inbox.read():
            if event is not None:
                exchange.note(event)
                written[index].append(event)
            if ended:
                running -= 1
                _check(handles[index])
    choices = [
        answer.choice(index, echoes[index], merge(events), FINISH_REASONS[handles[index].finish_reason])
        for index, events in enumerate(written)
    ]
    body = dumps(answer.whole(choices, exchange.usage()))
    headers = [(b'content-type', b'application/json'), (b'content-length', str(len(body)).encode())]
    exchange.status = 200
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': body})


async def send_stream(
    send: Send, exchange: Exchange, answer: Answer, echoes: Sequence[str], include_usage: bool
) -> None:
    """Sends the texts as they come, as server-sent events.

    What goes wrong later than the first byte is told in the stream, as an event with an `error`.

    Raises:
        CancelledError: if the client reads so slowly that too much has to wait for it.
    """
    # A client that reads too slowly is as good as gone, and this coroutine waits for it in `send`.
    inbox = Inbox(exchange.handles, overflow=asyncio.current_task().cancel)
    handles, running = exchange.handles, len(exchange.handles)
    more = {'usage': None} if include_usage else {}

    async def write(data: bytes, last: bool = False) -> None:
        await send({'type': 'http.response.body', 'body': data, 'more_body': not last})

    def part(choice: dict[str, Any]) -> bytes:
        return _event(answer.chunk([choice], **more))

    headers = [(b'content-type', b'text/event-stream; charset=utf-8'), (b'cache-control', b'no-cache')]
    exchange.status = 200
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    openings = [answer.opening(index, echoes[index]) for index in range(running)]
    await write(b''.join(part(opening) for opening in openings if opening))
    try:
        while running:
            try:
                batch = await inbox.read(HEARTBEAT_SECONDS)
            except TimeoutError:
                await write(b': still at work\n\n')
                continue
            parts = []
            for index, event, ended in batch:
                if event is not None:
                    exchange.note(event)
                    parts.append(part(answer.part(index, event, None)))
                if ended:
                    running -= 1
                    _check(handles[index])
                    reason = FINISH_REASONS[handles[index].finish_reason]
                    parts.append(part(answer.part(index, merge(()), reason)))
            await write(b''.join(parts))
        if include_usage:
            await write(_event(answer.chunk([], usage=exchange.usage())))
        await write(b'data: [DONE]\n\n', last=True)
    except ApiError as error:
        exchange.status = error.status  # in the log; the client has seen 200
        await write(b''.join(parts) + _event(error.body()), last=True)


def _event(value: dict[str, Any]) -> bytes:
    return b'data: ' + dumps(value) + b'\n\n'


def _check(handle: Handle) -> None:
    """Raises ApiError for a text that did not come to its end."""
    if handle.finish_reason in FINISH_REASONS:
        return
    if handle.finish_reason == 'deadline':
        took = f'longer than the {handle.request.timeout:g} seconds that --request-timeout allows'
        raise ApiError(504, f'the request took {took}; ask for fewer tokens', code='timeout', headers=NO_RETRY)
    if handle.finish_reason == 'cancelled':
        raise ApiError(503, 'the server is stopping; what was asked for is not finished', code='stopping')
    raise ApiError(500, handle.error or 'the engine failed', code='engine_failed')
