"""Which attention runs: asked for by name, chosen, or every one there is."""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import jax

from llm.config import ModelConfig
from llm.errors import UserError
from llm.model.attention import dot_product_attention
from llm.model.masks import inside_window, make_mask

if importlib.util.find_spec('llm.model.attention_backends'):
    from llm.model import attention_backends as registry
else:  # until the registry lands
    registry = None

NAMES = ('reference', 'blocks', 'cudnn', 'splash')


def asked(backends: tuple[str, ...]) -> list[tuple[str, bool]]:
    """(backend, whether it was asked for by name), with 'all' spelt out."""
    found = {}
    for backend in backends:
        for name in NAMES if backend == 'all' else (backend,):
            found[name] = found.get(name, False) or backend != 'all'
    return list(found.items())


def resolve(backend: str, model: ModelConfig, by_name: bool) -> tuple[str, str]:
    """(what will run, why it cannot): 'auto' is resolved, and the reason is empty for what can run.

    Raises:
        UserError: if it was asked for by name and cannot run here.
    """
    platform = jax.default_backend()
    if backend == 'auto':
        return (registry.choose(model, platform) if registry else 'reference'), ''
    if registry:
        reason = registry.unavailable(backend, model, platform)
    else:
        reason = None if backend == 'reference' else 'there is no such backend yet'
    if reason and by_name:
        raise UserError(f'attention backend {backend} cannot run here: {reason}; leave it out, or ask for all')
    return backend, reason or ''


def with_backend(model: ModelConfig, backend: str) -> ModelConfig:
    """The model with this attention."""
    names = {f.name for f in dataclasses.fields(ModelConfig)}
    return dataclasses.replace(model, attention_backend=backend) if 'attention_backend' in names else model


def attend(backend: str) -> Callable[..., Any]:
    """The function of a backend: (query, key, value, *, segment_ids, window, scale, softcap, dtype) -> mixed values."""
    return registry.backend(backend) if registry else _reference


def _reference(query, key, value, *, segment_ids, window, scale, softcap, dtype):
    steps = jax.numpy.arange(query.shape[2], dtype=jax.numpy.int32)[None, :]
    mask = make_mask('causal', steps, steps, query_segments=segment_ids, key_segments=segment_ids)
    if window is not None:
        mask = mask & inside_window(steps, steps, jax.numpy.int32(window))
    return dot_product_attention(query, key, value, mask, scale=scale, softcap=softcap, dtype=dtype)[0]
