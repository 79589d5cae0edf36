"""The explorer over HTTP: its page, and its answers under /api."""

import asyncio
import json
import logging
import mimetypes
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from llm.errors import UserError, first_line
from llm.explorer.arrays import dumps
from llm.explorer.bundle import PAGE
from llm.explorer.explorer import Explorer, NotFound
from llm.serving.api_error import CLOSE, ApiError
from llm.serving.exchange import ClientLeft, read_body

MOST_BODY = 2**20  # bytes
MOST_WAITING = 64  # requests; further ones are refused
CLIENT_LEFT = 499

# Nothing from elsewhere, nothing inline but styles, nobody's frame.
SECURITY = {
    'content-security-policy': "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'x-content-type-options': 'nosniff',
    'referrer-policy': 'no-referrer',
    'cache-control': 'no-store',
}

log = logging.getLogger('llm.serving')


class Service:
    """An explorer that answers requests one at a time, each with all of the machine.

    Only writing on has a turn of its own: before its first token a deep model is compiled for a minute, and the rest of
    the page goes on.
    """

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        self._turn, self._writing = asyncio.Lock(), asyncio.Lock()
        self._waiting = 0

    def app(self) -> FastAPI:
        """The routes, as an ASGI application."""
        # Without FastAPI's pages about the routes: they load scripts from elsewhere.
        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        app.router.routes += [
            Route('/api/{path:path}', self._api, methods=['GET', 'POST']),
            Route('/{path:path}', _page, methods=['GET']),
        ]
        app.add_exception_handler(ApiError, _tell)
        app.add_exception_handler(HTTPException, _tell_http)
        app.add_exception_handler(Exception, _tell_bug)
        return app

    async def _api(self, request: Request) -> Response:
        begin, path, status, note = time.monotonic(), request.path_params['path'], 500, ''
        try:
            fields: Any = dict(request.query_params)
            if request.method == 'POST':
                fields = _json(await read_body(request.headers, request.receive, MOST_BODY))
            body = await self._computed(request, path, fields)
            status = CLIENT_LEFT if body is None else 200
            return Response(body or b'', status, headers=SECURITY, media_type='application/json')
        except ClientLeft:
            status = CLIENT_LEFT
            return Response(status_code=status)
        except ApiError as error:
            status, note = error.status, f': {error.message}'
            raise
        except BaseException as error:
            note = f': {type(error).__name__} {first_line(error)}'
            raise
        finally:
            seconds = time.monotonic() - begin
            log.info('%s /api/%s: %d in %.2f s%s', request.method, path[:100], status, seconds, note)

    async def _computed(self, request: Request, path: str, fields: Any) -> bytes | None:
        """The answer's JSON; None if the client left before its turn came."""
        if self._waiting >= MOST_WAITING:
            raise ApiError(429, 'too many requests wait; send it again later', headers=CLOSE | {'retry-after': '1'})
        self._waiting += 1
        try:
            async with self._writing if path.startswith('sessions') else self._turn:
                if await request.is_disconnected():
                    return None
                return await asyncio.to_thread(self._answer, request.method, path, fields)
        finally:
            self._waiting -= 1

    def _answer(self, method: str, path: str, fields: Any) -> bytes:
        try:
            # A folder's name need not be UTF-8; what of it is not becomes a question mark.
            return dumps(self.explorer.answer(method, path, fields)).encode(errors='replace')
        except NotFound as error:
            raise ApiError(404, str(error)) from error
        except UserError as error:
            raise ApiError(400, str(error)) from error


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, 'the body is not JSON that can be read') from None


async def _page(request: Request) -> Response:
    """A file of the page. Only names that a listing of its folder has, so no path leads out of it."""
    files = {path.relative_to(PAGE).as_posix(): path for path in PAGE.rglob('*') if path.is_file()}
    path = files.get(request.path_params['path'] or 'index.html')
    if path is None:
        raise HTTPException(404)
    kind = mimetypes.guess_type(path.name)[0] or 'application/octet-stream'
    kind = 'text/javascript' if path.suffix == '.js' else kind
    return Response(path.read_bytes(), headers=SECURITY, media_type=kind)


async def _tell(_: Request, error: Exception) -> Response:
    return JSONResponse(error.body(), error.status, {**SECURITY, **error.headers})


async def _tell_http(request: Request, error: HTTPException) -> Response:
    """A route or a method that there is not."""
    path = request.scope['path'][:100]  # `request.url` would be made of the Host header, whatever that is
    message = {
        404: f'there is no {path!r} here',
        405: f'{path!r} does not take {request.method}',
    }.get(error.status_code, str(error.detail))
    return await _tell(request, ApiError(error.status_code, message, headers=dict(error.headers or {})))


async def _tell_bug(request: Request, error: Exception) -> Response:
    return await _tell(request, ApiError(500, f'the server failed ({type(error).__name__}); its log says how'))
