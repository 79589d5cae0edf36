"""The shape of the model, from ids to logits."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from llm.config.fields import LATER, require, require_choices

Position = Literal['rope', 'learned', 'sinusoidal', 'alibi', 'none']
RopeScaling = Literal['none', 'linear', 'llama3', 'yarn']
Activation = Literal['gelu', 'gelu_exact', 'relu', 'relu2', 'swiglu', 'geglu', 'geglu_exact']
BiasSite = Literal['query', 'key', 'value', 'attention_output', 'feed_forward', 'norm', 'lm_head']
Dtype = Literal['float32', 'bfloat16', 'float16', 'float64']
AttentionBackend = Literal['auto', 'reference', 'blocks', 'cudnn', 'splash']
ImagePositions = Literal['rotary', 'learned', 'sequence']


@dataclass(frozen=True)
class ModelConfig:
    """A transformer from ids to logits: decoder-only (Radford et al. 2019) or with an encoder (Vaswani et al. 2017)."""

    vocab_size: int = 4096  # token ids the model knows; the tokenizer is trained to fill them
    context_length: int = 256  # longest sequence the model reads, in tokens
    num_layers: int = 4  # transformer blocks
    encoder_layers: int = field(default=0, metadata=LATER)  # blocks of an encoder that the others read; 0 has none
    width: int = 192  # size of the residual stream
    num_heads: int = 4  # query heads
    num_kv_heads: int | None = None  # key and value heads: None is num_heads (MHA), 1 is MQA, between is GQA
    head_dim: int | None = None  # size of one head; None is width / num_heads
    feed_forward_width: int | None = None  # hidden size; None is 4 x width, 8/3 x width if gated; 0 is attention only
    activation: Activation = (
        'swiglu'  # feed-forward nonlinearity; those ending in -glu are gated, gelu is the tanh form
    )
    position: Position = 'rope'  # how the order of tokens enters
    rope_base: float = 10_000.0  # longest RoPE wavelength is 2 pi x this, in tokens
    rope_scaling: RopeScaling = field(default='none', metadata=LATER)  # how wavelengths stretch for longer contexts
    rope_factor: float | None = field(default=None, metadata=LATER)  # how far they stretch; with rope_scaling
    rope_original_context: int | None = field(default=None, metadata=LATER)  # llama3, yarn: tokens trained on before
    rope_slow_turns: float | None = field(default=None, metadata=LATER)  # llama3, yarn: fewer in them stretch in full
    rope_fast_turns: float | None = field(default=None, metadata=LATER)  # llama3, yarn: more in them stay as they are
    rope_whole_pairs: bool = field(default=True, metadata=LATER)  # yarn: the ramp between begins and ends at a pair
    rope_amplitude: float | None = field(default=None, metadata=LATER)  # yarn: on queries and keys; None is its own
    local_rope_base: float | None = field(default=None, metadata=LATER)  # of layers with a window, unscaled; None: same
    attention_scale: float | None = None  # factor on query-key scores; None is 1 / sqrt(head_dim)
    attention_softcap: float | None = None  # scores become cap x tanh(scores / cap)
    logit_softcap: float | None = None  # logits become cap x tanh(logits / cap)
    qk_norm: bool = False  # RMS-normalise queries and keys per head
    windows: tuple[int | None, ...] = (None,)  # sliding windows in tokens, repeated over the layers; None sees all
    norm: Literal['rmsnorm', 'layernorm'] = 'rmsnorm'  # kind of normalisation
    norm_placement: Literal['pre', 'post', 'both'] = (
        'pre'  # what is normalised: f's input, x + f(x), or f's in- and output
    )
    norm_epsilon: float = 1e-6  # added to the variance
    norm_unit_offset: bool = False  # scale by (1 + w) with w starting at 0, as Gemma does
    biases: tuple[BiasSite, ...] = ()  # which layers have a bias
    tied_embeddings: bool = True  # the head is the transposed embedding
    embedding_scale: float = 1.0  # factor on embeddings before the first block
    embedding_norm: bool = False  # normalise embeddings before the first block
    dropout: float = 0.0  # probability of zeroing an activation, at the embedding and each block's outputs
    init_std: float = 0.02  # standard deviation of embeddings
    init_kernel: Literal['fan_in', 'normal'] = 'fan_in'  # kernels: std 1 / sqrt(fan_in), or init_std
    init_output: Literal['depth_scaled', 'zero', 'plain'] = 'depth_scaled'  # output projections: / sqrt(2 layers), 0
    parametrization: Literal['standard', 'mup'] = 'standard'  # 'mup': this config's numbers are the base width's
    base_width: int | None = None  # with mup: width at which it is the standard one, from which it carries over
    remat: Literal['none', 'dots', 'full'] = 'none'  # recompute in the backward pass: nothing, all but matmuls, all
    param_dtype: Dtype = 'float32'  # storage of parameters
    compute_dtype: Dtype | Literal['auto'] = 'float32'  # operands of matrix products; 'auto' is what is fastest here
    logit_dtype: Dtype = 'float32'  # logits and the loss
    attention_backend: AttentionBackend = 'auto'  # which attention trains and evaluates; 'auto' is the platform's own
    image_size: int | None = field(default=None, metadata=LATER)  # side of the images it reads, in pixels; None: none
    patch_size: int | None = field(default=None, metadata=LATER)  # side of what becomes one token; with image_size
    image_channels: int = field(default=1, metadata=LATER)  # numbers in a pixel: 1 is gray, 3 are colours
    image_positions: ImagePositions = field(default='rotary', metadata=LATER)  # RoPE over row and column, vectors, 1-D
    image_attention: Literal['bidirectional', 'causal'] = field(
        default='bidirectional', metadata=LATER
    )  # whether the tokens of an image see those of it that come later

    def __post_init__(self):
        require_choices('model', self)
        for name in ('vocab_size', 'context_length', 'num_layers', 'width', 'num_heads'):
            require(getattr(self, name) >= 1, f'model.{name}', getattr(self, name), 'at least 1')
        require(self.encoder_layers >= 0, 'model.encoder_layers', self.encoder_layers, 'at least 0 (0 has no encoder)')
        for name in ('num_kv_heads', 'head_dim'):
            value = getattr(self, name)
            require(value is None or value >= 1, f'model.{name}', value, 'at least 1, or None')
        hidden = self.feed_forward_width
        require(hidden is None or hidden >= 0, 'model.feed_forward_width', hidden, '0 for none, more, or None')
        if self.head_dim is None:
            require(
                self.width % self.num_heads == 0,
                'model.width',
                self.width,
                f'a multiple of model.num_heads ({self.num_heads}), or set model.head_dim',
            )
        require(
            self.num_heads % self.kv_heads == 0,
            'model.num_kv_heads',
            self.kv_heads,
            f'a divisor of model.num_heads ({self.num_heads})',
        )
        require(
            self.position != 'rope' or self.key_size % 2 == 0,
            'model.head_dim',
            self.key_size,
            'even, because RoPE rotates pairs (or choose another model.position)',
        )
        require(self.rope_base > 1, 'model.rope_base', self.rope_base, 'greater than 1')
        self._check_rope_scaling()
        self._check_images()
        require(
            not self.encoder_layers or self.image_size is None,
            'model.image_size',
            self.image_size,
            'None with an encoder (model.encoder_layers), which reads text',
        )
        for name in ('attention_scale', 'attention_softcap', 'logit_softcap'):
            value = getattr(self, name)
            require(value is None or value > 0, f'model.{name}', value, 'positive, or None')
        require(len(self.windows) >= 1, 'model.windows', self.windows, 'at least one entry (None is full attention)')
        for window in self.windows:
            require(window is None or window >= 1, 'model.windows', self.windows, 'made of positive sizes or None')
        require(self.norm_epsilon > 0, 'model.norm_epsilon', self.norm_epsilon, 'positive')
        require(len(set(self.biases)) == len(self.biases), 'model.biases', self.biases, 'free of repeats')
        require(
            not ('lm_head' in self.biases and self.tied_embeddings),
            'model.biases',
            self.biases,
            'without lm_head when model.tied_embeddings is True',
        )
        require(
            not ('feed_forward' in self.biases and self.hidden_width == 0),
            'model.biases',
            self.biases,
            'without feed_forward when model.feed_forward_width is 0',
        )
        require(0 <= self.dropout < 1, 'model.dropout', self.dropout, 'in [0, 1)')
        require(self.init_std > 0, 'model.init_std', self.init_std, 'positive')
        if self.parametrization == 'mup':
            require(
                self.base_width is not None and self.base_width >= 1,
                'model.base_width',
                self.base_width,
                'at least 1 with model.parametrization mup: the width that the learning rates were found at',
            )
        else:
            require(
                self.base_width is None,
                'model.base_width',
                self.base_width,
                f'None with model.parametrization {self.parametrization}, which has no use for it',
            )

    def _check_rope_scaling(self):
        """What each kind of scaling asks for, and no more."""
        scaling = self.rope_scaling
        require(
            scaling == 'none' or self.position == 'rope',
            'model.rope_scaling',
            scaling,
            f'none with model.position {self.position}',
        )
        by_turns = ('rope_original_context', 'rope_slow_turns', 'rope_fast_turns')
        asked = {'none': (), 'linear': ('rope_factor',)}.get(scaling, ('rope_factor', *by_turns))
        for name in ('rope_factor', *by_turns):
            value = getattr(self, name)
            if name in asked:
                require(
                    value is not None and value > 0, f'model.{name}', value, f'positive with rope_scaling {scaling}'
                )
            else:
                require(value is None, f'model.{name}', value, f'None with model.rope_scaling {scaling}')
        if 'rope_fast_turns' in asked:
            require(
                self.rope_fast_turns > self.rope_slow_turns,
                'model.rope_fast_turns',
                self.rope_fast_turns,
                f'more than model.rope_slow_turns ({self.rope_slow_turns})',
            )
        require(
            self.rope_whole_pairs or scaling == 'yarn',
            'model.rope_whole_pairs',
            self.rope_whole_pairs,
            f'True with model.rope_scaling {scaling}',
        )
        require(
            self.rope_amplitude is None or (scaling == 'yarn' and self.rope_amplitude > 0),
            'model.rope_amplitude',
            self.rope_amplitude,
            'None, or positive with model.rope_scaling yarn',
        )
        local = self.local_rope_base
        require(local is None or local > 1, 'model.local_rope_base', local, 'greater than 1, or None')
        require(
            local is None or (self.position == 'rope' and any(self.windows)),
            'model.local_rope_base',
            local,
            'None without model.position rope and a layer with a window in model.windows',
        )

    def _check_images(self):
        """Images are square and cut into whole patches; without them nothing about them is set."""
        size, patch = self.image_size, self.patch_size
        if size is None:
            for name, default in (
                ('patch_size', None),
                ('image_channels', 1),
                ('image_positions', 'rotary'),
                ('image_attention', 'bidirectional'),
            ):
                value = getattr(self, name)
                require(value == default, f'model.{name}', value, f'{default!r} without model.image_size')
            return
        require(size >= 1, 'model.image_size', size, 'at least 1, or None')
        require(
            patch is not None and patch >= 1 and size % patch == 0,
            'model.patch_size',
            patch,
            f'a divisor of model.image_size ({size})',
        )
        require(self.image_channels >= 1, 'model.image_channels', self.image_channels, 'at least 1')
        require(
            self.image_positions != 'rotary' or self.position == 'rope',
            'model.image_positions',
            self.image_positions,
            f'learned or sequence with model.position {self.position}',
        )
        require(
            self.patches_per_image <= self.context_length,
            'model.patch_size',
            patch,
            f'larger: an image of {self.patches_per_image} tokens fills model.context_length ({self.context_length})',
        )

    @property
    def patches_per_side(self) -> int:
        """Tokens in a row, and in a column, of an image."""
        return self.image_size // self.patch_size

    @property
    def patches_per_image(self) -> int:
        """Tokens that an image takes; 0 of a model that reads none."""
        return 0 if self.image_size is None else self.patches_per_side**2

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def key_size(self) -> int:
        return self.width // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def gated(self) -> bool:
        return self.activation in ('swiglu', 'geglu', 'geglu_exact')

    @property
    def hidden_width(self) -> int:
        if self.feed_forward_width is not None:
            return self.feed_forward_width
        return -(-8 * self.width // 3 // 32) * 32 if self.gated else 4 * self.width

    @property
    def encoder(self) -> 'ModelConfig':
        """The encoder alone, as a model: blocks of the same shape, without a head or an encoder of its own."""
        biases = tuple(site for site in self.biases if site != 'lm_head')
        return dataclasses.replace(
            self, num_layers=self.encoder_layers, encoder_layers=0, tied_embeddings=True, biases=biases
        )

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """The window of each layer: `windows` repeated over `num_layers`."""
        return tuple(self.windows[layer % len(self.windows)] for layer in range(self.num_layers))
