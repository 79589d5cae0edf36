"""NVIDIA's flash attention (Dao et al. 2022), as cuDNN has it, through `jax.nn.dot_product_attention`."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.masks import inside_window, make_mask
from llm.parallel.axes import on_each_device


def unavailable(model: ModelConfig) -> str | None:
    """Why cuDNN cannot run a model's attention on the GPU that is here, or None. The limits are those JAX checks."""
    if model.compute_dtype not in ('bfloat16', 'float16'):
        return f'it takes bfloat16 or float16, and model.compute_dtype is {model.compute_dtype}'
    if model.attention_softcap is not None:
        return 'it has no soft cap (model.attention_softcap)'
    kind, capability = _gpu()
    if kind == 'rocm':
        return 'it runs on NVIDIA GPUs, and this one is not'
    if capability is not None and capability < (8, 0):
        return f'it takes compute capability 8.0 or later, and this GPU has {capability[0]}.{capability[1]}'
    largest = 256 if capability is not None and capability >= (9, 0) else 128
    if model.key_size > largest or model.key_size % 8:
        return f'the size of a head must be a multiple of 8 up to {largest}, and it is {model.key_size}'
    return None


def _gpu() -> tuple[str | None, tuple[int, int] | None]:
    """('cuda' or 'rocm', compute capability) of the GPU here; (None, None) where there is none to ask."""
    if jax.default_backend() != 'gpu':
        return None, None
    device = jax.local_devices()[0]
    if 'cuda' not in device.client.platform_version:
        return 'rocm', None
    major, minor = device.compute_capability.split('.')
    return 'cuda', (int(major), int(minor))


def attend(
    query: Float[Array, 'batch heads length head_dim'],
    key: Float[Array, 'batch kv_heads length head_dim'],
    value: Float[Array, 'batch kv_heads length head_dim'],
    *,
    segment_ids: Int[Array, 'batch length'] | None,
    window: int | None,
    scale: float,
    softcap: float | None,
    dtype: jnp.dtype,
) -> Float[Array, 'batch heads length head_dim']:
    """Causal attention; see `attention_backends` for the arguments.

    cuDNN skips what is above the diagonal and, without segments, outside the window. Segments it only takes as a bias
    of (batch, 1, length, length) in `dtype`, read by the forward and written by the backward pass: it holds no scores
    of every head, but document masking costs memory and time here. On a mesh each device runs the kernel on its rows
    and heads.

    Raises:
        ValueError: for a soft cap, which cuDNN does not have.
    """
    if softcap is not None:
        raise ValueError('cuDNN attention has no soft cap')
    arrays = [x.astype(dtype) for x in (query, key, value)]
    if segment_ids is not None:
        arrays.append(segment_ids)
    run = functools.partial(_run_kernel, window=window, scale=scale)
    axes = [('batch', 'heads')] * 3 + [('batch',)] * (len(arrays) - 3)
    return on_each_device(run, axes, axes[0])(*arrays).astype(query.dtype)


def _run_kernel(query, key, value, segment_ids=None, *, window, scale):
    length, mask = query.shape[2], None
    if segment_ids is not None:
        # With a bias the backward pass wants an even length. Padding is behind everything, where nothing looks.
        query, key, value = (_pad_to_even(x, axis=2) for x in (query, key, value))
        segment_ids = _pad_to_even(segment_ids, axis=1)
        index = jnp.arange(query.shape[2], dtype=jnp.int32)[None, :]
        # Padding sees its own kind, so that no row of scores is empty.
        segments = {'query_segments': segment_ids + 1, 'key_segments': segment_ids + 1}
        mask = make_mask('causal', index, index, **segments)
        if window is not None:  # in the bias: cuDNN does not have every version of a window beside one
            mask, window = mask & inside_window(index, index, jnp.int32(window)), None
        mask = mask[:, None, :, :]
    mixed = jax.nn.dot_product_attention(
        *(x.swapaxes(1, 2) for x in (query, key, value)),
        mask=mask,
        scale=scale,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),  # JAX counts the tokens before the query
        implementation='cudnn',
    )
    return mixed.swapaxes(1, 2)[:, :, :length]


def _pad_to_even(x, axis):
    if x.shape[axis] % 2 == 0:
        return x
    return jnp.pad(x, [(0, int(i == axis)) for i in range(x.ndim)])
