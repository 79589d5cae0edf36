"""The rows that both sides of `against_trl.py` read: NumPy alone, for two environments."""

import numpy as np

SHAPES = {
    'tiny': {'vocabulary': 64, 'layers': 2, 'width': 64, 'heads': 4, 'hidden': 176, 'prompt': 8, 'response': 24},
    'small': {'vocabulary': 512, 'layers': 4, 'width': 128, 'heads': 4, 'hidden': 352, 'prompt': 32, 'response': 96},
    'medium': {'vocabulary': 4096, 'layers': 4, 'width': 192, 'heads': 4, 'hidden': 512, 'prompt': 64, 'response': 192},
}
for shape in SHAPES.values():
    shape |= {'pairs': 16, 'prompts': 8, 'samples': 8}
RATES = {'learning_rate': 1e-3, 'weight_decay': 0.1, 'b1': 0.9, 'b2': 0.95, 'epsilon': 1e-8, 'clip_norm': 1.0}
BETA = 0.1
PAD, EOS, FIRST = 0, 2, 3  # ids from FIRST on are drawn


def length_of(shape: dict) -> int:
    return shape['prompt'] + shape['response']


def pairs(shape: dict) -> dict[str, np.ndarray]:
    """Preferences: chosen and rejected responses to one prompt each, right-padded, of 25 to 100% of the longest."""
    draw, rows = np.random.RandomState(0), shape['pairs']
    prompt_lengths = draw.randint(shape['prompt'] // 2, shape['prompt'] + 1, rows)
    lengths = prompt_lengths[:, None] + draw.randint(shape['response'] // 4, shape['response'] + 1, (rows, 2))
    tokens = draw.randint(FIRST, shape['vocabulary'], (rows, 2, length_of(shape)))
    same = np.arange(length_of(shape))[None] < prompt_lengths[:, None]
    tokens[:, 1] = np.where(same, tokens[:, 0], tokens[:, 1])
    tokens[np.arange(length_of(shape)) >= lengths[..., None]] = PAD
    return _int32(tokens=tokens, prompt_lengths=np.stack([prompt_lengths] * 2, axis=1), lengths=lengths)


def responses(shape: dict) -> dict[str, np.ndarray]:
    """A rollout: `samples` responses to each of `prompts` prompts, with a reward for each."""
    draw, rows = np.random.RandomState(1), shape['prompts'] * shape['samples']
    prompts = prompts_of(shape)
    each = {name: np.repeat(x, shape['samples'], axis=0) for name, x in prompts.items()}
    lengths = each['prompt_lengths'] + draw.randint(shape['response'] // 4, shape['response'] + 1, rows)
    steps = np.arange(length_of(shape))[None]
    tokens = draw.randint(FIRST, shape['vocabulary'], (rows, length_of(shape)))
    padded = np.pad(each['prompts'], ((0, 0), (0, shape['response'])))
    tokens = np.where(steps < each['prompt_lengths'][:, None], padded, tokens)
    tokens[steps >= lengths[:, None]] = PAD
    rewards = draw.randn(rows).astype(np.float32)
    return _int32(tokens=tokens, prompt_lengths=each['prompt_lengths'], lengths=lengths) | {'rewards': rewards}


def prompts_of(shape: dict) -> dict[str, np.ndarray]:
    """Prompts of 50 to 100% of the longest, right-padded."""
    draw, rows = np.random.RandomState(2), shape['prompts']
    lengths = draw.randint(shape['prompt'] // 2, shape['prompt'] + 1, rows)
    prompts = draw.randint(FIRST, shape['vocabulary'], (rows, shape['prompt']))
    prompts[np.arange(shape['prompt'])[None] >= lengths[:, None]] = PAD
    return _int32(prompts=prompts, prompt_lengths=lengths)


def _int32(**arrays):
    return {name: x.astype(np.int32) for name, x in arrays.items()}
