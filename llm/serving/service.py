"""What the routes of the server do."""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Route

from llm import chat
from llm.errors import UserError, first_line
from llm.inference import engine as engine_lib
from llm.inference.engine import Engine, EngineStopped, Handle, QueueFull
from llm.inference.generate import Generator
from llm.serving import metrics as metrics_lib
from llm.serving import protocol
from llm.serving.answers import ChatAnswer, TextAnswer
from llm.serving.api_error import CLOSE, ApiError
from llm.serving.exchange import (
    ClientLeft,
    Exchange,
    Receive,
    Send,
    read_body,
    send_stream,
    send_whole,
    unless_client_leaves,
)

MOST_RETRY_SECONDS = 60
MOST_REPORTED = 2**18  # log-probabilities of one request: some tens of MB, until they are sent
STOPPING_RETRY_SECONDS = '10'  # about when another server may answer in the place of this one

log = logging.getLogger('llm.serving')


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many there may be."""

    max_body: int  # bytes
    max_new_tokens: int  # of a text
    max_choices: int  # texts of a request: prompts times n
    max_exchanges: int  # requests that are being read or answered
    request_timeout: float  # seconds until a text is given up


class Service:
    """A model that answers requests.

    Attributes:
        draining: no more requests are taken.
        exchanges: those that are being answered.
        metrics: what `/metrics` shows.
    """

    def __init__(self, engine: Engine, generator: Generator, name: str, capacity: int, limits: Limits):
        """
        Args:
            engine: started, or about to be.
            generator: the engine's.
            name: of the model, for clients.
            capacity: the engine's tokens of a request, prompt and new ones but the last.
            limits: of what clients may ask for.
        """
        self.engine, self.generator, self.name, self.limits = engine, generator, name, limits
        self.capacity = capacity
        self.draining = False
        self.exchanges: set[Exchange] = set()
        self.metrics = metrics_lib.Metrics(engine.statistics)
        self.metrics.ready.set(1)
        self._created = int(time.time())
        self._mean_seconds = 1.0  # of the last requests

    def app(self) -> FastAPI:
        """The routes, as an ASGI application."""
        # Without FastAPI's pages about the routes: they load scripts from elsewhere.
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        app.router.routes += [
            Route('/v1/completions', _Generate(self, protocol.CompletionRequest), methods=['POST']),
            Route('/v1/chat/completions', _Generate(self, protocol.ChatRequest), methods=['POST']),
        ]
        app.add_api_route('/v1/models', self._models, methods=['GET'])
        app.add_api_route('/v1/models/{name:path}', self._model, methods=['GET'])
        app.add_api_route('/health', self._health, methods=['GET'])
        app.add_api_route('/metrics', self._metrics, methods=['GET'])
        app.add_exception_handler(ApiError, _tell)
        app.add_exception_handler(HTTPException, _tell_http)
        app.add_exception_handler(Exception, _tell_bug)
        return app

    def drain(self) -> None:
        """Takes no more requests."""
        self.draining = True
        self.metrics.ready.set(0)

    def check_open(self) -> None:
        """Raises ApiError if there is no place for one more request."""
        if self.draining:
            headers = {'retry-after': STOPPING_RETRY_SECONDS, **CLOSE}
            raise ApiError(503, 'the server is stopping and takes no more requests', code='stopping', headers=headers)
        if len(self.exchanges) >= self.limits.max_exchanges:
            raise self._busy()

    def _busy(self) -> ApiError:
        """Refuses; a place is free about when one of the slots is."""
        seconds = math.ceil(self._mean_seconds * len(self.exchanges) / max(1, self.limits.max_exchanges))
        retry = str(min(max(1, seconds), MOST_RETRY_SECONDS))
        message = 'as many requests wait as the server keeps; send it again later'
        return ApiError(429, message, code='queue_full', headers={'retry-after': retry, **CLOSE})

    def prompts(self, asked: protocol.CompletionRequest | protocol.ChatRequest) -> list[tuple[list[int], str]]:
        """The ids of each prompt, and what `echo` puts before its texts. Slow for long texts: not for the event loop.

        Raises:
            ApiError: if the model cannot read one of them.
        """
        generator, tokenizer = self.generator, self.generator.tokenizer
        try:
            if isinstance(asked, protocol.ChatRequest):
                ids = chat.encode_prompt(tokenizer, [message.message() for message in asked.messages])
                return [(generator.encode(ids), '')]
            found = []
            for prompt in asked.prompts:
                ids = generator.encode(prompt)
                echo = '' if not asked.echo else prompt if isinstance(prompt, str) else tokenizer.decode(ids)
                found.append((ids, echo))
            return found
        except UserError as error:
            field = 'messages' if isinstance(asked, protocol.ChatRequest) else 'prompt'
            raise ApiError(400, str(error), field) from error

    def check(self, asked: protocol.CompletionRequest | protocol.ChatRequest) -> None:
        """Raises ApiError for what goes past the limits, or asks for another model."""
        if asked.model not in (None, self.name):
            message = f'there is no model {asked.model[:100]!r} here; this server has {self.name!r}'
            raise ApiError(404, message, 'model', 'model_not_found')
        prompts = len(asked.prompts) if isinstance(asked, protocol.CompletionRequest) else 1
        if prompts * asked.n > self.limits.max_choices:
            most = f'{prompts} prompts with n {asked.n} are {prompts * asked.n} texts; the most is'
            raise ApiError(400, f'{most} {self.limits.max_choices} (--max-choices)', 'n')
        if (asked.limit or 0) > self.limits.max_new_tokens:
            message = f'{asked.limit} new tokens are more than {self.limits.max_new_tokens} (--max-new-tokens)'
            raise ApiError(400, message, 'max_tokens')

    def requests(
        self, asked: protocol.CompletionRequest | protocol.ChatRequest, prompts: Sequence[Sequence[int]]
    ) -> list[engine_lib.Request]:
        """What the engine is asked for: of each prompt in turn, `n` texts.

        Raises:
            ApiError: if a prompt does not fit the context, or the report of log-probabilities would be too large.
        """
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        found = []
        for ids in prompts:
            room = self.capacity - len(ids) + 1
            if room < (asked.limit or 1):
                wanted, less = (f' and {asked.limit} new ones', ', or ask for fewer') if asked.limit else ('', '')
                raise ApiError(
                    400,
                    f'a prompt of {len(ids)} tokens{wanted} do not fit the context of {self.capacity}; '
                    f'shorten it{less}',
                    'messages' if isinstance(asked, protocol.ChatRequest) else 'prompt',
                    'context_length_exceeded',
                )
            found += [
                engine_lib.Request(
                    prompt=ids,
                    sampling=asked.sampling(seed + choice),
                    max_new_tokens=asked.limit or min(room, self.limits.max_new_tokens),
                    stop=asked.stops,
                    top_logprobs=asked.top_logprobs_wanted,
                    timeout=self.limits.request_timeout,
                )
                for choice in range(asked.n)
            ]
        reported = sum(request.max_new_tokens for request in found) * (1 + asked.top_logprobs_wanted)
        if asked.top_logprobs_wanted and reported > MOST_REPORTED:
            message = f'up to {reported} log-probabilities are more than {MOST_REPORTED}; ask for fewer tokens or texts'
            raise ApiError(400, message, 'top_logprobs')
        return found

    def submit(self, requests: Sequence[engine_lib.Request]) -> list[Handle]:
        """Gives all to the engine, or none.

        Raises:
            ApiError: if the queue is full, or the engine takes nothing more.
        """
        handles = []
        try:
            for request in requests:
                handles.append(self.engine.submit(request))
            return handles
        except BaseException as error:
            for handle in handles:
                handle.cancel()
            if isinstance(error, QueueFull):
                raise self._busy() from error
            if isinstance(error, EngineStopped):
                raise ApiError(503, str(error), code='stopping', headers=CLOSE) from error
            if isinstance(error, UserError):
                raise ApiError(400, str(error)) from error
            raise

    def begin(self, exchange: Exchange) -> None:
        self.exchanges.add(exchange)

    def end(self, exchange: Exchange) -> None:
        """Gives up what the engine still writes for it, counts it and logs it."""
        exchange.cancel()
        self.exchanges.discard(exchange)
        self._mean_seconds += 0.1 * (exchange.seconds - self._mean_seconds)
        self.metrics.seconds.labels(exchange.route).observe(exchange.seconds)
        if exchange.first is not None:
            self.metrics.first_token.labels(exchange.route).observe(exchange.first)

    def count(self, exchange: Exchange, note: str = '') -> None:
        self.metrics.requests.labels(exchange.route, exchange.status).inc()
        first = '' if exchange.first is None else f', first after {exchange.first:.2f} s'
        written = f', {exchange.tokens} tokens{first}' if exchange.handles else ''
        log.info('%s: %d in %.2f s%s%s', exchange.name, exchange.status, exchange.seconds, written, note)

    async def _models(self) -> Response:
        return JSONResponse({'object': 'list', 'data': [self._card()]})

    async def _model(self, name: str) -> Response:
        if name != self.name:
            message = f'there is no model {name[:100]!r} here; this server has {self.name!r}'
            raise ApiError(404, message, 'model', 'model_not_found')
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {
            'id': self.name,
            'object': 'model',
            'created': self._created,
            'owned_by': 'glassbox',
            'max_model_len': self.capacity,
        }

    async def _health(self) -> Response:
        statistics = self.engine.statistics()
        status = 'failed' if self.engine.failure else 'draining' if self.draining else 'ready'
        content = {'status': status, 'model': self.name, 'running': statistics.running, 'queued': statistics.queued}
        return JSONResponse(content, 200 if status == 'ready' else 503)

    async def _metrics(self) -> Response:
        return Response(self.metrics.text(), media_type=metrics_lib.CONTENT_TYPE)


class _Generate:
    """The ASGI application of a route that writes texts."""

    def __init__(self, service: Service, kind: type[protocol.CompletionRequest] | type[protocol.ChatRequest]):
        self._service, self._kind = service, kind

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        service, exchange, note = self._service, Exchange(scope['path']), ''
        try:
            service.check_open()
            service.begin(exchange)
            try:
                await self._answer(exchange, Headers(scope=scope), receive, send)
            finally:
                service.end(exchange)
        except ClientLeft:
            exchange.status = 499
        except ApiError as error:
            exchange.status, note = error.status, f': {error.message}'
            raise
        except BaseException as error:
            note = f': {type(error).__name__} {first_line(error)}'
            raise
        finally:
            service.count(exchange, note)

    async def _answer(self, exchange: Exchange, headers: Headers, receive: Receive, send: Send) -> None:
        service = self._service
        asked = protocol.parse(self._kind, await read_body(headers, receive, service.limits.max_body))
        service.check(asked)
        prompts = await asyncio.to_thread(service.prompts, asked)
        exchange.n = asked.n
        exchange.handles = service.submit(service.requests(asked, [ids for ids, _ in prompts]))
        answer_kind = ChatAnswer if self._kind is protocol.ChatRequest else TextAnswer
        logprobs = asked.logprobs is not None and asked.logprobs is not False
        answer = answer_kind(service.name, service.generator.tokenizer, logprobs, asked.top_logprobs_wanted)
        exchange.name = answer.id
        total, most = sum(len(ids) for ids, _ in prompts), exchange.handles[0].request.max_new_tokens
        log.info(
            '%s: %s, prompts of %d tokens, texts: %d, new tokens at most: %d',
            *(answer.id, exchange.route, total, len(exchange.handles), most),
        )
        echoes = [echo for _, echo in prompts for _ in range(asked.n)]
        if asked.stream:
            work = send_stream(send, exchange, answer, echoes, asked.include_usage)
        else:
            work = send_whole(send, exchange, answer, echoes)
        await unless_client_leaves(receive, work)


async def _tell(_: Request, error: Exception) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)


async def _tell_http(request: Request, error: HTTPException) -> Response:
    """A route or a method that there is not."""
    path = request.scope['path'][:100]  # `request.url` would be made of the Host header, whatever that is
    message = {
        404: f'there is no {path!r} here',
        405: f'{path!r} does not take {request.method}',
    }.get(error.status_code, str(error.detail))
    return await _tell(request, ApiError(error.status_code, message, headers=dict(error.headers or {})))


async def _tell_bug(request: Request, _: Exception) -> Response:
    return await _tell(request, ApiError(500, 'the server failed; its log says how', code='internal_error'))
