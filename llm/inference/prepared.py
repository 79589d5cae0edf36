"""Parameters made ready for reading, once, so that no step of decoding prepares anything.

Training wants its parameters stacked over layers, in the type that the optimizer updates, each kernel by itself. A step
of decoding is bound by the bytes it reads: here every layer stands alone, kernels that read the same input are joined
and lie output by output, in the type they are multiplied in. `Transformer` takes such a tree as it takes the other,
with a cache or without; gradients and captured activations need the other.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from llm.config import ModelConfig
from llm.model.kernels import Kernel, Transposed

JOINED = (('query', 'key', 'value'), ('gate', 'up'))  # kernels of one input; the first one's place holds them all


@functools.partial(jax.jit, static_argnames='config')
def ready(params: Any, config: ModelConfig) -> Any:
    """`prepare`, compiled."""
    return prepare(params, config)


def is_prepared(params: Any) -> bool:
    """Whether `prepare` made this tree."""
    return isinstance(params['blocks'], tuple)


def prepare(params: Any, config: ModelConfig) -> Any:
    """The same parameters for reading. A pure function: it may be compiled, and is cheap beside what follows it.

    Args:
        params: the model's tree; what else is in it (heads) stays. One that is prepared is returned as it is.
        config: the model's; `compute_dtype` is what kernels are kept in.
    """
    if is_prepared(params):
        return params
    layers = [jax.tree.map(lambda x, layer=layer: x[layer], params['blocks']) for layer in range(config.num_layers)]
    transposed = lambda kernel: Transposed(kernel.T.astype(config.compute_dtype))
    prepared = params | {'blocks': tuple(_layer(layer, transposed) for layer in layers)}
    if 'lm_head' in params:
        prepared['lm_head'] = params['lm_head'] | {'kernel': transposed(params['lm_head']['kernel'])}
    table = params['embedding']['table']
    if 'lm_head' not in params:
        # What is looked up stays exact; the head reads the same numbers in the type they are multiplied in.
        same = table.dtype == jnp.dtype(config.compute_dtype)
        head = Transposed(table if same else table.astype(config.compute_dtype))
        prepared['embedding'] = {'table': head} if same else params['embedding'] | {'head': head}
    return prepared


def _layer(params: Any, transposed: Any) -> Any:
    """One layer's tree with its kernels joined where they can be, and made ready."""
    found = {}
    for name, value in params.items():
        if isinstance(value, dict):
            found[name] = _layer(value, transposed)
        else:
            found[name] = transposed(value) if name == 'kernel' else value
    for names in JOINED:
        if all(name in params for name in names):
            whole = jnp.concatenate([params[name]['kernel'] for name in names], axis=1)
            for name in names[1:]:
                found[name] = {key: value for key, value in found[name].items() if key != 'kernel'}
            found[names[0]] = found[names[0]] | {'kernel': transposed(whole)}
    return found


def kernels(params: Any) -> list[Kernel]:
    """All prepared kernels of a tree."""
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, Kernel))
    return [leaf for leaf in leaves if isinstance(leaf, Kernel)]
