"""The families there are, and which of them a model belongs to."""

import dataclasses
import math
from typing import Any

from llm import config_json
from llm.config import ModelConfig
from llm.errors import UserError
from llm.interop.huggingface.family import Family
from llm.interop.huggingface.fields import Fields
from llm.interop.huggingface.gemma import GEMMA, GEMMA2, GEMMA3
from llm.interop.huggingface.gpt2 import GPT2
from llm.interop.huggingface.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from llm.model.parametrization import attention_scale
from llm.model.rope import yarn_amplitude

# In the order in which a model of ours is offered to them.
FAMILIES = {f.model_type: f for f in (LLAMA, QWEN3, QWEN2, MISTRAL, GPT2, GEMMA, GEMMA2, GEMMA3)}

# Fields that say how a model starts, trains or is computed, not what function its parameters make.
NOT_THE_FUNCTION = {
    *('init_std', 'init_kernel', 'init_output', 'dropout', 'remat', 'base_width', 'attention_backend'),
    *('param_dtype', 'compute_dtype', 'logit_dtype'),
}


def family_of(fields: Fields) -> Family:
    """The family of a config.json.

    Raises:
        UserError: if it is none of them, or the weights are quantized.
    """
    model_type = fields.get('model_type')
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise fields.error(f'model_type is {model_type!r}; the families that can be read are {", ".join(FAMILIES)}')
    if quantization := fields.get('quantization_config'):
        method = quantization.get('quant_method') if isinstance(quantization, dict) else quantization
        raise fields.error(f'the weights are quantized ({method!r}); get the model as it was before')
    return FAMILIES[model_type]


def read_model(family: Family, fields: Fields) -> ModelConfig:
    """The model that a config.json describes, in float32 until it is said otherwise.

    Raises:
        UserError: if it says what cannot be read.
    """
    values = family.read(fields.with_defaults(family.defaults))
    try:
        return config_json.from_dict(values, ModelConfig)
    except (UserError, OverflowError) as error:  # the latter of whole numbers of hundreds of digits
        raise fields.error(str(error)) from error


def family_for(model: ModelConfig, preferred: str | None = None) -> Family:
    """The family that can say what a model is; of several the one that adds the fewest biases, then the first.

    Args:
        model: to be exported.
        preferred: a family to try first.

    Raises:
        UserError: if there is none; names what the nearest family has otherwise.
    """
    order = sorted(FAMILIES.values(), key=lambda family: family.model_type != preferred)
    found = {family.model_type: differences(family, model) for family in order}
    if fitting := [FAMILIES[name] for name, fields in found.items() if not fields]:
        return min(fitting, key=lambda family: len(written(family, model).biases))
    nearest = min(found, key=lambda name: len(found[name]))
    said = ', '.join(f'model.{name} {ours!r} (it has {its!r})' for name, (ours, its) in found[nearest].items())
    raise UserError(f'no family of Hugging Face has this model; the nearest, {nearest}, cannot have {said}')


def differences(family: Family, model: ModelConfig) -> dict[str, tuple[Any, Any]]:
    """What becomes of a model that is written as one of a family and read again: fields, before and after.

    A bias more is no difference: it can be 0.
    """
    try:
        # A model without a feed-forward network would not be read at all: what it has beside that is compared.
        whole = model if model.hidden_width else dataclasses.replace(model, feed_forward_width=None)
        again = function(written(family, whole))
    except (UserError, ZeroDivisionError, OverflowError):
        again = {}
    before = function(model)
    changed = {n: (v, again.get(n)) for n, v in before.items() if not _same(v, again.get(n))}
    if set(before['biases']) <= set(again.get('biases', ())):
        changed.pop('biases', None)
    return changed


def written(family: Family, model: ModelConfig) -> ModelConfig:
    """The model that is read from what a family writes of one."""
    return read_model(family, Fields(family.write(model), family.model_type))


def function(model: ModelConfig) -> dict[str, Any]:
    """What a model computes: its fields, with those that follow from others filled in."""
    values = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in NOT_THE_FUNCTION}
    values |= {
        'num_kv_heads': model.kv_heads,
        'head_dim': model.key_size,
        'feed_forward_width': model.hidden_width,
        'attention_scale': attention_scale(model),
        'windows': model.layer_windows,
        'biases': tuple(sorted(model.biases)),
    }
    if model.position != 'rope':
        values['rope_base'] = None
    if model.rope_scaling == 'yarn':
        values['rope_amplitude'] = yarn_amplitude(model)
    return values


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b
