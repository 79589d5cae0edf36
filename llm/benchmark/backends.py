"""Which attention runs: asked for by name, chosen, or every one there is."""

import dataclasses

import jax

from llm import runtime
from llm.config import Config
from llm.errors import UserError
from llm.model import attention_backends

NAMES = ('reference', *attention_backends.PLATFORM)


def asked(backends: tuple[str, ...]) -> list[tuple[str, bool]]:
    """(backend, whether it was asked for by name), with 'all' spelt out."""
    found = {}
    for backend in backends:
        for name in NAMES if backend == 'all' else (backend,):
            found[name] = found.get(name, False) or backend != 'all'
    return list(found.items())


def resolve(config: Config, backend: str, by_name: bool) -> tuple[Config, str]:
    """The config with this attention, 'auto' resolved; and why it cannot run here, empty if it can.

    Raises:
        UserError: if it was asked for by name and cannot run here.
    """
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention_backend=backend))
    try:
        return runtime.resolve(config), ''
    except UserError as error:
        if by_name:
            raise
        return config, attention_backends.unavailable(backend, config.model, jax.default_backend()) or str(error)
