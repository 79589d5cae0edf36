"""Splash attention: the block-sparse Pallas kernel for TPUs that JAX ships, with a backward pass of its own."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.dtypes import wide
from llm.parallel.axes import on_each_device

LANES = 128  # the kernel reads keys in multiples of this
BLOCKS = (512, 256, LANES)  # tokens of a block: the largest that divides the length


def unavailable(model: ModelConfig) -> str | None:
    """Why the kernel cannot run a model's attention, or None."""
    if model.compute_dtype not in ('bfloat16', 'float32'):
        return f'it takes bfloat16 or float32, and model.compute_dtype is {model.compute_dtype}'
    return None


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
    interpret: bool = False,
) -> Float[Array, 'batch heads length head_dim']:
    """Causal attention; see `attention_backends` for the arguments. Blocks outside the mask are not read.

    The length is padded to a multiple of 128. On a mesh each device runs the kernel on its rows and heads.

    Args:
        interpret: run the kernel as JAX operations, on any platform and slowly.
    """
    length = query.shape[2]
    scaled = (query.astype(wide(query.dtype)) * scale).astype(dtype)  # the kernel has no scale of its own
    arrays = [scaled, key.astype(dtype), value.astype(dtype)]
    arrays = [_pad(x, axis=2) for x in arrays]
    if segment_ids is not None:
        arrays.append(_pad(segment_ids, axis=1))
    run = functools.partial(_run_kernel, window=window, softcap=softcap, interpret=interpret)
    axes = [('batch', 'heads')] * 3 + [('batch',)] * (len(arrays) - 3)
    return on_each_device(run, axes, axes[0])(*arrays)[:, :, :length].astype(query.dtype)


def _run_kernel(query, key, value, segment_ids=None, *, window, softcap, interpret):
    """The kernel over a batch. The length is a multiple of 128."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # takes a while to import

    heads, length = query.shape[1:3]
    shape = (length, length)
    mask = splash.CausalMask(shape) if window is None else splash.LocalMask(shape, (window - 1, 0), offset=0)
    block = next(size for size in BLOCKS if length % size == 0)
    names = ('block_q', 'block_kv', 'block_q_dkv', 'block_kv_dkv', 'block_q_dq', 'block_kv_dq')
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(**dict.fromkeys(names, block)),
        attn_logits_soft_cap=softcap,
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    if segment_ids is None:
        return jax.vmap(kernel)(query, key, value)
    return jax.vmap(kernel)(query, key, value, splash.SegmentIds(segment_ids, segment_ids))


def _pad(x, axis):
    """Appends zeros up to a multiple of 128: later than every token, and as segment 0 the segment of padding."""
    return jnp.pad(x, [(0, -x.shape[axis] % LANES if i == axis else 0) for i in range(x.ndim)])
