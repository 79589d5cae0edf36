"""Parameters made ready for reading, once, so that no step of decoding prepares anything.

Training wants its parameters stacked over layers, in the type that the optimizer updates, each kernel by itself. A step
of decoding is bound by the bytes it reads: here every layer stands alone, kernels that read the same input are joined
and lie output by output, in the type they are multiplied in. `Transformer` takes such a tree as it takes the other,
with a cache or without; gradients and captured activations need the other.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from llm.config import ModelConfig
from llm.inference.quantization import Bits, Int4Kernel, Int8Kernel
from llm.model.kernels import Kernel, Transposed

JOINED = (('query', 'key', 'value'), ('gate', 'up'))  # kernels of one input; the first one's place holds them all
JOINED_ACROSS = (('key', 'value'),)  # of cross-attention, whose queries are of another text


def ready(params: Any, config: ModelConfig, quantize: Bits | None = None) -> Any:
    """`prepare`, compiled; what is prepared is returned as it is, not copied."""
    return params if is_prepared(params) else _ready(params, config, quantize)


@functools.partial(jax.jit, static_argnames=('config', 'quantize'))
def _ready(params: Any, config: ModelConfig, quantize: Bits | None) -> Any:
    return prepare(params, config, quantize)


def is_prepared(params: Any) -> bool:
    """Whether `prepare` made this tree."""
    return isinstance(params['blocks'], tuple)


def prepare(params: Any, config: ModelConfig, quantize: Bits | None = None) -> Any:
    """The same parameters for reading. A pure function: it may be compiled, and is cheap beside what follows it.

    Args:
        params: the model's tree; what else is in it (heads) stays. One that is prepared is returned as it is.
        config: the model's; `compute_dtype` is what kernels are kept in.
        quantize: to how many bits weights are rounded; None rounds to `compute_dtype` alone.
    """
    if is_prepared(params):
        return params
    compute = jnp.dtype(config.compute_dtype)
    kernel, embedding = {
        None: (lambda rows: Transposed(rows.astype(compute)), None),
        'int8': (Int8Kernel.of, Int8Kernel.of),
        'int4': (Int4Kernel.of, Int8Kernel.of),
    }[quantize]
    prepared = params | {'blocks': _layers(params['blocks'], config.num_layers, kernel)}
    if config.encoder_layers:
        blocks = _layers(params['encoder']['blocks'], config.encoder_layers, kernel)
        prepared['encoder'] = params['encoder'] | {'blocks': blocks}
    if 'lm_head' in params:
        prepared['lm_head'] = params['lm_head'] | {'kernel': kernel(params['lm_head']['kernel'].T)}
    table = params['embedding']['table']
    if embedding is not None:
        prepared['embedding'] = {'table': embedding(table)}
    elif 'lm_head' not in params:
        # What is looked up stays exact; the head reads the same numbers in the type they are multiplied in.
        head = {'table': Transposed(table)} if table.dtype == compute else {'table': table, 'head': kernel(table)}
        prepared['embedding'] = head
    return prepared


def _layers(stacked: Any, number: int, kernel: Callable[[Array], Kernel]) -> tuple[Any, ...]:
    """The tree of each layer, made ready."""
    layers = [jax.tree.map(lambda x, layer=layer: x[layer], stacked) for layer in range(number)]
    return tuple(_layer(layer, kernel) for layer in layers)


def _layer(params: Any, kernel: Callable[[Array], Kernel], joins: Sequence[Sequence[str]] = JOINED) -> Any:
    """One layer's tree with its kernels joined where they can be, and made ready."""
    joined = {names[0]: names for names in joins if all(name in params for name in names)}
    others = [name for names in joined.values() for name in names[1:]]
    found = {}
    for name, value in params.items():
        if not isinstance(value, dict):
            found[name] = value
            continue
        below = JOINED_ACROSS if name == 'cross_attention' else JOINED
        found[name] = _layer({key: x for key, x in value.items() if key != 'kernel'}, kernel, below)
        if 'kernel' in value and name not in others:
            parts = [params[part]['kernel'] for part in joined.get(name, (name,))]
            found[name]['kernel'] = kernel(jnp.concatenate(parts, axis=1).T)
    return found
