"""What weights of 8 and 4 bits cost and save, by the size of the model.

Models of three sizes learn to continue the standard library's source, each from several seeds; then the very same
parameters are measured in every precision. Speed and memory do not depend on what a model has learned, so beside these
there is one of GPT-2 small's shape with random weights: large enough that reading the weights is what a step waits for.
"""

import dataclasses

from experiments.ablations.base import BASE
from llm.config import AdamW, Config, Cosine, ModelConfig, TrainingConfig
from llm.sweep import space

PRECISIONS = ('float32', 'bfloat16', 'int8', 'int4')  # the first is what the others are held against
SIZES = {  # width, layers, steps, learning rate
    'small': (64, 2, 250, 1e-2),
    'medium': (128, 3, 250, 6e-3),
    'large': (192, 4, 250, 4e-3),
}
RANDOM = {
    'GPT-2 small, random': ModelConfig(
        vocab_size=50257, context_length=256, num_layers=12, width=768, num_heads=12, activation='gelu'
    )
}


def runs(seeds: int, scale: float = 1.0) -> dict[str, Config]:
    """The models that are trained, by name.

    Args:
        seeds: of each size.
        scale: of the steps.
    """
    points = [
        space.product(space.point(name, _values(*size, scale)), space.seeds(seeds)) for name, size in SIZES.items()
    ]
    return space.configs(dataclasses.replace(BASE, name=''), space.chain(*points))


def _values(width: int, layers: int, steps: int, rate: float, scale: float) -> dict[str, object]:
    steps = max(2, round(steps * scale))
    return {
        'model': dataclasses.replace(BASE.model, width=width, num_layers=layers, context_length=256),
        'optimizer': AdamW(learning_rate=rate),
        'schedule': Cosine(horizon=steps, warmup=max(1, steps // 10)),
        'training': TrainingConfig(steps=steps, batch_size=8),
    }
