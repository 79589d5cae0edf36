"""Which attention runs in training and evaluation: the one registry of backends, and which of them a model can have.

    reference   the formula, every score held in memory; any platform, any option
    blocks      ours for CPUs: the causal half in blocks, with its own backward pass
    cudnn       NVIDIA's flash attention, through `jax.nn.dot_product_attention`
    splash      the Pallas kernel for TPUs that JAX ships

Each is a module `attention_NAME` with a function

    attend(query, key, value, *, segment_ids, window, scale, softcap, dtype) -> mixed

    query         (batch, heads, length, head_dim); query head h reads key head h // (heads / kv_heads)
    key, value    (batch, kv_heads, length, head_dim)
    segment_ids   (batch, length), documents from 1, 0 is padding; None is one document without padding
    window        how many tokens, itself included, a query sees; None is all before it
    scale         factor on the scores; softcap, if any, then makes them cap x tanh(scores / cap)
    dtype         of the operands of matrix products; the softmax is in float32 at least
    mixed         (batch, heads, length, head_dim), of the query's dtype; what padding gets is unspecified but finite

It is causal. With a KV cache, and when attention weights are captured, the reference runs whatever was chosen: nothing
else can show weights.
"""

import importlib
from collections.abc import Callable

import jax

from llm.config import ModelConfig

PLATFORM = {'blocks': 'cpu', 'cudnn': 'gpu', 'splash': 'tpu'}  # where each runs; the reference runs everywhere


def backend(name: str) -> Callable:
    """The function `attend` of a backend, imported when it is first wanted."""
    return _module(name).attend


def unavailable(name: str, model: ModelConfig, platform: str) -> str | None:
    """Why a model cannot have a backend, or None if it can.

    Args:
        name: of the backend.
        model: with its `compute_dtype` resolved.
        platform: 'cpu', 'gpu' or 'tpu', as `jax.default_backend()` has it.
    """
    if name == 'reference':
        return None
    if platform != PLATFORM[name]:
        return f'it runs on a {PLATFORM[name]}, and this is a {platform}'
    if model.image_size is not None and model.image_attention == 'bidirectional':
        return 'it is causal, and the tokens of an image see each other (model.image_attention bidirectional)'
    if model.position == 'alibi':
        return 'it knows no position biases (model.position alibi)'
    if len(set(model.layer_windows)) > 1:
        return f'the layers have different windows (model.windows {model.windows})'
    own = getattr(_module(name), 'unavailable', None)
    return None if own is None else own(model)


def _module(name):
    return importlib.import_module(f'llm.model.attention_{name}')


def choose(model: ModelConfig, platform: str) -> str:
    """What 'auto' means on a platform: its own backend if the model can have it, else the reference."""
    own = [name for name, its in PLATFORM.items() if its == platform and unavailable(name, model, platform) is None]
    return own[0] if own else 'reference'


def running(model: ModelConfig) -> str:
    """The backend that a model runs here.

    Raises:
        ValueError: if it was asked for by name and is not available; `llm.runtime` says so before a run begins.
    """
    platform = jax.default_backend()
    if model.attention_backend == 'auto':
        return choose(model, platform)
    if reason := unavailable(model.attention_backend, model, platform):
        raise ValueError(f'model.attention_backend {model.attention_backend!r} is not available: {reason}')
    return model.attention_backend
