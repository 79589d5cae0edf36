"""What is minimised: one dataclass per stage of training."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from llm.config.fields import require, require_choices


def _check_ranges(objective) -> None:
    """Refuses numbers that no objective can use."""
    name = 'objective'
    require_choices(name, objective)
    for f in dataclasses.fields(objective):
        value = getattr(objective, f.name)
        if isinstance(value, float):
            require(math.isfinite(value), f'{name}.{f.name}', value, 'a finite number')
        if f.name in (
            'z_loss',
            'vocabulary_chunk',
            'top_k',
            'centring',
            'margin_scale',
            'kl_coefficient',
            'value_coefficient',
        ):
            require(value >= 0, f'{name}.{f.name}', value, 'at least 0')
        elif f.name == 'label_smoothing':
            top = 0.5 if isinstance(objective, DPO) else 1
            require(0 <= value < top, f'{name}.{f.name}', value, f'in [0, {top})')
        elif f.name in ('beta', 'clip', 'kl_horizon', 'temperature'):
            require(value > 0, f'{name}.{f.name}', value, 'positive')
        elif f.name in ('clip_high', 'value_clip', 'kl_target'):
            require(value is None or value > 0, f'{name}.{f.name}', value, 'positive, or None')
        elif f.name in ('discount', 'gae_lambda', 'teacher_weight'):
            require(0 <= value <= 1, f'{name}.{f.name}', value, 'in [0, 1]')
        elif f.name == 'rate':
            require(0 < value < 1, f'{name}.{f.name}', value, 'in (0, 1)')
        elif f.name in ('masked', 'random'):
            both = objective.masked + objective.random
            require(
                value >= 0 and both <= 1 + 1e-9, f'{name}.{f.name}', value, 'at least 0, and masked + random at most 1'
            )
        elif f.name == 'span_length':
            require(value >= 1, f'{name}.{f.name}', value, 'at least 1')


@dataclass(frozen=True)
class NextToken:
    """Next-token cross-entropy."""

    kind: ClassVar[str] = 'next_token'
    z_loss: float = 0.0  # weight of log(sum(exp(logits)))^2 (Chowdhery et al. 2022, PaLM)
    label_smoothing: float = 0.0  # probability mass spread evenly over the vocabulary
    vocabulary_chunk: int = 0  # positions of each row whose logits exist at once; 0 is all of them
    __post_init__ = _check_ranges


@dataclass(frozen=True)
class Masked:
    """Masked language modelling (Devlin et al. 2019): each token sees the whole text, and some are to be guessed."""

    kind: ClassVar[str] = 'masked'
    rate: float = 0.15  # share of a window's tokens that are guessed
    masked: float = 0.8  # of these, the share whose place a mask token takes
    random: float = 0.1  # of these, the share whose place any token takes; the rest stays as it is
    z_loss: float = 0.0  # weight of log(sum(exp(logits)))^2 (Chowdhery et al. 2022, PaLM)
    label_smoothing: float = 0.0  # probability mass spread evenly over the vocabulary
    vocabulary_chunk: int = 0  # positions of each row whose logits exist at once; 0 is all of them
    __post_init__ = _check_ranges


@dataclass(frozen=True)
class PrefixLM:
    """Prefix language modelling (Raffel et al. 2020): the first tokens of a window see each other, the rest follows.

    With an encoder (`model.encoder_layers`) the encoder reads the prefix and the decoder writes the rest.
    """

    kind: ClassVar[str] = 'prefix_lm'
    z_loss: float = 0.0  # weight of log(sum(exp(logits)))^2 (Chowdhery et al. 2022, PaLM)
    label_smoothing: float = 0.0  # probability mass spread evenly over the vocabulary
    vocabulary_chunk: int = 0  # positions of each row whose logits exist at once; 0 is all of them
    __post_init__ = _check_ranges


@dataclass(frozen=True)
class SpanCorruption:
    """Span corruption (Raffel et al. 2020, T5): a text with blanks is read, and what stood in them is written.

    An encoder (`model.encoder_layers`) reads; without one, the text with blanks is a prefix of what is written.
    """

    kind: ClassVar[str] = 'span_corruption'
    rate: float = 0.15  # share of a window's tokens that stood in blanks
    span_length: float = 3.0  # mean tokens of a blank
    z_loss: float = 0.0  # weight of log(sum(exp(logits)))^2 (Chowdhery et al. 2022, PaLM)
    label_smoothing: float = 0.0  # probability mass spread evenly over the vocabulary
    vocabulary_chunk: int = 0  # positions of each row whose logits exist at once; 0 is all of them
    __post_init__ = _check_ranges

    def blanks(self, length: int) -> tuple[int, int]:
        """Tokens of a window of `length` that are hidden, and the blanks that they stood in, as a rule."""
        hidden = min(max(round(length * self.rate), 1), max(length - 1, 1))
        return hidden, min(max(round(hidden / self.span_length), 1), hidden)

    def target_length(self, length: int) -> int:
        """Columns that what is written takes: each blank's mark and tokens, and an end."""
        return sum(self.blanks(length)) + 1


@dataclass(frozen=True)
class SFT:
    """Supervised fine-tuning: next-token cross-entropy on the answers of conversations."""

    kind: ClassVar[str] = 'sft'
    train_on: Literal['completions', 'all'] = 'completions'  # the answers, or every token but the first and patches
    packing: bool = True  # several examples share a row, each seeing only itself
    z_loss: float = 0.0  # weight of log(sum(exp(logits)))^2 (Chowdhery et al. 2022, PaLM)
    label_smoothing: float = 0.0  # probability mass spread evenly over the vocabulary
    vocabulary_chunk: int = 0  # positions of each row whose logits exist at once; 0 is all of them
    __post_init__ = _check_ranges


@dataclass(frozen=True)
class RewardModel:
    """Bradley-Terry on rankings: one number per response, higher for the better one (Ouyang et al. 2022)."""

    kind: ClassVar[str] = 'reward_model'
    margin_scale: float = 0.0  # factor on the margin that the data gives a pair (Touvron et al. 2023, Llama 2)
    centring: float = 0.0  # weight of (reward of chosen + of rejected)^2, which keeps rewards around 0
    __post_init__ = _check_ranges


@dataclass(frozen=True)
class DPO:
    """Direct preference optimisation (Rafailov et al. 2023). The reference is the model that training starts from."""

    kind: ClassVar[str] = 'dpo'
    loss: Literal['sigmoid', 'robust', 'ipo', 'hinge'] = 'sigmoid'  # of beta x the margin of log-ratios
    beta: float = 0.1  # strength of the pull back to the reference
    label_smoothing: float = 0.0  # probability that a preference is the wrong way round (sigmoid and robust)
    length_normalized: bool = False  # log-probabilities per token instead of per response (always so in ipo)
    reference_free: bool = False  # leave the reference out: a uniform one
    __post_init__ = _check_ranges

    # label_smoothing with a loss that has none would be a knob that does nothing: refused by Config.


@dataclass(frozen=True)
class RolloutConfig:
    """Responses drawn from the policy, and the updates made from them."""

    samples_per_prompt: int = 8  # responses to each prompt
    max_new_tokens: int = 64  # longest response in tokens, EOS included
    temperature: float = 1.0  # logits are divided by it, when sampling and when scoring alike
    epochs: int = 1  # times that each response is learned from
    minibatches: int = 1  # updates that an epoch's responses are dealt out to

    def __post_init__(self):
        for name in ('samples_per_prompt', 'max_new_tokens', 'epochs', 'minibatches'):
            require(getattr(self, name) >= 1, f'objective.rollout.{name}', getattr(self, name), 'at least 1')
        temperature = self.temperature
        require(0 < temperature < math.inf, 'objective.rollout.temperature', temperature, 'positive and finite')


@dataclass(frozen=True)
class RewardConfig:
    """Where the reward of a response comes from: reward models, a Python function, or the sum of both."""

    models: tuple[str, ...] = ()  # workdirs of reward models; several are an ensemble
    ensemble: Literal['mean', 'min'] = 'mean'  # what an ensemble agrees on (Coste et al. 2023)
    function: str = ''  # FILE.py:NAME or MODULE:NAME of reward(prompts, completions, **columns) -> list of numbers
    function_weight: float = 1.0  # factor on the function's rewards
    missing_eos_penalty: float = 0.0  # taken off a response that does not end within max_new_tokens

    def __post_init__(self):
        require_choices('objective.reward', self)
        require(
            not self.function or (self.function.count(':') == 1 and all(self.function.split(':'))),
            'objective.reward.function',
            self.function,
            'FILE.py:NAME or MODULE:NAME',
        )
        weight, penalty = self.function_weight, self.missing_eos_penalty
        require(math.isfinite(weight), 'objective.reward.function_weight', weight, 'a finite number')
        require(0 <= penalty < math.inf, 'objective.reward.missing_eos_penalty', penalty, 'at least 0, and finite')


@dataclass(frozen=True)
class PPO:
    """Proximal policy optimisation with a value head and a KL penalty (Schulman et al. 2017; Ziegler et al. 2019)."""

    kind: ClassVar[str] = 'ppo'
    rollout: RolloutConfig = RolloutConfig(samples_per_prompt=1, epochs=4)
    reward: RewardConfig = RewardConfig()
    kl_coefficient: float = 0.05  # of log(policy / reference), taken off each token's reward; the first one if adaptive
    kl_target: float | None = None  # KL in nats per response that an adaptive coefficient keeps to; None is fixed
    kl_horizon: float = 10_000.0  # responses over which the adaptive coefficient adapts
    clip: float = 0.2  # largest change of a token's probability ratio that is rewarded
    value_clip: float | None = 0.2  # largest change of a value that is rewarded; None does not clip
    value_coefficient: float = 0.1  # weight of the value loss
    discount: float = 1.0  # of later rewards, per token
    gae_lambda: float = 0.95  # bias against variance of the advantages (Schulman et al. 2016)
    __post_init__ = _check_ranges


@dataclass(frozen=True)
class GRPO:
    """Group-relative policy optimisation (Shao et al. 2024): a response against the others to its prompt."""

    kind: ClassVar[str] = 'grpo'
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    loss: Literal['grpo', 'dr_grpo', 'bnpo', 'dapo'] = 'dapo'  # what a response's tokens are averaged over
    scale_rewards: bool = True  # divide a group's advantages by their deviation (Dr. GRPO, Liu et al. 2025, does not)
    kl_coefficient: float = 0.0  # of the KL to the reference, in the loss
    kl_estimator: Literal['k2', 'k3', 'ratio_k3'] = (
        'ratio_k3'  # its form (Schulman 2020); k3's gradient is forward KL's
    )
    clip: float = 0.2  # largest fall of a token's probability ratio that is rewarded
    clip_high: float | None = None  # largest rise of it (Yu et al. 2025, DAPO); None is `clip`
    __post_init__ = _check_ranges


@dataclass(frozen=True)
class RLOO:
    """REINFORCE with a leave-one-out baseline, KL penalty in the reward (Ahmadian et al. 2024)."""

    kind: ClassVar[str] = 'rloo'
    rollout: RolloutConfig = RolloutConfig()
    reward: RewardConfig = RewardConfig()
    kl_coefficient: float = 0.05  # of the response's log(policy / reference), taken off its reward
    clip: float = 0.2  # largest change of a response's probability ratio that is rewarded
    normalize_advantages: bool = False  # to mean 0 and deviation 1 over the batch
    __post_init__ = _check_ranges


@dataclass(frozen=True)
class Distillation(NextToken):
    """A teacher's predictions for every token beside the token that came (Hinton et al. 2015). It reads documents."""

    kind: ClassVar[str] = 'distillation'
    teacher: str = ''  # workdir of the teacher, whose tokenizer is the student's
    teacher_step: int | None = None  # which of its checkpoints; None is the last
    divergence: Literal['forward', 'reverse', 'jensen_shannon'] = (
        'forward'  # KL(teacher || student), the other way, both
    )
    temperature: float = 1.0  # logits of both are divided by it; the divergence is multiplied by its square
    teacher_weight: float = 0.5  # share of the divergence in what is minimised; cross-entropy has the rest
    top_k: int = (
        0  # likeliest tokens of the teacher that are told apart, the others being one; 0 is the whole vocabulary
    )
    stored: bool = False  # ask the teacher once, before the first step, and keep its top_k in the cache

    def __post_init__(self):
        _check_ranges(self)
        require(
            self.teacher_step is None or self.teacher_step >= 0, 'objective.teacher_step', self.teacher_step, '>= 0'
        )
        require(
            self.top_k > 0 or not self.stored,
            'objective.stored',
            self.stored,
            'False with objective.top_k 0: predictions over the whole vocabulary are too large to keep',
        )


Objective = NextToken | SFT | RewardModel | DPO | PPO | GRPO | RLOO | Distillation | Masked | PrefixLM | SpanCorruption
Corrupted = Masked | PrefixLM | SpanCorruption  # learn from windows of text of which they see a part
Online = PPO | GRPO | RLOO  # learn from responses that they draw themselves
