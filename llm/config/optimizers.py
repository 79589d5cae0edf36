"""How parameters move, and how the learning rate changes on the way."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from llm.config.fields import require


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
