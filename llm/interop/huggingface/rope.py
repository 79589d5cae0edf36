"""RoPE's base and scaling between config.json and ours.

Read are `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (before); the latter, which both
understand, is what is written. Where a file has both, `rope_scaling` counts, as in transformers.
"""

import math
from typing import Any

from llm.config import ModelConfig
from llm.interop.huggingface.fields import Fields

REFUSED = {
    'dynamic': 'its frequencies depend on how long the text has become, so what is cached would be wrong',
    'longrope': 'it is of families that are not read',
}
NUMBERS = (
    *('rope_theta', 'factor', 'original_max_position_embeddings', 'low_freq_factor', 'high_freq_factor'),
    *('beta_slow', 'beta_fast', 'attention_factor', 'mscale', 'mscale_all_dim'),
)


def read_rope(fields: Fields, layers: str | None = None) -> dict[str, Any]:
    """Fields of `ModelConfig`.

    Args:
        fields: of config.json.
        layers: which kind of layers, where `rope_parameters` tells them apart: 'full_attention'.

    Raises:
        UserError: for a kind of scaling that is unknown, or not to be had here.
    """
    settings = _settings(fields, layers)
    kind = settings.get('rope_type') or settings.get('type') or 'default'
    _check_numbers(fields, settings)
    partial = settings.get('partial_rotary_factor') or fields.get('partial_rotary_factor') or 1.0
    if partial != 1.0:
        raise fields.error(f'partial_rotary_factor is {partial!r}; only whole heads can be rotated')
    base = settings.get('rope_theta') or fields.get('rope_theta')
    ours = {'rope_base': base}
    if kind == 'default':
        return ours
    if kind not in ('linear', 'llama3', 'yarn'):
        reason = REFUSED.get(kind if isinstance(kind, str) else '', 'it is unknown here')
        raise fields.error(f'RoPE type {kind!r} cannot be read: {reason}; default, linear, llama3 and yarn can')
    ours |= {'rope_scaling': kind, 'rope_factor': settings.get('factor')}
    if kind != 'linear':
        longest = fields.get('max_position_embeddings')
        original = settings.get('original_max_position_embeddings') or longest
        ours['rope_original_context'] = fields.get('original_max_position_embeddings') or original
    if kind == 'llama3':
        ours |= {
            'rope_slow_turns': settings.get('low_freq_factor'),
            'rope_fast_turns': settings.get('high_freq_factor'),
        }
    if kind == 'yarn':
        if ours['rope_factor'] is None and ours['rope_original_context'] and longest:
            ours['rope_factor'] = longest / ours['rope_original_context']
        ours |= {
            'rope_slow_turns': settings.get('beta_slow') or 1.0,
            'rope_fast_turns': settings.get('beta_fast') or 32.0,
            'rope_whole_pairs': settings.get('truncate', True),
            'rope_amplitude': _amplitude(settings, ours['rope_factor']),
        }
    for name in ('rope_factor', 'rope_slow_turns', 'rope_fast_turns', 'rope_original_context'):
        if name in ours and ours[name] is None:
            raise fields.error(f'RoPE type {kind} lacks a number: {name} would be {ours[name]!r}')
    return ours


def _settings(fields: Fields, layers: str | None) -> dict[str, Any]:
    scaling, parameters = (read_object(fields, name, layers) for name in ('rope_scaling', 'rope_parameters'))
    # Of layers of several kinds the scaling changes the parameters of one; of others it takes their place.
    return scaling or parameters if layers is None else parameters | scaling


def read_object(fields: Fields, name: str, layers: str | None, alone: bool = False) -> dict[str, Any]:
    """A field that holds settings, empty where it is absent.

    Args:
        fields: of config.json.
        name: of the field.
        layers: which kind of layers, where it tells them apart.
        alone: whether what it says of all layers is not meant.

    Raises:
        UserError: if it is no object.
    """
    settings = fields.get(name) or {}
    if layers is not None and isinstance(settings, dict) and (alone or layers in settings):
        settings = settings.get(layers) or {}
    if not isinstance(settings, dict):
        raise fields.error(f'{name} is {settings!r}; it must be an object')
    return settings


def _check_numbers(fields: Fields, settings: dict[str, Any]) -> None:
    """Refuses settings that are no numbers, or none that are finite."""
    own = 'original_max_position_embeddings'  # may stand outside of the settings
    for name, value in [*((name, settings.get(name)) for name in NUMBERS), (own, fields.get(own))]:
        number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e30
        if value is not None and not number:
            raise fields.error(f'{name} of RoPE is {value!r}; it must be a number')


def _amplitude(settings: dict[str, Any], factor: Any) -> float | None:
    """None where it follows from the factor."""
    if settings.get('attention_factor') is not None:
        return float(settings['attention_factor'])
    over, under = settings.get('mscale'), settings.get('mscale_all_dim')
    if not (over and under):
        return None
    scale = lambda weight: 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
    return scale(over) / scale(under)


def write_rope(model: ModelConfig) -> dict[str, Any]:
    """The fields of config.json that say what a model's do."""
    theirs: dict[str, Any] = {'rope_theta': model.rope_base}
    if model.rope_scaling == 'none':
        return theirs
    scaling: dict[str, Any] = {'rope_type': model.rope_scaling, 'factor': model.rope_factor}
    if model.rope_scaling != 'linear':
        scaling['original_max_position_embeddings'] = model.rope_original_context
    if model.rope_scaling == 'llama3':
        scaling |= {'low_freq_factor': model.rope_slow_turns, 'high_freq_factor': model.rope_fast_turns}
    if model.rope_scaling == 'yarn':
        scaling |= {'beta_slow': model.rope_slow_turns, 'beta_fast': model.rope_fast_turns}
        scaling['truncate'] = model.rope_whole_pairs
        if model.rope_amplitude is not None:
            scaling['attention_factor'] = model.rope_amplitude
    return theirs | {'rope_scaling': scaling}
