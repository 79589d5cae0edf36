"""What a run would be, before it is one: sizes, costs and totals from its config alone."""

import json
from typing import Any

from llm import config_json
from llm.analysis import flops, memory, units
from llm.config import Config


def plan(config: Config) -> dict[str, Any]:
    """Predicts a run from its config; nothing is allocated or read.

    Returns:
        `config` (nested), `config_hash`, `identity_hash`, `parameters` (`total`; `by_part`: name to shape and count),
        `flops_version`, `training_flops_per_token` and `total_training_flops` by convention, `memory_bytes` of one
        training step on one device by part and in `total`, `tokens_per_step`, and `total_tokens` that the run's steps
        read (the padding of a corpus's last window included).
    """
    table = memory.parameter_table(config.model)
    estimate = memory.memory_estimate(config)
    tokens_per_step = config.training.batch_size * config.data.sequence_length
    total_tokens = tokens_per_step * config.training.steps
    per_token = {convention: flops.flops_per_text_token(config, convention) for convention in flops.CONVENTIONS}
    return {
        'config': config_json.to_dict(config),
        'config_hash': config_json.config_hash(config),
        'identity_hash': config_json.identity_hash(config),
        'parameters': {
            'total': sum(row.count for row in table),
            'by_part': {row.part: {'shape': list(row.shape), 'count': row.count} for row in table},
        },
        'flops_version': flops.VERSION,
        'training_flops_per_token': per_token,
        'total_training_flops': {convention: value * total_tokens for convention, value in per_token.items()},
        'memory_bytes': estimate.parts() | {'total': estimate.total},
        'tokens_per_step': tokens_per_step,
        'total_tokens': total_tokens,
    }


def text(prediction: dict[str, Any]) -> str:
    """`plan`'s result for a terminal."""
    parameters, steps = prediction['parameters'], prediction['config']['training']['steps']
    parts = [
        [name, ' x '.join(map(str, part['shape'])), f'{part["count"]:,}']
        for name, part in parameters['by_part'].items()
    ]
    total_flops = prediction['total_training_flops']
    costs = [
        [convention, units.flops(value), units.flops(total_flops[convention])]
        for convention, value in prediction['training_flops_per_token'].items()
    ]
    sizes = [[name, units.size(value)] for name, value in prediction['memory_bytes'].items()]
    return '\n\n'.join(
        [
            f'Config {prediction["config_hash"]} (identity {prediction["identity_hash"]})',
            '\n'.join(_lines(prediction['config'])),
            units.table(['Parameters', 'shape', 'count'], [*parts, ['total', '', f'{parameters["total"]:,}']]),
            units.table(['Training FLOPs', 'per token', 'whole run'], costs),
            units.table(['Memory of a step (one device, predicted)', 'size'], sizes),
            f'Tokens: {prediction["tokens_per_step"]:,} per step x {steps:,} steps = {prediction["total_tokens"]:,}',
        ]
    )


def _lines(section: dict[str, Any], indent: str = '') -> list[str]:
    lines = []
    for name, value in section.items():
        if isinstance(value, dict):
            lines += [f'{indent}{name}:', *_lines(value, indent + '  ')]
        else:
            lines.append(f'{indent}{name}: {json.dumps(value, ensure_ascii=False)}')
    return lines
