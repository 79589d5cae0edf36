"""A matrix product and the layer around it: the one place that knows how this device multiplies fastest."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from llm.config import ModelConfig
from llm.model.dtypes import activation_dtype, wide
from llm.model.initializers import Role, kernel_init, random_parameter
from llm.model.kernels import Kernel
from llm.parallel.axes import partitioned


def row_major_products() -> bool:
    """Whether products, norms and activations take the ways that are faster on a CPU.

    Not on a mesh: a layout pinned by hand would not be cut over devices but gathered.
    """
    return jax.default_backend() == 'cpu' and not partitioned()


def matmul(x: Float[Array, '*batch inner'], kernel: Float[Array, 'inner outer'] | Kernel, config: ModelConfig) -> Array:
    """`x @ kernel` with operands in `compute_dtype`, accumulated in float32. Returns `activation_dtype`."""
    if isinstance(kernel, Kernel):
        return kernel.multiply(x, config)
    dtype = jnp.dtype(config.compute_dtype)
    if row_major_products():
        rows = x.reshape(-1, x.shape[-1])
        high = wide(dtype)
        product = _cpu_product(rows.astype(high), kernel.astype(high), dtype.name)
        return product.reshape(*x.shape[:-1], kernel.shape[1])
    return jnp.matmul(x.astype(dtype), kernel.astype(dtype), preferred_element_type=activation_dtype(config))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cpu_product(x, kernel, dtype):
    """`x @ kernel` whose backward pass, too, multiplies row-major matrices only: two to four times as fast on a CPU."""
    return _forward(x, kernel, dtype)[0]


def _forward(x, kernel, dtype):
    x = x.astype(dtype)
    return product(x, kernel.astype(dtype)), (x, kernel)


def _backward(dtype, saved, gradient):
    x, kernel = saved
    return gradients(x, kernel.astype(dtype), gradient.astype(dtype))


_cpu_product.defvjp(_forward, _backward)


def product(x: Float[Array, 'rows inner'], y: Float[Array, 'inner columns']) -> Float[Array, 'rows columns']:
    """`x @ y`, accumulated and returned in float32 at least, in the layout that a CPU's matrix units take."""
    return row_major(jax.lax.dot(row_major(x), row_major(y), preferred_element_type=wide(x.dtype)))


def gradients(x, kernel, gradient):
    """Those of `x @ kernel`, from operands and gradient in the type they are multiplied in."""
    x, kernel, gradient = map(row_major, (x, kernel, gradient))
    return product(gradient, kernel.T), product(x.T, gradient)


def row_major(x: Array) -> Array:
    """Written out row by row: a conversion or a transposition fused into a product takes its fast path away."""
    return jax.lax.optimization_barrier(with_layout_constraint(x, Layout(tuple(range(x.ndim)))))


class Linear(nn.Module):
    """`x @ kernel (+ bias)`.

    Attributes:
        features: size of the result.
        config: dtypes and the initialiser.
        use_bias: whether there is a bias, starting at 0.
        role: which initialiser the kernel gets.
    """

    features: int
    config: ModelConfig
    use_bias: bool = False
    role: Role = 'input'

    @nn.compact
    def __call__(
        self, x: Float[Array, '*batch inner'], multiply: bool = True
    ) -> Float[Array, '*batch outer'] | tuple[Array | Kernel | None, Array | None]:
        """The product; with `multiply` False the kernel and the bias (or None), for `multiply_together`.

        A kernel prepared for reading may hold those of its neighbours as well, which then have none.
        """
        param_dtype = self.config.param_dtype
        init = kernel_init(self.config, self.role)
        if multiply or self.is_initializing() or self.has_variable('params', 'kernel'):
            kernel = random_parameter(self, 'kernel', init, (x.shape[-1], self.features), param_dtype)
        else:
            kernel = None
        bias = None
        if self.use_bias:
            bias = self.param('bias', nn.initializers.zeros, (self.features,), jnp.dtype(param_dtype))
        if not multiply:
            return kernel, bias
        return _with_bias(matmul(x, kernel, self.config), bias)


def multiply_together(x: Float[Array, '*batch inner'], layers: list[Linear]) -> list[Float[Array, '*batch _']]:
    """What each of several layers makes of the same input: on a CPU by one product, elsewhere one after the other.

    One wide product is faster than several narrow ones, and the input and its gradient are read and written once. On
    a mesh the kernels may be cut along the axis that would be joined.
    """
    if len(layers) == 1:
        return [layers[0](x)]
    kernels, biases = zip(*(layer(x, multiply=False) for layer in layers))
    if not isinstance(kernels[0], Kernel) and not row_major_products():
        return [_with_bias(matmul(x, kernel, layers[0].config), bias) for kernel, bias in zip(kernels, biases)]
    kernel = kernels[0] if isinstance(kernels[0], Kernel) else jnp.concatenate(kernels, axis=1)
    joined = matmul(x, kernel, layers[0].config)
    parts = jax.lax.split(joined, [layer.features for layer in layers], axis=joined.ndim - 1)
    return [_with_bias(part, bias) for part, bias in zip(parts, biases)]


def _with_bias(y, bias):
    return y if bias is None else y + jnp.broadcast_to(bias.astype(y.dtype), y.shape)
