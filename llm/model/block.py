"""One layer: attention and feed-forward, each with its norm and its way back into the residual stream."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.attention import Attention, Context
from llm.model.cross_attention import CrossAttention
from llm.model.dropout import Dropout
from llm.model.feed_forward import FeedForward
from llm.model.kv_cache import LayerCache
from llm.model.norms import Norm
from llm.parallel.axes import constrain


class Block(nn.Module):
    """A transformer block. Where it normalises is `config.norm_placement`:

    - 'pre':  x + f(norm(x))            (Radford et al. 2019)
    - 'post': norm(x + f(x))            (Vaswani et al. 2017)
    - 'both': x + norm(f(norm(x)))      (Gemma 2)
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'batch length width'],
        layer: tuple[Int[Array, ''] | None, LayerCache | None],
        context: Context,
    ) -> tuple[Float[Array, 'batch length width'], LayerCache | None]:
        """Takes the residual stream and (window, cache) of this layer; returns stream and cache, updated."""
        window, cached = layer
        kept = None if cached is None else cached.source
        attention, feed_forward = (
            Attention(self.config, name='attention'),
            FeedForward(self.config, name='feed_forward'),
        )

        def attend(y):
            nonlocal cached
            y, cached = attention(y, context, window, cached)
            return y

        x = self._add(x, attend, 'attention', context)
        if self.config.encoder_layers:
            cross = CrossAttention(self.config, name='cross_attention')
            x = self._add(x, lambda y: cross(y, context, kept), 'cross_attention', context)
        x = self._add(x, feed_forward, 'feed_forward', context)
        self.sow('intermediates', 'residual', x)
        return x, cached

    def _add(self, x, function, name, context):
        placement = self.config.norm_placement
        y = Norm(self.config, name=f'{name}_norm')(x) if placement != 'post' else x
        y = function(y)
        if placement == 'both':
            y = Norm(self.config, name=f'{name}_post_norm')(y)
        y = Dropout(self.config.dropout, name=f'{name}_dropout')(y, context.example_ids)
        x = constrain(x + y, 'batch', 'length', None)
        return Norm(self.config, name=f'{name}_norm')(x) if placement == 'post' else x
