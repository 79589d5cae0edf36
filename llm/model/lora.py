"""Low-rank adaptation (Hu et al. 2021): a frozen matrix W becomes W + alpha / rank x A B, and only A and B are trained.

The adapters are a parameter tree of their own, beside the frozen one and named like it: the kernel
`blocks/attention/query/kernel` (layers, in, out) gets `blocks/attention/query/lora_a` (layers, in, rank) and
`.../lora_b` (layers, rank, out). The model never knows: before it is applied, `combine` makes the tree that it reads.
That saves the optimizer's state and most of a checkpoint, not the backward pass: the gradient of W itself is made on
the way to those of A and B.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.config import LoRAConfig
from llm.errors import UserError


def init_adapters(base_params: Any, config: LoRAConfig, key: Array) -> dict[str, Any]:
    """New adapters, which change nothing yet: A is normal with variance 1 / in, B is zero.

    An A depends on the key and on its path alone, as all initial weights do.

    Args:
        base_params: the model's parameters, or their shapes.
        config: rank (at least 1) and targets; a target that this model does not have gets nothing.
        key: of the random numbers.

    Raises:
        UserError: if the model has none of the targets.
    """
    if config.rank < 1:
        raise ValueError('lora.rank is 0: the whole model is trained, and there are no adapters')

    def adapters(tree, path):
        found = {}
        for name, child in tree.items():
            if not isinstance(child, dict):
                continue
            below = adapters(child, (*path, name))
            if name in config.targets and 'kernel' in child:
                below |= _adapter(child['kernel'], config.rank, jax.random.fold_in(key, _number((*path, name))))
            if below:
                found[name] = below
        return found

    made = adapters({name: base_params[name] for name in ('encoder', 'blocks') if name in base_params}, ())
    if not made:
        raise UserError(f'lora.targets {", ".join(config.targets)} name no matrix of this model; choose others')
    return made


def combine(base: Any, params: Any, config: LoRAConfig) -> Any:
    """The parameters that the model reads. Also how adapters are merged for good: the result stands alone.

    Args:
        base: the frozen parameters; not looked at where rank is 0.
        params: what is trained: adapters, and whatever else is not in the base or takes its place (a reward head).
            With rank 0, the whole tree.
        config: rank and alpha.

    Returns:
        A tree like the base, each kernel W that has adapters replaced by W + alpha / rank x A B in its own type, with
        the rest of `params` beside it. With rank 0, `params`.
    """
    if config.rank == 0:
        return params
    return _combine(base, params, config.alpha / config.rank)


def _combine(base, params, scale):
    result = dict(base)
    for name, value in params.items():
        if isinstance(value, dict) and name in base:
            result[name] = _combine(base[name], value, scale)
        elif name not in ('lora_a', 'lora_b'):
            result[name] = value
    if 'lora_a' in params:
        result['kernel'] = _adapted(base['kernel'], params['lora_a'], params['lora_b'], scale)
    return result


def _adapted(
    kernel: Float[Array, '*layers inner outer'],
    a: Float[Array, '*layers inner rank'],
    b: Float[Array, '*layers rank outer'],
    scale: float,
) -> Float[Array, '*layers inner outer']:
    # At full precision on every device: this product is small, and what it rounds away would be lost to all tokens.
    return kernel + (scale * jnp.matmul(a, b, precision='highest')).astype(kernel.dtype)


def _adapter(kernel, rank, key):
    *layers, inner, outer = kernel.shape
    a = jax.random.normal(key, (*layers, inner, rank), kernel.dtype) * jnp.asarray(inner**-0.5, kernel.dtype)
    return {'lora_a': a, 'lora_b': jnp.zeros((*layers, rank, outer), kernel.dtype)}


def _number(path: tuple[str, ...]) -> int:
    return zlib.crc32('/'.join(path).encode())
