"""Feed-forward neurons as memories: what each fires on, what it promotes, and whether the two agree."""

from typing import Any

import numpy as np

from experiments.probing.windows import Windows
from llm.analysis import memories, statistics
from llm.config import ModelConfig
from llm.tokenizer import Tokenizer

CONTEXT = 16  # tokens shown up to the place where a neuron fires


def measure(
    params: Any,
    config: ModelConfig,
    tokenizer: Tokenizer,
    windows: Windows,
    triggers: memories.Triggers,
    shown: int,
    shuffles: int = 1000,
) -> list[dict[str, Any]]:
    """By layer: how often a neuron promotes the very token that follows where it fires most, and some neurons.

    Args:
        params: the model's.
        config: the model's.
        tokenizer: the model's.
        windows: what `triggers` has read, all of it.
        triggers: where neurons fired.
        shown: neurons of each layer, half of them those that write most, the others drawn at random.
        shuffles: of the places among the neurons, for what chance reaches.
    """
    strongest, places = triggers.strongest()
    draw = np.random.default_rng(0)
    layers = []
    for layer in range(config.num_layers):
        said, fired = _what_follows(windows, strongest[layer], places[layer])
        norms = np.linalg.norm(np.asarray(memories.value_rows(params, config, layer)), axis=1)
        by_size = np.argsort(-np.where(fired, strongest[layer] * norms, -np.inf), kind='stable')
        firing = np.flatnonzero(fired)
        loudest = by_size[: min(shown - shown // 2, len(firing))]
        others = np.setdiff1d(firing, loudest)
        at_random = draw.choice(others, min(shown // 2, len(others)), replace=False)
        chosen = [*((n, 'writes most') for n in loudest), *((n, 'at random') for n in at_random)]
        layers.append(
            {
                'neurons': config.hidden_width,
                'fired': len(firing),
                **_agreement(params, config, layer, firing, said[firing], draw, shuffles),
                'shown': [
                    _neuron(params, config, tokenizer, windows, triggers, layer, int(n), why) for n, why in chosen
                ],
            }
        )
    return layers


def _what_follows(windows, strongest, places) -> tuple[np.ndarray, np.ndarray]:
    """Of each neuron the token behind the place where it fired most, and whether it fired and there is such a token."""
    row, position = places.T
    behind = np.minimum(position + 1, windows.tokens.shape[1] - 1)
    return windows.tokens[row, behind], (strongest > 0) & (behind > position) & windows.real[row, behind]


def _agreement(params, config, layer, firing, said, draw, shuffles) -> dict[str, Any]:
    """How often what follows is a neuron's first token, or among its first ten; None where no neuron fires."""
    if not len(firing):
        return {'agreement': None, 'chance': None}
    ids, _ = memories.promoted(params, config, layer, firing, 10)
    within = {'1': ids[:, :1], '10': ids}
    chance = {k: [] for k in within}
    for _ in range(shuffles):
        other = draw.permutation(said)[:, None]
        for k, promoted in within.items():
            chance[k].append(float((promoted == other).any(axis=1).mean()))
    agreement = {}
    for k, promoted in within.items():
        hits = int((promoted == said[:, None]).any(axis=1).sum())
        agreement[k] = statistics.wilson_interval(hits, len(firing))._asdict()
        low, high = np.quantile(chance[k], [0.025, 0.975])
        chance[k] = {'mean': float(np.mean(chance[k])), 'low': float(low), 'high': float(high)}
    return {'agreement': agreement, 'chance': chance}


def _neuron(params, config, tokenizer, windows, triggers, layer, neuron, why) -> dict[str, Any]:
    ids, logits = memories.promoted(params, config, layer, [neuron], 8)
    contexts = []
    for activation, row, position in triggers.of(layer, neuron):
        tokens, real = windows.tokens[row], windows.real[row]
        ahead = position + 1 < len(tokens) and real[position + 1]
        contexts.append(
            {
                'activation': activation,
                'text': tokenizer.decode(tokens[max(0, position + 1 - CONTEXT) : position + 1], continued=True),
                'next': tokenizer.piece(int(tokens[position + 1])) if ahead else None,
                'document': windows.documents[windows.document[row]],
            }
        )
    promotes = [(tokenizer.piece(int(i)), float(x)) for i, x in zip(ids[0], logits[0])]
    return {'neuron': neuron, 'why': why, 'promotes': promotes, 'contexts': contexts}
