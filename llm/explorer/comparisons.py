"""Two traces of the same tokens, number by number: edited and not, two runs, two checkpoints of one."""

from typing import Any

import numpy as np

from llm import config_json
from llm.errors import UserError
from llm.explorer import arrays, layers, readings
from llm.explorer.blocks import bits_per_byte
from llm.explorer.edits import require
from llm.explorer.traces import Spec, Traces

SHOWN = 15  # tokens whose probability changed most
LONGEST_PATTERNS = 512  # tokens; beyond, comparing all patterns is too slow for a page


def compare(traces: Traces, left: Spec, right: Spec, position: int) -> dict[str, Any]:
    """What differs.

    Raises:
        UserError: if the runs' tokenizers differ, or the prompts' tokens.
    """
    traces.runs.check_comparable(left.run, right.run)
    if left.tokens != right.tokens:
        raise UserError('the two traces are of different tokens; compare traces of the same prompt')
    one, other = traces.get(left), traces.get(right)
    logits = [readings.logits_at(traces, spec, position) for spec in (left, right)]
    _check_vocabularies(*logits)
    log_probs = [readings.log_probs(x) for x in logits]
    before, after = (np.exp(x) for x in log_probs)
    tokenizer = traces.runs[left.run].tokenizer
    changed = np.argsort(-np.abs(after - before), kind='stable')[:SHOWN]
    cosine = ratio = None
    if one.streams.shape == other.streams.shape:
        sizes = [np.maximum(np.linalg.norm(trace.streams, axis=-1), 1e-30) for trace in (one, other)]
        cosine = arrays.packed(np.sum(one.streams * other.streams, axis=-1) / (sizes[0] * sizes[1]))
        ratio = arrays.packed(sizes[1] / sizes[0])
    return {
        'same_tokens': True,
        'divergence': arrays.packed(_divergence(traces, left, right)),
        'residual_cosine': cosine,
        'residual_ratio': ratio,
        'pattern_distance': _pattern_distance(traces, left, right),
        'loss': {'left': _mean(one.losses), 'right': _mean(other.losses)},
        'next': [
            {'token': arrays.token(tokenizer, i), 'left': float(before[i]), 'right': float(after[i])} for i in changed
        ],
        'entropy': {'left': _entropy(log_probs[0]), 'right': _entropy(log_probs[1])},
        'logit_difference': {
            'largest': float(np.max(np.abs(logits[1] - logits[0]))),
            'mean': float(np.mean(np.abs(logits[1] - logits[0]))),
        },
        'config': _config_differences(traces, left, right),
    }


def _check_vocabularies(left, right):
    if len(left) != len(right):
        raise UserError(
            f'the models know {len(left)} and {len(right)} token ids, so their probabilities differ in kind'
        )


def _mean(losses: np.ndarray) -> float | None:
    return float(np.mean(losses[1:], dtype=np.float64)) if len(losses) > 1 else None


def _entropy(log_probs: np.ndarray) -> float:
    return float(-np.sum(np.exp(log_probs) * log_probs))


def _divergence(traces: Traces, left: Spec, right: Spec) -> np.ndarray:
    """KL(left, right) in nats of what follows each position."""
    found = np.empty(len(left.tokens), np.float32)
    for start in range(0, len(found), layers.AT_ONCE):
        pair = []
        for spec in (left, right):
            rows = traces.get(spec).streams[-1, start : start + layers.AT_ONCE]
            padded = layers.padded_rows(rows, layers.AT_ONCE)
            logits = layers.logits(traces.runs[spec.run].model, traces.params(spec), padded)
            pair.append(readings.log_probs(np.asarray(logits)[: len(rows)]))
        found[start : start + layers.AT_ONCE] = np.sum(np.exp(pair[0]) * (pair[0] - pair[1]), axis=-1)
    return found


def _pattern_distance(traces: Traces, left: Spec, right: Spec) -> dict[str, Any] | None:
    """Mean total variation between the weights of each head: 0 where it looks at the same, 1 at other tokens."""
    models = [traces.runs[spec.run].model for spec in (left, right)]
    shapes = {(model.num_layers, model.num_heads) for model in models}
    length = len(left.tokens)
    if len(shapes) > 1 or length > LONGEST_PATTERNS:
        return None
    found = []
    for layer in range(models[0].num_layers):
        one, other = (traces.attention(spec, layer)[1] for spec in (left, right))
        found.append(0.5 * np.mean(np.sum(np.abs(one - other), axis=-1), axis=-1))
    return arrays.packed(np.stack(found))


def _config_differences(traces: Traces, left: Spec, right: Spec) -> list[dict[str, Any]]:
    """Fields of the two configs that differ, by dotted name."""
    configs = [traces.runs[spec.run].config for spec in (left, right)]
    found = config_json.difference(*configs)
    return [{'name': name, 'left': one, 'right': other} for name, (one, other) in found.items()]


def moment(traces: Traces, spec: Spec, token: int | None) -> dict[str, Any]:
    """What a checkpoint makes of a prompt, in short: one point of the curve over training."""
    run, losses = traces.runs[spec.run], traces.get(spec).losses
    probabilities = np.exp(readings.log_probs(readings.logits_at(traces, spec, len(spec.tokens) - 1)))
    probability = rank = None
    if token is not None:
        require('token', token, run.model.vocab_size)
        probability, rank = float(probabilities[token]), int(np.sum(probabilities > probabilities[token]))
    return {
        'step': spec.step,
        'trace': spec.id,
        'bits_per_byte': bits_per_byte(run, spec, losses),
        'loss': arrays.packed(losses),
        'next': readings.table(run.tokenizer, probabilities, 10),
        'probability': probability,
        'rank': rank,
    }
