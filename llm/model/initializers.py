"""Where the first weights come from: the seed and the parameter's path, nothing else.

Adding a bias or a norm elsewhere leaves every other parameter's start as it was, so ablation arms that share a shape
share a start.
"""

import functools
import zlib
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.config import ModelConfig
from llm.model.kernels import Kernel
from llm.model.parametrization import start_factor

Role = Literal['input', 'output', 'head']


def random_parameter(
    module: nn.Module, name: str, init: Callable, shape: tuple[int, ...], dtype: str
) -> Array | Kernel:
    """`module.param`, drawn from a key that depends on the path alone; or a kernel for reading in its place.

    Linen's own key also counts the parameters made before, which changes when one is added.
    """
    if isinstance(stored := module.get_variable('params', name), Kernel):
        return stored

    def from_path(key, shape, dtype):
        if 'params' in module.scope.rngs:  # absent under `apply`, where Linen only checks the shape
            key = jax.random.fold_in(module.scope.rngs['params'].as_jax_rng(), zlib.crc32(name.encode()))
        return init(key, shape, dtype)

    return module.param(name, from_path, shape, jnp.dtype(dtype))


def kernel_init(config: ModelConfig, role: Role) -> Callable:
    """Normal with the config's standard deviation, as its parametrisation scales it.

    Args:
        role: 'input' kernels read the residual stream; 'output' kernels write to it and start smaller by
            `config.init_output` (Radford et al. 2019, section 2.3); 'head' projects to the vocabulary.
    """
    return functools.partial(_normal_kernel, config, role)


def _normal_kernel(config, role, key, shape, dtype):
    if role == 'output' and config.init_output == 'zero':
        return jnp.zeros(shape, dtype)
    std = shape[0] ** -0.5 if config.init_kernel == 'fan_in' else config.init_std
    if role == 'output' and config.init_output == 'depth_scaled':
        std *= (2 * config.num_layers) ** -0.5
    std *= start_factor(config, 'head' if role == 'head' else 'hidden')
    return jax.random.normal(key, shape, dtype) * jnp.asarray(std, dtype)


def head_kernel(config: ModelConfig, key: Array, name: str) -> Float[Array, 'width 1']:
    """The start of a head that reads one number off the residual stream.

    Normal with deviation 1 / sqrt(width + 1) (Stiennon et al. 2020). Values start at 0: a critic that guesses nothing.

    Args:
        config: width, dtype and parametrisation.
        key: of the run's seed.
        name: 'reward_head' or 'value_head'.
    """
    shape, dtype = (config.width, 1), jnp.dtype(config.param_dtype)
    if name == 'value_head':
        return jnp.zeros(shape, dtype)
    key = jax.random.fold_in(key, zlib.crc32(name.encode()))
    std = (config.width + 1) ** -0.5 * start_factor(config, 'scalar_head')
    return jax.random.normal(key, shape, dtype) * jnp.asarray(std, dtype)
