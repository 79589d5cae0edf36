"""Who may speak to the server at all: checked before a byte of a body is read.

A web page that is open in the user's browser can send requests to the loopback address, and after rebinding its own
domain name to that address it could read the answers. So requests must name one of our hosts, requests from pages of
other origins are refused, and nothing is ever allowed to other origins (no CORS headers).
"""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse

from llm.serving.address import LOOPBACK_NAMES
from llm.serving.api_error import CLOSE, ApiError


class Guard:
    """An ASGI application around another: refuses, or passes on."""

    def __init__(
        self,
        app: Any,
        token: str | None = None,
        hosts: Iterable[str] | None = LOOPBACK_NAMES,
        protected: str = '/v1',
    ):
        """
        Args:
            app: what is guarded.
            token: what requests to `protected` must carry as a bearer; None asks for none.
            hosts: names that requests may call this server by; None is any.
            protected: the path, with all below it, that the token is for.
        """
        self._app = app
        self._protected = protected
        self._digest = None if token is None else _digest(token.encode())
        self._hosts = None if hosts is None else {host.lower().strip('[]') for host in hosts}

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope['type'] == 'http':
            try:
                self._check(scope)
            except ApiError as error:
                await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: dict[str, Any]) -> None:
        headers = {name: value.decode('latin-1') for name, value in scope['headers']}
        host = headers.get(b'host', '')
        if self._hosts is not None and _hostname(f'//{host}') not in self._hosts:
            raise ApiError(
                403, f'{host[:100]!r} is not a name of this server; --allowed-hosts adds names', headers=CLOSE
            )
        origin, site = headers.get(b'origin'), headers.get(b'sec-fetch-site', 'none')
        foreign = origin is not None and _authority(origin) != host.lower()
        if foreign or site not in ('none', 'same-origin'):
            raise ApiError(403, 'web pages of other origins may not use this server', headers=CLOSE)
        inside = scope['path'] == self._protected or scope['path'].startswith(f'{self._protected}/')
        if self._digest is not None and inside:
            scheme, _, token = headers.get(b'authorization', '').partition(' ')
            # Digests have one length, so the time of the comparison tells nothing.
            same = hmac.compare_digest(_digest(token.strip().encode('latin-1')), self._digest)
            if scheme.lower() != 'bearer' or not same:
                raise ApiError(
                    401,
                    'this server needs its token: send the header Authorization: Bearer TOKEN',
                    code='invalid_api_key',
                    headers={'www-authenticate': 'Bearer', **CLOSE},
                )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _hostname(url: str) -> str | None:
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return None
    return name and name.rstrip('.')


def _authority(origin: str) -> str | None:
    """Host and port of an origin; None of `null` and of what is no origin."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ('http', 'https') else None
