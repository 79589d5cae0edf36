"""Every knob of a run, typed and checked, in one tree of frozen dataclasses.

A config file is Python: `configs/NAME.py` defines `get_config() -> Config`. Every field can be set from the command
line (`--model.num-layers 6`, `optimizer:muon --optimizer.learning-rate 0.02`). The comment beside a field is its help.
"""

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

# How much a field matters to the numbers a run produces; everything unmarked is part of the run's identity.
RUN_LENGTH = {'role': 'run_length'}  # where to stop: a longer run is the same run, continued
LOGGING = {'role': 'logging'}  # what is written down: changes no parameter
PLACEMENT = {'role': 'placement'}  # which device does what: changes no number beyond its last bits

Position = Literal['rope', 'learned', 'sinusoidal', 'alibi', 'none']
Activation = Literal['gelu', 'relu', 'relu2', 'swiglu', 'geglu']
BiasSite = Literal['query', 'key', 'value', 'attention_output', 'feed_forward', 'norm', 'lm_head']
Dtype = Literal['float32', 'bfloat16', 'float16', 'float64']
AttentionBackend = Literal['auto', 'reference', 'blocks', 'cudnn', 'splash']


def require(condition: bool, name: str, value: Any, must: str) -> None:
    """Raises ValueError naming the field, its value and the fix, unless `condition` holds."""
    if not condition:
        raise ValueError(f'{name} is {value!r}; it must be {must}')


def _require_choices(section: str, config: Any) -> None:
    """Refuses a word that is none of a field's choices: a misspelt one would quietly mean another model."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        words = _words(f.type)
        for word in value if isinstance(value, tuple) else (value,):
            require(not words or word in words, f'{section}.{f.name}', value, f'among {", ".join(words)}')


def _words(annotation: Any) -> tuple[str, ...]:
    """The words of a Literal, of a union of them, or of a tuple of them."""
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return args
    return tuple(word for part in args for word in _words(part))


@dataclass(frozen=True)
class ModelConfig:
    """A decoder-only transformer (Vaswani et al. 2017; Radford et al. 2019), from ids to logits."""

    vocab_size: int = 4096  # token ids the model knows; the tokenizer is trained to fill them
    context_length: int = 256  # longest sequence the model reads, in tokens
    num_layers: int = 4  # transformer blocks
    width: int = 192  # size of the residual stream
    num_heads: int = 4  # query heads
    num_kv_heads: int | None = None  # key and value heads: None is num_heads (MHA), 1 is MQA, between is GQA
    head_dim: int | None = None  # size of one head; None is width / num_heads
    feed_forward_width: int | None = None  # hidden size; None is 4 x width, or 8/3 x width for gated activations
    activation: Activation = 'swiglu'  # feed-forward nonlinearity; the last two are gated
    position: Position = 'rope'  # how the order of tokens enters
    rope_base: float = 10_000.0  # longest RoPE wavelength is 2 pi x this, in tokens
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
    remat: Literal['none', 'dots', 'full'] = 'none'  # recompute in the backward pass: nothing, all but matmuls, all
    param_dtype: Dtype = 'float32'  # storage of parameters
    compute_dtype: Dtype | Literal['auto'] = 'float32'  # operands of matrix products; 'auto' is what is fastest here
    logit_dtype: Dtype = 'float32'  # logits and the loss
    attention_backend: AttentionBackend = 'auto'  # which attention trains and evaluates; 'auto' is the platform's own

    def __post_init__(self):
        _require_choices('model', self)
        for name in ('vocab_size', 'context_length', 'num_layers', 'width', 'num_heads'):
            require(getattr(self, name) >= 1, f'model.{name}', getattr(self, name), 'at least 1')
        for name in ('num_kv_heads', 'head_dim', 'feed_forward_width'):
            value = getattr(self, name)
            require(value is None or value >= 1, f'model.{name}', value, 'at least 1, or None')
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
        require(0 <= self.dropout < 1, 'model.dropout', self.dropout, 'in [0, 1)')
        require(self.init_std > 0, 'model.init_std', self.init_std, 'positive')

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def key_size(self) -> int:
        return self.width // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def gated(self) -> bool:
        return self.activation in ('swiglu', 'geglu')

    @property
    def hidden_width(self) -> int:
        if self.feed_forward_width is not None:
            return self.feed_forward_width
        return -(-8 * self.width // 3 // 32) * 32 if self.gated else 4 * self.width

    @property
    def layer_windows(self) -> tuple[int | None, ...]:
        """The window of each layer: `windows` repeated over `num_layers`."""
        return tuple(self.windows[layer % len(self.windows)] for layer in range(self.num_layers))


@dataclass(frozen=True)
class TokenizerConfig:
    """Text to ids. The vocabulary size is `model.vocab_size`."""

    kind: Literal['bpe', 'unigram', 'byte'] = 'bpe'  # SentencePiece BPE or unigram, or one token per byte
    split_digits: bool = True  # every digit is a token of its own
    training_bytes: int = 20_000_000  # most text the tokenizer learns from, in UTF-8 bytes

    def __post_init__(self):
        _require_choices('tokenizer', self)
        require(self.training_bytes >= 1, 'tokenizer.training_bytes', self.training_bytes, 'at least 1')


@dataclass(frozen=True)
class DataConfig:
    """Corpora to batches."""

    corpora: tuple[str, ...] = ('python_stdlib',)  # python_stdlib, text:GLOB, jsonl:GLOB or tfds:NAME
    weights: tuple[float, ...] = ()  # share of windows from each corpus; empty is in proportion to their size
    text_field: str = 'text'  # the field that holds the text in jsonl: and tfds: corpora
    bad_bytes: Literal['replace', 'refuse'] = 'replace'  # what to do with a file that is not UTF-8, after reporting it
    sequence_length: int = 256  # tokens a row predicts
    document_masking: bool = True  # attention and positions restart at each document in a row
    seed: int = 0  # order of the windows

    def __post_init__(self):
        _require_choices('data', self)
        require(len(self.corpora) >= 1, 'data.corpora', self.corpora, 'at least one corpus')
        require(
            len(self.weights) in (0, len(self.corpora)),
            'data.weights',
            self.weights,
            f'empty or one number per corpus ({len(self.corpora)})',
        )
        require(all(w > 0 for w in self.weights), 'data.weights', self.weights, 'made of positive numbers')
        require(self.sequence_length >= 1, 'data.sequence_length', self.sequence_length, 'at least 1')
        require(0 <= self.seed < 2**31, 'data.seed', self.seed, 'in [0, 2^31)')


@dataclass(frozen=True)
class NextToken:
    """Next-token cross-entropy."""

    kind: ClassVar[str] = 'next_token'
    z_loss: float = 0.0  # weight of log(sum(exp(logits)))^2 (Chowdhery et al. 2022, PaLM)
    label_smoothing: float = 0.0  # probability mass spread evenly over the vocabulary
    vocabulary_chunk: int = 0  # positions of each row whose logits exist at once; 0 is all of them

    def __post_init__(self):
        require(self.z_loss >= 0, 'objective.z_loss', self.z_loss, 'at least 0')
        require(0 <= self.label_smoothing < 1, 'objective.label_smoothing', self.label_smoothing, 'in [0, 1)')
        require(self.vocabulary_chunk >= 0, 'objective.vocabulary_chunk', self.vocabulary_chunk, 'at least 0')


def _check_optimizer(optimizer) -> None:
    for f in dataclasses.fields(optimizer):
        value = getattr(optimizer, f.name)
        if f.name.endswith('learning_rate') or f.name == 'epsilon':
            require(value > 0, f'optimizer.{f.name}', value, 'positive')
        elif f.name == 'weight_decay':
            require(value >= 0, f'optimizer.{f.name}', value, 'at least 0')
        elif f.name in ('b1', 'b2', 'momentum', 'decay_rate'):
            require(0 <= value < 1, f'optimizer.{f.name}', value, 'in [0, 1)')


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019)."""

    kind: ClassVar[str] = 'adamw'
    learning_rate: float = 3e-3  # peak
    weight_decay: float = 0.1  # per unit of learning rate, on matrices
    b1: float = 0.9  # decay of the first moment
    b2: float = 0.95  # decay of the second moment
    epsilon: float = 1e-8  # added to the root of the second moment
    __post_init__ = _check_optimizer


@dataclass(frozen=True)
class Adafactor:
    """Adam's second moment factored into rows and columns (Shazeer & Stern 2018)."""

    kind: ClassVar[str] = 'adafactor'
    learning_rate: float = 1e-2  # peak
    weight_decay: float = 0.0  # per unit of learning rate, on matrices
    decay_rate: float = 0.8  # exponent of the second moment's growing memory
    __post_init__ = _check_optimizer


@dataclass(frozen=True)
class Lion:
    """Sign of an interpolated momentum (Chen et al. 2023)."""

    kind: ClassVar[str] = 'lion'
    learning_rate: float = 3e-4  # peak
    weight_decay: float = 1.0  # per unit of learning rate, on matrices
    b1: float = 0.9  # interpolation for the update
    b2: float = 0.99  # decay of the momentum
    __post_init__ = _check_optimizer


@dataclass(frozen=True)
class Muon:
    """Orthogonalised momentum for the blocks' matrices (Jordan et al. 2024), AdamW for the rest."""

    kind: ClassVar[str] = 'muon'
    learning_rate: float = 2e-2  # peak, for the blocks' matrices
    adam_learning_rate: float = 3e-3  # peak, for embeddings, head, norms and biases
    weight_decay: float = 0.1  # per unit of learning rate, on matrices
    momentum: float = 0.95  # Nesterov momentum of the matrices
    b1: float = 0.9  # AdamW part: decay of the first moment
    b2: float = 0.95  # AdamW part: decay of the second moment
    __post_init__ = _check_optimizer


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum."""

    kind: ClassVar[str] = 'sgd'
    learning_rate: float = 1e-1  # peak
    weight_decay: float = 0.0  # per unit of learning rate, on matrices
    momentum: float = 0.9  # heavy ball
    __post_init__ = _check_optimizer


def _check_schedule(schedule) -> None:
    for f in dataclasses.fields(schedule):
        value = getattr(schedule, f.name)
        if f.name == 'final_fraction':
            require(0 <= value <= 1, f'schedule.{f.name}', value, 'in [0, 1]')
        elif f.name == 'horizon':
            require(value >= 1, f'schedule.{f.name}', value, 'at least 1')
        else:
            require(value >= 0, f'schedule.{f.name}', value, 'at least 0')
    if hasattr(schedule, 'horizon'):
        ramps = schedule.warmup + getattr(schedule, 'decay', 0)
        require(ramps <= schedule.horizon, 'schedule.horizon', schedule.horizon, f'at least its ramps ({ramps} steps)')


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine down to the horizon."""

    kind: ClassVar[str] = 'cosine'
    horizon: int = 1000  # step at which the learning rate reaches its final value
    warmup: int = 50  # steps of linear warm-up from 0
    final_fraction: float = 0.1  # last learning rate / peak
    __post_init__ = _check_schedule


@dataclass(frozen=True)
class Linear:
    """Linear warm-up, then a straight line down to the horizon."""

    kind: ClassVar[str] = 'linear'
    horizon: int = 1000  # step at which the learning rate reaches its final value
    warmup: int = 50  # steps of linear warm-up from 0
    final_fraction: float = 0.0  # last learning rate / peak
    __post_init__ = _check_schedule


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up, a plateau, a linear decay at the end (Hu et al. 2024, MiniCPM)."""

    kind: ClassVar[str] = 'warmup_stable_decay'
    horizon: int = 1000  # step at which the learning rate reaches its final value
    warmup: int = 50  # steps of linear warm-up from 0
    decay: int = 200  # steps of the final decay
    final_fraction: float = 0.0  # last learning rate / peak
    __post_init__ = _check_schedule


@dataclass(frozen=True)
class Constant:
    """Linear warm-up, then the peak for ever."""

    kind: ClassVar[str] = 'constant'
    warmup: int = 50  # steps of linear warm-up from 0
    __post_init__ = _check_schedule


@dataclass(frozen=True)
class InverseSquareRoot:
    """Linear warm-up, then peak x sqrt(warmup / step) (Vaswani et al. 2017)."""

    kind: ClassVar[str] = 'inverse_square_root'
    warmup: int = 50  # steps of linear warm-up from 0

    def __post_init__(self):
        require(self.warmup >= 1, 'schedule.warmup', self.warmup, 'at least 1')


@dataclass(frozen=True)
class InitFromConfig:
    """Where the first weights come from, when not from the seed."""

    workdir: str = ''  # another run's workdir; empty starts from the seed
    step: int | None = None  # which of its checkpoints; None is the last
    optimizer_state: bool = False  # take the optimizer's state and the EMA along
    continue_step: bool = False  # fork: go on at that step and data position, instead of at step 0

    def __post_init__(self):
        require(self.step is None or self.step >= 0, 'init_from.step', self.step, 'at least 0, or None')


@dataclass(frozen=True)
class TrainingConfig:
    """The loop."""

    steps: int = field(default=1000, metadata=RUN_LENGTH)  # updates to make before stopping
    batch_size: int = 16  # rows per update
    accumulation: int = 1  # micro-batches a batch is cut into to save memory
    clip_norm: float | None = 1.0  # largest global norm of the gradient
    ema_decay: float | None = None  # decay per step of the averaged parameters kept beside the raw ones

    def __post_init__(self):
        for name in ('steps', 'batch_size', 'accumulation'):
            require(getattr(self, name) >= 1, f'training.{name}', getattr(self, name), 'at least 1')
        require(
            self.batch_size % self.accumulation == 0,
            'training.accumulation',
            self.accumulation,
            f'a divisor of training.batch_size ({self.batch_size})',
        )
        require(self.clip_norm is None or self.clip_norm > 0, 'training.clip_norm', self.clip_norm, 'positive, or None')
        require(
            self.ema_decay is None or 0 < self.ema_decay < 1, 'training.ema_decay', self.ema_decay, 'in (0, 1), or None'
        )


@dataclass(frozen=True)
class ParallelConfig:
    """How devices share the work. A run may go on with another division of it; see `llm.parallel.axes`."""

    wrapper: Literal['jit', 'pmap'] = field(default='jit', metadata=PLACEMENT)  # the compiler cuts, or data parallel
    data: int | None = field(default=None, metadata=PLACEMENT)  # devices that share rows; None is what the rest leaves
    fsdp: int = field(default=1, metadata=PLACEMENT)  # devices that share rows and parameters
    tensor: int = field(default=1, metadata=PLACEMENT)  # devices that share heads, hidden units and the vocabulary
    context: int = field(default=1, metadata=PLACEMENT)  # devices that share the positions of a row

    def __post_init__(self):
        _require_choices('parallel', self)
        for name in ('data', 'fsdp', 'tensor', 'context'):
            value = getattr(self, name)
            require(value is None or value >= 1, f'parallel.{name}', value, 'at least 1')
        cut = {name: getattr(self, name) for name in ('fsdp', 'tensor', 'context') if getattr(self, name) > 1}
        require(
            self.wrapper == 'jit' or not cut,
            'parallel.wrapper',
            self.wrapper,
            f'jit when parallel.{next(iter(cut), "fsdp")} is more than 1: pmap is data parallel only',
        )


@dataclass(frozen=True)
class DivergenceConfig:
    """When a loss counts as lost, and what is done about it."""

    window: int = 50  # steps the running mean and deviation of the loss look back
    z_score: float = 8.0  # a loss this many deviations above the mean is an explosion
    skip: int = 1  # batches left out, ending with the offending one
    max_rollbacks: int = 3  # after this many the run gives up with a diagnosis

    def __post_init__(self):
        require(self.window >= 5, 'divergence.window', self.window, 'at least 5')
        require(self.z_score > 0, 'divergence.z_score', self.z_score, 'positive')
        require(self.skip >= 1, 'divergence.skip', self.skip, 'at least 1')
        require(self.max_rollbacks >= 0, 'divergence.max_rollbacks', self.max_rollbacks, 'at least 0')


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept on disk."""

    every: int = field(default=100, metadata=LOGGING)  # steps between checkpoints; the last step is always kept
    keep_last: int = field(default=2, metadata=LOGGING)  # newest checkpoints kept
    keep_every: int | None = field(default=None, metadata=LOGGING)  # also keep steps that are multiples of this
    keep_best: bool = field(default=True, metadata=LOGGING)  # also keep the one with the lowest loss in its evaluation

    def __post_init__(self):
        require(self.every >= 1, 'checkpoint.every', self.every, 'at least 1')
        require(self.keep_last >= 1, 'checkpoint.keep_last', self.keep_last, 'at least 1')
        require(
            self.keep_every is None or self.keep_every >= 1,
            'checkpoint.keep_every',
            self.keep_every,
            'at least 1, or None',
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """Held-out measurements and samples along the way."""

    every: int = field(default=100, metadata=LOGGING)  # steps between evaluations
    max_windows: int = field(default=256, metadata=LOGGING)  # held-out windows read along the way; the end reads all
    batch_size: int = field(default=16, metadata=LOGGING)  # rows per evaluation step
    sample_prompt: str = field(default='def', metadata=LOGGING)  # what samples along the way start from
    sample_tokens: int = field(default=64, metadata=LOGGING)  # length of a sample in tokens; 0 draws none

    def __post_init__(self):
        for name in ('every', 'max_windows', 'batch_size'):
            require(getattr(self, name) >= 1, f'evaluation.{name}', getattr(self, name), 'at least 1')
        require(self.sample_tokens >= 0, 'evaluation.sample_tokens', self.sample_tokens, 'at least 0')


@dataclass(frozen=True)
class LogConfig:
    """What is written while training."""

    every: int = field(default=10, metadata=LOGGING)  # steps between lines of metrics.jsonl
    per_layer: bool = field(default=False, metadata=LOGGING)  # norms of gradient, update and parameter per tensor
    tensorboard: bool = field(default=True, metadata=LOGGING)  # also write TensorBoard events

    def __post_init__(self):
        require(self.every >= 1, 'log.every', self.every, 'at least 1')


@dataclass(frozen=True)
class Config:
    """A run."""

    name: str = field(default='run', metadata=LOGGING)  # what reports call it
    seed: int = 0  # initial weights and dropout
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    objective: NextToken = NextToken()
    optimizer: AdamW | Adafactor | Lion | Muon | SGD = AdamW()
    schedule: Cosine | Linear | WarmupStableDecay | Constant | InverseSquareRoot = Cosine()
    init_from: InitFromConfig = InitFromConfig()
    training: TrainingConfig = TrainingConfig()
    parallel: ParallelConfig = ParallelConfig()
    divergence: DivergenceConfig = DivergenceConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    log: LogConfig = LogConfig()

    def __post_init__(self):
        require(0 <= self.seed < 2**31, 'seed', self.seed, 'in [0, 2^31)')
        require(
            self.data.sequence_length <= self.model.context_length,
            'data.sequence_length',
            self.data.sequence_length,
            f'at most model.context_length ({self.model.context_length})',
        )

    @classmethod
    def for_depth(cls, depth: int, **overrides) -> 'Config':
        """One dial from laptop to cluster: everything else follows from the number of layers.

        - width 64 x depth, heads of size 64 (GPT-family aspect ratio, as nanochat's `--depth`);
        - tokens 20 x the parameters that are not embeddings (Hoffmann et al. 2022);
        - batch 16 rows up to depth 4, then in proportion to depth squared (critical batch grows with the loss reached,
          McCandlish et al. 2018);
        - learning rate 3e-3 at depth 4, in proportion to 1 / width (Yang et al. 2022, hidden matrices under Adam).

        Args:
            depth: number of blocks, at least 1.
            **overrides: fields of `Config` to replace in the result.
        """
        require(depth >= 1, 'depth', depth, 'at least 1')
        model = ModelConfig(num_layers=depth, width=64 * depth, num_heads=depth, context_length=256)
        batch_size = 16 * max(1, round((depth / 4) ** 2))
        per_layer = 4 * model.width**2 + 3 * model.width * model.hidden_width
        steps = max(1, round(20 * depth * per_layer / (batch_size * model.context_length)))
        config = cls(
            name=f'depth{depth}',
            model=model,
            data=DataConfig(sequence_length=model.context_length),
            optimizer=AdamW(learning_rate=3e-3 * 4 / depth),
            schedule=Cosine(horizon=steps, warmup=min(steps, 50 + steps // 50)),
            training=TrainingConfig(steps=steps, batch_size=batch_size),
        )
        return dataclasses.replace(config, **overrides)
