"""How starts, learning rates and scales follow the width: the one place that knows.

With `model.parametrization` 'mup' (maximal update parametrisation, Yang et al. 2022, Tensor Programs V, table 8) every
number of the config is that of a model of `model.base_width`, and a wider model takes steps that change its activations
as much. At the base width it is the standard parametrisation, to the bit. All follows from one ratio, base width /
width: `RULES` says by which power of it each kind of parameter starts and moves, and three functions scale the logits,
the attention scores and Adam's epsilon.

Whatever is as wide as the model is taken to grow with it: heads (in size, or with `head_dim` set in number) and the
feed-forward network. Depth, batch and number of steps are not the width's business.
"""

from typing import Literal, NamedTuple

from llm.config import ModelConfig

Role = Literal['embedding', 'hidden', 'head', 'scalar_head', 'vector', 'lora_a', 'lora_b']


class Rule(NamedTuple):
    """Powers of base width / width: of the deviation at the start, beside the standard one, and of learning rates.

    Attributes:
        start: where the standard deviation is 1 / sqrt(fan_in).
        adam: for steps whose entries have size 1 (AdamW, Lion, and Muon where it leaves a parameter to AdamW).
        muon: for steps whose singular values are 1 x sqrt(max(1, fan_out / fan_in)) (Yang et al. 2023, spectral norms).
        adafactor: for steps in proportion to the parameter's own size (Everett et al. 2024).
        sgd: for steps in proportion to the gradient.
    """

    start: float
    adam: float
    muon: float
    adafactor: float
    sgd: float


RULES: dict[Role, Rule] = {
    'embedding': Rule(start=0, adam=0, muon=0, adafactor=0, sgd=-1),  # token and position tables, tied or not
    'hidden': Rule(start=0, adam=1, muon=0, adafactor=0.5, sgd=0),  # the blocks' kernels: wide in, wide out
    'head': Rule(start=-0.5, adam=0, muon=0, adafactor=0, sgd=-1),  # starts as at the base; its input is scaled
    'scalar_head': Rule(start=0.5, adam=1, muon=1, adafactor=0, sgd=1),  # reward and value, whose input is not
    'vector': Rule(start=0, adam=0, muon=0, adafactor=0, sgd=-1),  # scales of norms, biases
    'lora_a': Rule(start=0, adam=1, muon=0.5, adafactor=0.5, sgd=1),  # wide in, narrow out
    'lora_b': Rule(start=0, adam=0, muon=0, adafactor=0, sgd=-1),  # narrow in, wide out (Hayou et al. 2024, LoRA+)
}


def width_ratio(config: ModelConfig) -> float:
    """Base width / width; 1 in the standard parametrisation."""
    return 1.0 if config.parametrization == 'standard' else config.base_width / config.width


def start_factor(config: ModelConfig, role: Role) -> float:
    """Factor on the standard deviation that a parameter starts with."""
    power = RULES[role].start
    if role in ('hidden', 'head') and config.init_kernel == 'normal':
        power += 0.5  # what 1 / sqrt(fan_in) does by itself
    return width_ratio(config) ** power


def rate_factor(config: ModelConfig, role: Role, optimizer: str) -> float:
    """Factor on a parameter's step, its decay left out: weights decay as fast at every width (Wang & Aitchison 2024).

    Args:
        config: parametrisation and widths.
        role: of the parameter.
        optimizer: the `kind` of the run's.
    """
    column = {'adamw': 'adam', 'lion': 'adam'}.get(optimizer, optimizer)
    return width_ratio(config) ** getattr(RULES[role], column)


def output_multiplier(config: ModelConfig) -> float:
    """Factor on what the head reads. Then one rule does for tied and untied heads."""
    return width_ratio(config)


def epsilon_factor(config: ModelConfig) -> float:
    """Factor on Adam's epsilon: gradients of single weights are smaller by as much in a wider model."""
    return width_ratio(config)


def attention_scale(config: ModelConfig) -> float:
    """Factor on query-key scores: `attention_scale`, or 1 / sqrt(head_dim), at the base width.

    From there like 1 / head_dim, because trained queries and keys are aligned: their product grows with head_dim, not
    with its root. With `head_dim` set, heads grow in number, and nothing has to be scaled.
    """
    growth = 1.0 if config.head_dim is not None else width_ratio(config)
    return (config.attention_scale or (config.key_size * growth) ** -0.5) * growth
