"""What a model computes on the way, by name: one compiled program for each set of sites."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model import Transformer
from llm.model.taps import SITES, Edit, Edits, check_edits, sites_of


class Run(NamedTuple):
    """What `run` returns.

    Attributes:
        logits: next-token scores, or None if not asked for.
        activations: by the name of the site, in the axes that `SITES` gives, inside the blocks after one of layers:
            `activations['pattern'][layer]` is (batch, heads, query, key).
    """

    logits: Float[Array, 'batch length vocabulary'] | None
    activations: dict[str, Array]


def run(
    params: Any,
    config: ModelConfig,
    tokens: Int[Array | np.ndarray, 'batch length'],
    sites: Sequence[str] = (),
    edits: Edits | None = None,
    *,
    with_logits: bool = True,
    **inputs: Any,
) -> Run:
    """Reads tokens and returns what was asked for; what was not is not computed, nor kept.

    It is compiled once for each shape of the tokens, each set of sites and each shape of the edits: their values are
    arguments. Attention is the reference, which has scores and weights to show (so the last bits may differ from those
    of another backend).

    Args:
        params: as training stores them (see `docs/model.md`).
        config: the model's, with its `compute_dtype` resolved. In bfloat16 sums over parts come out to its rounding;
            `dataclasses.replace(config, compute_dtype='float32')` reads the same parameters exactly.
        tokens: ids below `vocab_size`. Shorter rows are padded on the right, and what is made of the padding cut off:
            a causal model never sees it.
        sites: names in `SITES`.
        edits: by site, from `llm.analysis.lens.edits`; they act where the model computes, and activations are shown
            as edited.
        with_logits: whether logits are wanted.
        **inputs: what else `Transformer` reads beside the tokens: `segment_ids`, `positions`, `mask_kind`, a `source`,
            the embeddings and places of images; words are part of the program, all else are arrays.

    Raises:
        ValueError: for a site that the model does not have, an edit whose shape does not fit, or parameters that were
            prepared for decoding.
    """
    sites = tuple(dict.fromkeys(sites))
    known = sites_of(config)
    if unknown := [name for name in sites if name not in known]:
        raise ValueError(f'this model has no site {unknown[0]!r}; it has {", ".join(known)}')
    if isinstance(params['blocks'], tuple):
        raise ValueError('these parameters are prepared for decoding; a lens reads those that training stores')
    check_edits(edits, config)
    words = {name: value for name, value in inputs.items() if isinstance(value, str)}
    arrays = jax.tree.map(jnp.asarray, {name: value for name, value in inputs.items() if name not in words})
    settings = (_as_loop(config), sites, with_logits, tuple(sorted(words.items())))
    with full_precision() if config.compute_dtype == 'float32' else contextlib.nullcontext():
        return _run(params, jnp.asarray(tokens, jnp.int32), dict(edits or {}), arrays, *settings)


def run_layer(
    params: Any,
    config: ModelConfig,
    tokens: Int[Array | np.ndarray, 'batch length'],
    layer: int,
    residual: Float[Array | np.ndarray, 'batch length width'],
    sites: Sequence[str],
    edits: Edits | None = None,
    **inputs: Any,
) -> dict[str, Array]:
    """What one layer computes from the residual stream that it finds, without the axis of layers.

    For deep models and long prompts: all patterns at once are (layers, heads, length, length), which is often too
    much, while the stream before each layer (site 'residual_before') is little, and gives the rest layer by layer.

    Args:
        params: of the whole model.
        config: of the whole model.
        tokens: as in `run`.
        layer: from 0.
        residual: that layer's 'residual_before'.
        sites: names of sites inside the blocks.
        edits: of the whole model; those of this layer act.
        **inputs: as in `run`.

    Raises:
        ValueError: for a layer that the model does not have, and as `run` does.
    """
    if not 0 <= layer < config.num_layers:
        raise ValueError(f'layer {layer} does not exist; the model has layers 0 to {config.num_layers - 1}')
    if outside := [name for name in sites if name in SITES and not SITES[name].layered]:
        raise ValueError(f'site {outside[0]!r} is not inside a layer')
    check_edits(edits, config)
    cut = lambda x: x[layer : layer + 1]
    alone = params | {'blocks': jax.tree.map(cut, params['blocks'])}
    stream = jnp.asarray(residual)[None]
    own = {name: Edit(*map(cut, edit)) for name, edit in (edits or {}).items() if SITES[name].layered}
    # As the stream is the one that the layer found, an edit of it has been made already.
    own['residual_before'] = Edit(jnp.zeros((1, 1, 1, 1)), stream)
    found = run(alone, _one_layer(config, layer), tokens, sites, own, with_logits=False, **inputs).activations
    return {name: value[0] for name, value in found.items()}


@functools.partial(jax.jit, static_argnames=('config', 'sites', 'with_logits', 'words'))
def _run(params, tokens, edits, inputs, config, sites, with_logits, words):
    settings = {'with_logits': with_logits, 'edits': edits, 'mutable': ['intermediates']}
    output, captured = Transformer(config).apply({'params': params}, tokens, **inputs, **dict(words), **settings)
    return Run(output.logits, {name: _find(captured['intermediates'], name) for name in sites})


def full_precision() -> contextlib.AbstractContextManager:
    """Accelerators round the operands of float32 products, unless they are told not to."""
    return contextlib.nullcontext() if jax.default_backend() == 'cpu' else jax.default_matmul_precision('highest')


def _find(captured, name):
    for module in SITES[name].scope:
        captured = captured[module]
    return captured[name][0]


def _as_loop(config):
    """The config whose program is the quickest to compile: one block in a loop, whatever the depth.

    Nothing is differentiated for long, so what training saves by unrolling its layers is not missed.
    """
    return dataclasses.replace(config, remat='full')


def _one_layer(config, layer):
    window = config.layer_windows[layer]
    local = None if window is None else config.local_rope_base
    return dataclasses.replace(config, num_layers=1, windows=(window,), local_rope_base=local)
