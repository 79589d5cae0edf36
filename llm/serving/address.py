"""Where a server listens and who may speak to it: the options that all commands with a server share."""

import functools
import ipaddress
import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from llm.errors import UserError

if TYPE_CHECKING:
    from llm.serving.guard import Guard

TOKEN_VARIABLE = 'GLASSBOX_SERVE_TOKEN'
SHORTEST_TOKEN = 16
LOOPBACK_NAMES = ('localhost', '127.0.0.1', '::1')


@dataclass(frozen=True)
class Address:
    """A bearer token is read from --token-file or from GLASSBOX_SERVE_TOKEN, never from the command line."""

    host: str = '127.0.0.1'  # address to listen on; one that other machines reach needs a token
    port: int = 8000  # port to listen on; 0 is any that is free
    token_file: pathlib.Path | None = None  # file with the token that requests must carry, at least 16 characters
    allowed_hosts: tyro.conf.UseAppendAction[tuple[str, ...]] = ()  # further names that this server is reached by

    def guard(self) -> 'Callable[..., Guard]':
        """`Guard` with the token and the names of this address.

        Raises:
            UserError: for a port out of range, a token that cannot be read, or none where other machines reach.
            ImportError: if the extra `serve` is not installed.
        """
        if not 0 <= self.port < 2**16:
            raise UserError(f'--port is {self.port}; it must be from 0 to 65535')
        token, loopback = self._token(), is_loopback(self.host)
        if token is None and not loopback:
            raise UserError(
                f'--host {self.host} can be reached from other machines: set a token, with --token-file or in '
                f'{TOKEN_VARIABLE}, or leave --host out'
            )
        from llm.serving.guard import Guard

        # Of an address that other machines reach, nobody here knows the names.
        hosts = (*LOOPBACK_NAMES, self.host, *self.allowed_hosts) if loopback or self.allowed_hosts else None
        return functools.partial(Guard, token=token, hosts=hosts)

    def _token(self) -> str | None:
        if self.token_file is not None:
            try:
                token, where = self.token_file.read_text(encoding='utf-8').strip(), str(self.token_file)
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f'cannot read --token-file {self.token_file}: {error}') from error
        elif TOKEN_VARIABLE in os.environ:
            token, where = os.environ[TOKEN_VARIABLE].strip(), TOKEN_VARIABLE
        else:
            return None
        if len(token) < SHORTEST_TOKEN or not all('!' <= character <= '~' for character in token):
            raise UserError(
                f'{where} must hold at least {SHORTEST_TOKEN} visible ASCII characters; make one with '
                '`openssl rand -hex 32`'
            )
        return token


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return host.lower() == 'localhost'
