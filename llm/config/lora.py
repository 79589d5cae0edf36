"""Low-rank adaptation."""

from dataclasses import dataclass
from typing import Literal

from llm.config.fields import require, require_choices

Target = Literal['query', 'key', 'value', 'output', 'gate', 'up', 'down']


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters beside frozen matrices of the blocks (Hu et al. 2021)."""

    rank: int = 0  # inner size of the adapters; 0 trains the whole model
    alpha: float = 16.0  # adapters are multiplied by alpha / rank
    targets: tuple[Target, ...] = ('query', 'key', 'value', 'output', 'gate', 'up', 'down')  # matrices that get one

    def __post_init__(self):
        require_choices('lora', self)
        require(self.rank >= 0, 'lora.rank', self.rank, 'at least 0 (0 trains the whole model)')
        require(self.alpha > 0, 'lora.alpha', self.alpha, 'positive')
        require(
            len(set(self.targets)) == len(self.targets) >= 1, 'lora.targets', self.targets, 'at least one, once each'
        )
