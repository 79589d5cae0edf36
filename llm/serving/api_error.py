"""What a client is told when a request fails: an HTTP status and, in OpenAI's form, one line."""

from dataclasses import dataclass, field
from typing import Any

# A client that is told so does not send the same request again; openai's does else after a 408, 409, 429 or 5xx.
NO_RETRY = {'x-should-retry': 'false'}
CLOSE = {'connection': 'close'}  # for requests whose body is not read to its end

_TYPES = {
    400: 'invalid_request_error',
    401: 'authentication_error',
    403: 'permission_error',
    404: 'not_found_error',
    429: 'rate_limit_error',
    503: 'service_unavailable_error',
    504: 'timeout_error',
}


@dataclass
class ApiError(Exception):
    """A request that is not answered as asked."""

    status: int  # HTTP status
    message: str  # one line: what is wrong, and what to do
    param: str | None = None  # field of the request that is to blame
    code: str | None = None  # a name for programs
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = _TYPES.get(self.status, 'invalid_request_error' if self.status < 500 else 'server_error')
        message = ' '.join(self.message.split())
        return {'error': {'message': message, 'type': kind, 'param': self.param, 'code': self.code}}
