"""The model: ids to logits, a pure function of its parameters."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model import attention_backends
from llm.model.attention import Context
from llm.model.block import Block
from llm.model.cross_attention import CrossAttention
from llm.model.dropout import Dropout
from llm.model.dtypes import activation_dtype, wide
from llm.model.embedding import Embedding
from llm.model.kv_cache import KVCache, LayerCache, SourceCache
from llm.model.linear import Linear, row_major_products
from llm.model.masks import UNBOUNDED, MaskKind, make_mask
from llm.model.norms import Norm
from llm.model.parametrization import output_multiplier
from llm.model.patches import PatchEncoder, image_numbers, rotary_positions
from llm.model.positions import LearnedPositions, sinusoidal
from llm.model.rope import model_angles
from llm.model.taps import ON_SCORES, Edits, check_edits, split_edits, tap, tapped
from llm.parallel.axes import constrain

REMAT_POLICIES = {'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable, 'full': None}


UNROLLED = 12  # most layers that a CPU's program repeats instead of looping over


def unrolled_layers(config: ModelConfig) -> int:
    """Layers in one turn of the loop: on a CPU, up to `UNROLLED`, all.

    A loop stacks what the backward pass needs, and a CPU spends a third of the step moving it; without a loop the
    program is longer to compile, and the compiler finds that what remat computes again is there already, and keeps it.
    """
    shallow = config.num_layers <= UNROLLED and config.remat == 'none'
    return config.num_layers if shallow and row_major_products() else 1


class Source(NamedTuple):
    """A text for the encoder to read, right-padded.

    Attributes:
        tokens: ids below `vocab_size`.
        segment_ids: 0 is padding; of packed documents from 1, and what is written reads those of its own number.
        positions: place of each token in its document; None is its place in the row.
    """

    tokens: Int[Array, 'batch source']
    segment_ids: Int[Array, 'batch source']
    positions: Int[Array, 'batch source'] | None = None


class Output(NamedTuple):
    """What the model returns.

    Attributes:
        logits: next-token scores, or None if not asked for.
        hidden: the residual stream after the final norm.
        cache: keys and values including the new tokens, or None without a cache.
    """

    logits: Float[Array, 'batch length vocabulary'] | None
    hidden: Float[Array, 'batch length width']
    cache: KVCache | None


class Transformer(nn.Module):
    """A stack of blocks, scanned: one is compiled, whatever the depth.

    `Transformer(config.model).apply({'params': params}, tokens)` is a pure function; nothing is hidden in the module.
    With `rngs={'dropout': key}` dropout is on.
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        self.embedding = Embedding(config)
        if config.image_size is not None:
            self.patches = PatchEncoder(config)
        if config.position == 'learned':
            self.positions = LearnedPositions(config)
        if config.embedding_norm:
            self.embedding_norm = Norm(config)
        self.embedding_dropout = Dropout(config.dropout)
        block = Block
        if config.remat != 'none':
            block = nn.remat(Block, prevent_cse=False, policy=REMAT_POLICIES[config.remat])
        scanned = nn.scan(
            block,
            variable_axes={'params': 0, 'intermediates': 0},
            split_rngs={'params': True, 'dropout': True},
            in_axes=(0, nn.broadcast),
            out_axes=0,
            length=config.num_layers,
            unroll=unrolled_layers(config),
        )
        self.blocks = scanned(config)
        self.final_norm = Norm(config)
        if config.encoder_layers:
            self.encoder = Transformer(config.encoder)
        if not config.tied_embeddings:
            self.lm_head = Linear(config.vocab_size, config, use_bias='lm_head' in config.biases, role='head')

    def __call__(
        self,
        tokens: Int[Array, 'batch length'],
        segment_ids: Int[Array, 'batch length'] | None = None,
        positions: Int[Array, 'batch length'] | None = None,
        cache: KVCache | None = None,
        example_ids: Int[Array, 'batch'] | None = None,
        with_logits: bool = True,
        mask_kind: MaskKind = 'causal',
        prefix_length: Int[Array, 'batch'] | None = None,
        source: Source | None = None,
        edits: Edits | None = None,
        input_embeddings: Float[Array, 'batch length width'] | None = None,
        patches: Int[Array, 'batch length'] | None = None,
    ) -> Output:
        """Reads tokens, each attending to itself and the earlier ones of its segment, in an image to all of the image.

        What else a token may read, `mask_kind` says.

        Args:
            tokens: ids below `vocab_size`.
            segment_ids: documents packed in a row, from 1; 0 is padding. With a cache: which of the new tokens are real
                (a prefix of each row).
            positions: place of each token in its document; by default its place in the row.
            cache: keys and values of the past; the new tokens are written behind them.
            example_ids: number of each row in the global batch, for dropout.
            with_logits: whether to project onto the vocabulary, the largest array of a small model.
            mask_kind: who sees whom, see `llm.model.masks`; only the causal kind has backends other than the formula.
            prefix_length: with 'prefix', how many of a row's first tokens see each other.
            source: what the encoder reads, if the model has one and there is no cache that holds it.
            edits: changes of what is computed on the way, by the name of the site, see `llm.model.taps`.
            input_embeddings: vectors to read instead of those of the tokens: at `patches` (see `embed_images`), or
                without them everywhere.
            patches: which token is which patch of an image, see `llm.model.patches`; 0 is text. With a cache, an image
                is read as a whole.
        """
        config = self.config
        check_edits(edits, config)
        edits, block_edits = split_edits(edits)
        batch, length = tokens.shape
        steps = jnp.arange(length, dtype=jnp.int32)[None, :]
        if cache is None:
            index = key_index = steps
            key_length = write_at = None
            query_segments = key_segments = segment_ids
        else:
            added = (
                jnp.full((batch,), length, jnp.int32)
                if segment_ids is None
                else jnp.sum(segment_ids > 0, axis=1, dtype=jnp.int32)
            )
            write_at = cache.lengths
            index = steps + write_at[:, None]
            key_index = jnp.arange(cache.capacity, dtype=jnp.int32)[None, :]
            key_length = write_at + added
            query_segments = key_segments = None
        positions = jnp.broadcast_to(index, tokens.shape) if positions is None else positions
        mask = None
        plain = cache is None and mask_kind == 'causal' and not self._shows_weights(block_edits)
        if not plain or attention_backends.running(config) == 'reference':
            segments = {'query_segments': query_segments, 'key_segments': key_segments}
            groups = {} if patches is None else self._image_groups(patches, key_index, write_at)
            mask = make_mask(
                mask_kind, index, key_index, **segments, prefix_length=prefix_length, key_length=key_length, **groups
            )
        turned = positions
        if patches is not None and config.image_positions == 'rotary':
            turned = rotary_positions(positions, patches, config)
        rope, local_rope = model_angles(turned, config) if config.position == 'rope' else (None, None)
        context = Context(
            mask=mask,
            segment_ids=query_segments,
            query_index=index,
            key_index=key_index,
            rope=rope,
            distance=self._distance(positions, key_index, cache) if config.position == 'alibi' else None,
            write_at=write_at,
            example_ids=jnp.arange(batch) if example_ids is None else example_ids,
            local_rope=local_rope,
        )
        if config.encoder_layers:
            context = self._with_source(context, tokens, query_segments, cache, source)
        if input_embeddings is None:
            x = self.embedding(tokens)
        else:
            x = input_embeddings.astype(activation_dtype(config))
            if patches is not None:
                x = jnp.where((patches > 0)[:, :, None], x, self.embedding(tokens))
        x = tap(self, 'token_embedding', x, edits)
        if config.position == 'learned':
            x = x + tap(self, 'position_embedding', self.positions(positions).astype(x.dtype), edits)
        elif config.position == 'sinusoidal':
            waves = sinusoidal(positions, config.width, wide(config.compute_dtype)).astype(x.dtype)
            x = x + tap(self, 'position_embedding', waves, edits)
        if config.embedding_norm:
            x = self.embedding_norm(x)
        x = self.embedding_dropout(x, context.example_ids)
        x = constrain(x, 'batch', 'length', None)
        if cache is None and not self._prepared():
            x, _ = self.blocks(x, (self._windows(), None, block_edits), context)
        else:
            x, cache = self._one_by_one(x, cache, context, block_edits)
        hidden = tap(self, 'hidden', self.final_norm(x), edits)
        if cache is not None:
            cache = cache._replace(lengths=key_length)
        if self.is_initializing() and not config.tied_embeddings:
            self.lm_head(hidden)
        if self.is_initializing() and config.image_size is not None:
            self.patches(jnp.zeros((1, 1, config.image_size, config.image_size, config.image_channels)))
        return Output(self.unembed(hidden) if with_logits else None, hidden, cache)

    def encode(
        self, source: Source, example_ids: Int[Array, 'batch'] | None = None
    ) -> Float[Array, 'batch source width']:
        """What the encoder makes of a source, every token of which sees the others of its document."""
        read = self.encoder(
            *source,
            example_ids=example_ids,
            with_logits=False,
            mask_kind='bidirectional',
            input_embeddings=self.embedding(source.tokens),
        )
        return read.hidden

    def read_source(self, source: Source) -> SourceCache:
        """What a cache keeps of a source: the keys and values that every layer's cross-attention reads."""
        hidden = self.encode(source)
        attention = CrossAttention(self.config, parent=None)
        kept = [
            attention.apply({'params': layer['cross_attention']}, hidden, method='keys_and_values')
            for layer in self._layers()
        ]
        keys, values = map(jnp.stack, zip(*kept))
        return SourceCache(keys, values, jnp.sum(source.segment_ids > 0, axis=1, dtype=jnp.int32))

    def _with_source(self, context, tokens, segment_ids, cache, source):
        """The context with what cross-attention reads, from the cache or else from the encoder."""
        if cache is not None:
            index = jnp.arange(cache.source.keys.shape[3], dtype=jnp.int32)[None, :]
            mask = make_mask('bidirectional', context.query_index, index, key_length=cache.source.lengths)
            return context._replace(source_mask=mask)
        if source is None and self.is_initializing():
            source = Source(tokens, jnp.ones_like(tokens))
        if source is None:
            raise ValueError(
                'an encoder-decoder reads a source; give `source`, or a cache with what `read_source` gave'
            )
        index = jnp.arange(source.tokens.shape[1], dtype=jnp.int32)[None, :]
        ours = jnp.ones_like(tokens) if segment_ids is None else segment_ids
        segments = {'query_segments': ours, 'key_segments': source.segment_ids}
        mask = make_mask('bidirectional', context.query_index, index, **segments)
        return context._replace(source=self.encode(source, context.example_ids), source_mask=mask)

    def unembed(self, hidden: Float[Array, '*batch width']) -> Float[Array, '*batch vocabulary']:
        """Logits of hidden vectors, in `logit_dtype`."""
        config = self.config
        hidden = hidden * output_multiplier(config)
        logits = self.embedding.attend(hidden) if config.tied_embeddings else self.lm_head(hidden)
        logits = logits.astype(jnp.dtype(config.logit_dtype))
        if config.logit_softcap is not None:
            logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
        return logits

    def embed_images(
        self, images: Float[Array, 'batch images height width channels'], patches: Int[Array, 'batch length']
    ) -> Float[Array, 'batch length embed']:
        """The `input_embeddings` of rows with images: each patch's vector where `patches` has it, anything elsewhere.

        Args:
            images: pixels from 0 to 1; a row with fewer images than others is filled with any.
            patches: where they go, see `llm.model.patches`.
        """
        return jnp.take_along_axis(self.patches(images), jnp.maximum(patches - 1, 0)[:, :, None], axis=1)

    def _image_groups(self, patches, key_index, write_at):
        """Whom the mask lets see each other: the tokens of an image, of which a cache so far holds nothing."""
        if self.config.image_attention == 'causal':
            return {}
        queries = keys = image_numbers(patches, self.config)
        if write_at is not None:
            added = key_index - write_at[:, None]
            inside = (added >= 0) & (added < patches.shape[1])
            keys = jnp.where(inside, jnp.take_along_axis(queries, jnp.clip(added, 0, patches.shape[1] - 1), axis=1), 0)
        return {'query_groups': queries, 'key_groups': keys}

    def _prepared(self):
        """Whether the parameters are such as `llm.inference.prepared` makes, for reading alone."""
        return not self.is_initializing() and isinstance(self.variables['params']['blocks'], tuple)

    def _one_by_one(self, x, cache, context, edits):
        """Layer after layer without a scan, which would copy the whole cache, out of it and into a new one."""
        config, windows = self.config, self._windows()
        for i, params in enumerate(self._layers()):
            source = None if cache is None or cache.source is None else (cache.source.keys[i], cache.source.values[i])
            layer = (
                None if windows is None else windows[i],
                None if cache is None else LayerCache(*cache[:2], i, config.compute_dtype, source),
                jax.tree.map(lambda x, i=i: x[i], edits),
            )
            x, cached = Block(config, parent=None).apply({'params': params}, x, layer, context)
            cache = None if cache is None else cache._replace(keys=cached.keys, values=cached.values)
        return x, cache

    def _layers(self):
        """The parameters of each block."""
        layers = self.variables['params']['blocks']
        if self._prepared():
            return layers
        return [jax.tree.map(lambda leaf, i=i: leaf[i], layers) for i in range(self.config.num_layers)]

    def _shows_weights(self, edits):
        return self.is_initializing() or tapped(self, ON_SCORES, edits)

    def _windows(self):
        """The window of each layer as an array scanned beside the parameters, or None if every layer sees all."""
        windows = self.config.layer_windows
        if all(window is None for window in windows):
            return None
        return jnp.array([UNBOUNDED if window is None else window for window in windows], jnp.int32)

    def _distance(self, positions, key_index, cache):
        keys = positions if cache is None else jnp.broadcast_to(key_index, (positions.shape[0], key_index.shape[1]))
        distance = jnp.abs(positions[:, :, None] - keys[:, None, :])  # in an image, keys may come later
        return distance.astype(jnp.float32)
