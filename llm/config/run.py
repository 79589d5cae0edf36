"""The run itself: where it starts, how long it lasts, what it leaves behind, and which devices do it."""

from dataclasses import dataclass, field
from typing import Literal

from llm.config.fields import LOGGING, PLACEMENT, RUN_LENGTH, require, require_choices


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
        require_choices('parallel', self)
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
