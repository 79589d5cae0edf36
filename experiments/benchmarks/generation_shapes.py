"""What `against_transformers.py` reads and writes: the models' shapes and the prompts, the same on both sides."""

import numpy as np

SHAPES = {
    'gpt2': {
        'family': 'gpt2',
        'vocabulary': 50257,
        'length': 1024,
        'layers': 12,
        'width': 768,
        'heads': 12,
        'kv_heads': 12,
        'hidden': 3072,
    },
    'llama': {
        'family': 'llama',
        'vocabulary': 32000,
        'length': 1024,
        'layers': 12,
        'width': 768,
        'heads': 12,
        'kv_heads': 4,
        'hidden': 2048,
    },
    'tiny': {
        'family': 'llama',
        'vocabulary': 512,
        'length': 256,
        'layers': 2,
        'width': 64,
        'heads': 4,
        'kv_heads': 2,
        'hidden': 128,
    },
}
ROPE_BASE = 10_000.0
EPSILON = {'gpt2': 1e-5, 'llama': 1e-6}


def prompts(shape: dict, rows: int, length: int, number: int = 0) -> np.ndarray:
    """Random ids (rows, length), other ones for another `number`; none of the first three, which may be special."""
    return np.random.default_rng([number, rows, length]).integers(3, shape['vocabulary'], (rows, length))
