"""Every knob of a run, typed and checked, in one tree of frozen dataclasses.

A config file is Python: `configs/NAME.py` defines `get_config() -> Config`. Every field can be set from the command
line (`--model.num-layers 6`, `optimizer:muon --optimizer.learning-rate 0.02`). The comment beside a field is its help.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from llm.config.data import DataConfig, TokenizerConfig
from llm.config.fields import LOGGING, require
from llm.config.lora import LoRAConfig
from llm.config.model import AttentionBackend, ModelConfig
from llm.config.objectives import (
    DPO,
    GRPO,
    PPO,
    RLOO,
    SFT,
    Corrupted,
    Distillation,
    Masked,
    NextToken,
    Objective,
    Online,
    PrefixLM,
    RewardConfig,
    RewardModel,
    RolloutConfig,
    SpanCorruption,
)
from llm.config.optimizers import (
    SGD,
    Adafactor,
    AdamW,
    Constant,
    Cosine,
    InverseSquareRoot,
    Linear,
    Lion,
    Muon,
    WarmupStableDecay,
)
from llm.config.run import (
    CheckpointConfig,
    DivergenceConfig,
    EvaluationConfig,
    InitFromConfig,
    LogConfig,
    ParallelConfig,
    TrainingConfig,
)

__all__ = [
    'DPO',
    'GRPO',
    'PPO',
    'RLOO',
    'SFT',
    'SGD',
    'Adafactor',
    'AdamW',
    'AttentionBackend',
    'CheckpointConfig',
    'Config',
    'Constant',
    'Corrupted',
    'Cosine',
    'DataConfig',
    'Distillation',
    'DivergenceConfig',
    'EvaluationConfig',
    'InitFromConfig',
    'InverseSquareRoot',
    'Linear',
    'Lion',
    'LoRAConfig',
    'LogConfig',
    'Masked',
    'ModelConfig',
    'Muon',
    'NextToken',
    'Objective',
    'Online',
    'ParallelConfig',
    'PrefixLM',
    'Reading',
    'RewardConfig',
    'RewardModel',
    'RolloutConfig',
    'SpanCorruption',
    'TokenizerConfig',
    'TrainingConfig',
    'WarmupStableDecay',
]


Reading = Literal['causal', 'bidirectional', 'prefix', 'encoder_decoder']


@dataclass(frozen=True)
class Config:
    """A run."""

    name: str = field(default='run', metadata=LOGGING)  # what reports call it
    seed: int = 0  # initial weights and dropout
    model: ModelConfig = ModelConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    objective: (
        NextToken | SFT | RewardModel | DPO | PPO | GRPO | RLOO | Distillation | Masked | PrefixLM | SpanCorruption
    ) = NextToken()
    optimizer: AdamW | Adafactor | Lion | Muon | SGD = AdamW()
    schedule: Cosine | Linear | WarmupStableDecay | Constant | InverseSquareRoot = Cosine()
    init_from: InitFromConfig = InitFromConfig()
    lora: LoRAConfig = LoRAConfig()
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
        require(
            self.parallel.context == 1 or self.model.image_size is None,
            'parallel.context',
            self.parallel.context,
            '1 with model.image_size: an image is not cut',
        )
        self._check_objective()
        if self.model.parametrization == 'mup' and isinstance(self.optimizer, Adafactor):
            require(
                self.model.init_output != 'zero' and not isinstance(self.objective, PPO),
                'model.parametrization',
                self.model.parametrization,
                'standard with optimizer adafactor where weights start at 0 (model.init_output zero, the value head of '
                'ppo): its steps are relative to the size of the weights',
            )

    def _check_objective(self):
        """What an objective asks of the other sections."""
        objective = self.objective
        kind = objective.kind
        if isinstance(objective, DPO) and objective.label_smoothing:
            require(
                objective.loss in ('sigmoid', 'robust'),
                'objective.label_smoothing',
                objective.label_smoothing,
                f'0 with objective.loss {objective.loss}',
            )
        if not isinstance(objective, NextToken | SFT) or isinstance(objective, Distillation):
            require(self.parallel.context == 1, 'parallel.context', self.parallel.context, f'1 with objective {kind}')
        if not isinstance(objective, NextToken | SFT | Corrupted):
            require(self.model.dropout == 0, 'model.dropout', self.model.dropout, f'0 with objective {kind}')
        if not isinstance(objective, PrefixLM | SpanCorruption):
            layers = self.model.encoder_layers
            require(
                layers == 0,
                'model.encoder_layers',
                layers,
                f'0 with objective {kind}, which gives an encoder no source',
            )
        if isinstance(objective, SpanCorruption) and not self.model.encoder_layers:
            length = self.data.sequence_length
            both = length + objective.target_length(length)
            context = self.model.context_length
            require(
                both <= context,
                'model.context_length',
                context,
                f'at least {both} with objective {kind} and no encoder: a window and what is written behind it',
            )
        if isinstance(objective, Distillation):
            require(
                objective.top_k < self.model.vocab_size,
                'objective.top_k',
                objective.top_k,
                f'less than model.vocab_size ({self.model.vocab_size}), or 0 for all of it',
            )
        if isinstance(objective, DPO) and objective.loss == 'ipo':
            require(
                not objective.length_normalized,
                'objective.length_normalized',
                objective.length_normalized,
                'False with objective.loss ipo, which is always per token',
            )
        if isinstance(objective, PPO) and objective.kl_target is not None:
            require(
                objective.kl_coefficient > 0,
                'objective.kl_coefficient',
                objective.kl_coefficient,
                'positive with objective.kl_target: it is what is adapted, by factors',
            )
        if isinstance(objective, Online):
            rollout, reward = objective.rollout, objective.reward
            require(
                bool(reward.models or reward.function),
                'objective.reward',
                reward,
                'given: objective.reward.models or objective.reward.function',
            )
            longest = self.data.sequence_length
            require(
                rollout.max_new_tokens < longest,
                'objective.rollout.max_new_tokens',
                rollout.max_new_tokens,
                f'less than data.sequence_length ({longest}), which holds the prompt and the response',
            )
            cut = rollout.minibatches * self.training.accumulation
            require(
                self.training.batch_size % cut == 0,
                'training.batch_size',
                self.training.batch_size,
                f'a multiple of objective.rollout.minibatches x training.accumulation ({cut}): it counts prompts',
            )
            if not isinstance(objective, PPO):
                require(
                    rollout.samples_per_prompt >= 2,
                    'objective.rollout.samples_per_prompt',
                    rollout.samples_per_prompt,
                    f'at least 2 with objective {kind}: a response is judged against the others to its prompt',
                )

    @property
    def reading(self) -> Reading:
        """How the run's model reads: which mask its objective teaches it, or that an encoder reads for it."""
        if self.model.encoder_layers:
            return 'encoder_decoder'
        kinds = {Masked: 'bidirectional', PrefixLM: 'prefix', SpanCorruption: 'prefix'}
        return kinds.get(type(self.objective), 'causal')

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
