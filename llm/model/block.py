"""One layer: attention and (if there is one) feed-forward, each with its norm and its way back into the stream."""

import flax.linen as nn
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.attention import Attention, Context
from llm.model.cross_attention import CrossAttention
from llm.model.dropout import Dropout
from llm.model.feed_forward import FeedForward
from llm.model.kv_cache import LayerCache
from llm.model.norms import Norm
from llm.model.taps import Edits, tap
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
        layer: tuple[Int[Array, ''] | None, LayerCache | None, Edits | None],
        context: Context,
    ) -> tuple[Float[Array, 'batch length width'], LayerCache | None]:
        """Takes the residual stream and (window, cache, edits) of this layer; returns stream and cache, updated."""
        window, cached, edits = layer
        kept = None if cached is None else cached.source
        attention = Attention(self.config, name='attention')

        def attend(y):
            nonlocal cached
            y, cached = attention(y, context, window, cached, edits)
            return y

        x = tap(self, 'residual_before', x, edits)
        x = tap(self, 'residual_between', self._add(x, attend, 'attention', context, edits), edits)
        if self.config.encoder_layers:
            cross = CrossAttention(self.config, name='cross_attention')
            x = self._add(x, lambda y: cross(y, context, kept), 'cross_attention', context, edits)
        if self.config.hidden_width:
            feed_forward = FeedForward(self.config, name='feed_forward')
            x = self._add(x, lambda y: feed_forward(y, edits), 'feed_forward', context, edits)
        return tap(self, 'residual_after', x, edits), cached

    def _add(self, x, function, name, context, edits):
        placement = self.config.norm_placement
        y = Norm(self.config, name=f'{name}_norm')(x) if placement != 'post' else x
        y = function(tap(self, f'{name}_input', y, edits))
        if placement == 'both':
            y = Norm(self.config, name=f'{name}_post_norm')(y)
        y = tap(self, f'{name}_output', y, edits)
        y = Dropout(self.config.dropout, name=f'{name}_dropout')(y, context.example_ids)
        x = constrain(x + y, 'batch', 'length', None)
        return Norm(self.config, name=f'{name}_norm')(x) if placement == 'post' else x
