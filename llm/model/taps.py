"""Where one can look into the model and change what it computes: named sites, and the one hook that stands at each.

Every site is a call of `tap`. It applies the edit that `Transformer` was given for the site, if any, and then stores
the value where `mutable=['intermediates']` asks for that; else it does nothing, and the compiled program is the same as
without it. What is stored is what the rest of the model goes on with. `llm.analysis.lens` is the comfortable way in.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from llm.config import ModelConfig


class Site(NamedTuple):
    """A place in the model.

    Attributes:
        scope: the module that holds it, as a path of names; () is the whole model.
        axes: of the value, without the leading axis of layers that sites inside the blocks have.
        meaning: in words.
    """

    scope: tuple[str, ...]
    axes: str
    meaning: str

    @property
    def layered(self) -> bool:
        """Whether every layer has one: values and edits then have a leading axis of layers."""
        return bool(self.scope)


_BLOCK, _ATTENTION, _FEED_FORWARD = ('blocks',), ('blocks', 'attention'), ('blocks', 'feed_forward')
_STREAM, _HEADS, _KV_HEADS = 'batch length width', 'batch heads length head_dim', 'batch kv_heads length head_dim'

SITES: dict[str, Site] = {
    'token_embedding': Site((), _STREAM, 'rows of the embedding table, times embedding_scale'),
    'position_embedding': Site((), _STREAM, 'what is added to them (position learned, sinusoidal)'),
    'residual_before': Site(_BLOCK, _STREAM, 'the residual stream as the block finds it'),
    'attention_input': Site(_BLOCK, _STREAM, 'what attention reads: the stream after its norm'),
    'queries': Site(_ATTENTION, _HEADS, 'as they meet the keys: after qk_norm and RoPE'),
    'keys': Site(_ATTENTION, _KV_HEADS, 'as they meet the queries: after qk_norm and RoPE'),
    'values': Site(_ATTENTION, _KV_HEADS, 'what is mixed'),
    'scores': Site(
        _ATTENTION,
        'batch heads query key',
        'scaled query-key products, soft-capped, with the ALiBi bias; before the mask',
    ),
    'pattern': Site(_ATTENTION, 'batch heads query key', 'attention weights: scores after mask and softmax'),
    'head_outputs': Site(_ATTENTION, _HEADS, 'values mixed by the pattern, before the output projection'),
    'attention_output': Site(_BLOCK, _STREAM, 'what attention adds to the stream'),
    'residual_between': Site(_BLOCK, _STREAM, 'the stream between attention and feed-forward'),
    'cross_attention_input': Site(_BLOCK, _STREAM, 'what cross-attention reads of the stream, with an encoder'),
    'cross_attention_output': Site(_BLOCK, _STREAM, 'what cross-attention adds to the stream'),
    'feed_forward_input': Site(_BLOCK, _STREAM, 'what the feed-forward network reads: the stream after its norm'),
    'neurons': Site(_FEED_FORWARD, 'batch length hidden', 'after the activation, and the gate where there is one'),
    'feed_forward_output': Site(_BLOCK, _STREAM, 'what the feed-forward network adds to the stream'),
    'residual_after': Site(_BLOCK, _STREAM, 'the stream as the block leaves it'),
    'hidden': Site((), _STREAM, "the final norm's output, which the head reads"),
}

ON_SCORES = ('scores', 'pattern')  # sites that only the reference attention has


class Edit(NamedTuple):
    """A change of a site: the value becomes value * scale + offset.

    Both are arrays that broadcast to the value as `axes` says, after a leading axis of one entry a layer where the
    site has layers. So a scale of 0 ablates, and with an offset of another run's value, patches; where both are left
    at 1 and 0 nothing changes. They are traced: one compiled program serves all edits of the same shapes.
    """

    scale: Float[Array, '...']
    offset: Float[Array, '...']


Edits = Mapping[str, Edit]  # by the name of the site


def tap(module: nn.Module, site: str, value: Array, edits: Edits | None) -> Array:
    """Applies the site's edit, stores the value where intermediates are captured, and returns it.

    Args:
        module: whose scope the site is in.
        site: one of `SITES`.
        value: what was computed.
        edits: of this layer, without the axis of layers; None is none.
    """
    if edits and site in edits:
        scale, offset = (jnp.broadcast_to(x.astype(value.dtype), value.shape) for x in edits[site])
        value = value * scale + offset
    module.sow('intermediates', site, value)
    return value


def tapped(module: nn.Module, sites: tuple[str, ...], edits: Edits | None) -> bool:
    """Whether anything is to be done at one of the sites."""
    return module.is_mutable_collection('intermediates') or any(site in (edits or {}) for site in sites)


def sites_of(config: ModelConfig) -> tuple[str, ...]:
    """The sites that a model has: not those of added positions, an encoder or a feed-forward network without these."""
    missing = set()
    if config.position not in ('learned', 'sinusoidal'):
        missing.add('position_embedding')
    if not config.encoder_layers:
        missing |= {'cross_attention_input', 'cross_attention_output'}
    if not config.hidden_width:
        missing |= {'feed_forward_input', 'neurons', 'feed_forward_output'}
    return tuple(name for name in SITES if name not in missing)


def check_edits(edits: Edits | None, config: ModelConfig) -> None:
    """Refuses edits of sites that the model does not have, or without one entry a layer.

    Raises:
        ValueError: naming the site.
    """
    for name, edit in (edits or {}).items():
        if name not in sites_of(config):
            raise ValueError(f'this model has no site {name!r}; it has {", ".join(sites_of(config))}')
        for part, x in zip(Edit._fields, edit):
            if SITES[name].layered and (jnp.ndim(x) == 0 or jnp.shape(x)[0] != config.num_layers):
                raise ValueError(
                    f'the {part} of the edit of {name!r} has shape {jnp.shape(x)}; '
                    f'it must begin with one entry for each of the {config.num_layers} layers'
                )


def split_edits(edits: Edits | None) -> tuple[dict[str, Edit] | None, dict[str, Edit] | None]:
    """Those of sites outside of the blocks, and those inside; None where there are none."""
    inside = {name: edit for name, edit in (edits or {}).items() if SITES[name].layered}
    outside = {name: edit for name, edit in (edits or {}).items() if not SITES[name].layered}
    return outside or None, inside or None
