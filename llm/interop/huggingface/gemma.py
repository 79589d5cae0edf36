"""Gemma (Gemma Team 2024), Gemma 2 (2024) and the text model of Gemma 3 (2025)."""

import math
from typing import Any

from llm.config import ModelConfig
from llm.interop.huggingface.family import (
    DEFAULTS,
    ENDS,
    FULL,
    GATED,
    PRE_NORMS,
    PROJECTIONS,
    QK_NORMS,
    WINDOWED,
    Family,
    read_decoder,
    read_windows,
    scales,
    theirs,
    write_decoder,
    write_windows,
)
from llm.interop.huggingface.fields import Fields
from llm.interop.huggingface.llama import ATTENTION_BIASES
from llm.interop.huggingface.rope import read_object, read_rope

# The first files say gelu and mean the tanh form.
FIRST_ACTIVATIONS = {'gelu_pytorch_tanh': 'geglu', 'gelu': 'geglu', 'silu': 'swiglu'}
BOTH_NORMS = scales(
    ('attention_norm', 'input_layernorm'),
    ('attention_post_norm', 'post_attention_layernorm'),
    ('feed_forward_norm', 'pre_feedforward_layernorm'),
    ('feed_forward_post_norm', 'post_feedforward_layernorm'),
)


def _read_common(fields: Fields) -> dict[str, Any]:
    fields.expect('use_bidirectional_attention', False)
    decoder = read_decoder(fields)
    return {
        **decoder,
        'norm_unit_offset': True,
        'embedding_scale': math.sqrt(decoder['width']),
        'biases': list(ATTENTION_BIASES if fields.get('attention_bias') else ()),
    }


def _write_common(model: ModelConfig) -> dict[str, Any]:
    return {**write_decoder(model), 'attention_bias': 'query' in model.biases}


def _read_gemma(fields: Fields) -> dict[str, Any]:
    return {
        **_read_common(fields),
        **read_rope(fields),
        'activation': fields.choose('hidden_act', FIRST_ACTIVATIONS),
    }


def _write_gemma(model: ModelConfig) -> dict[str, Any]:
    return {**_write_common(model), 'hidden_act': theirs(FIRST_ACTIVATIONS, model.activation)}


def _read_both(fields: Fields) -> dict[str, Any]:
    """What Gemma 2 and 3 share."""
    return {
        **_read_common(fields),
        'activation': fields.choose('hidden_activation', GATED),
        'norm_placement': 'both',
        'attention_scale': fields.size('query_pre_attn_scalar') ** -0.5,
    }


def _write_both(model: ModelConfig) -> dict[str, Any]:
    scale = model.attention_scale or model.key_size**-0.5
    return {
        **_write_common(model),
        **write_windows(model),
        'hidden_activation': theirs(GATED, model.activation),
        'query_pre_attn_scalar': round(scale**-2),
        'final_logit_softcapping': model.logit_softcap,
    }


def _read_gemma2(fields: Fields) -> dict[str, Any]:
    kinds = [FULL if i % 2 else WINDOWED for i in range(fields.size('num_hidden_layers'))]
    return {
        **_read_both(fields),
        **read_rope(fields),
        **read_windows(fields, kinds, fields.size_or('sliding_window', None)),
        'attention_softcap': fields.get('attn_logit_softcapping'),
        'logit_softcap': fields.get('final_logit_softcapping'),
    }


def _write_gemma2(model: ModelConfig) -> dict[str, Any]:
    return _write_both(model) | {'attn_logit_softcapping': model.attention_softcap}


def _read_gemma3(fields: Fields) -> dict[str, Any]:
    fields.expect('attn_logit_softcapping', None)
    every = fields.size_or('sliding_window_pattern', 6)  # one in so many sees everything
    kinds = [WINDOWED if (i + 1) % every else FULL for i in range(fields.size('num_hidden_layers'))]
    windows = read_windows(fields, kinds, fields.size_or('sliding_window', None))
    ours = {
        **_read_both(fields),
        **windows,
        **read_rope(fields, FULL),
        'qk_norm': True,
        'logit_softcap': fields.get('final_logit_softcapping'),
    }
    if any(windows['windows']):
        ours['local_rope_base'] = _local_base(fields)
    return ours


def _local_base(fields: Fields) -> float:
    """Of the layers with a window, which are not scaled."""
    settings = read_object(fields, 'rope_parameters', WINDOWED, alone=True)
    if settings.get('rope_type', 'default') != 'default':
        raise fields.error(f'RoPE type {settings["rope_type"]!r} of {WINDOWED} layers cannot be read; only default can')
    return settings.get('rope_theta') or fields.get('rope_local_base_freq')


def _write_gemma3(model: ModelConfig) -> dict[str, Any]:
    return _write_both(model) | {'rope_local_base_freq': model.local_rope_base or model.rope_base}


_GEMMA = DEFAULTS | {
    'vocab_size': 256_000,
    'num_hidden_layers': 28,
    'hidden_size': 3072,
    'num_attention_heads': 16,
    'num_key_value_heads': 16,
    'intermediate_size': 24_576,
    'head_dim': 256,
    'max_position_embeddings': 8192,
    'hidden_act': 'gelu_pytorch_tanh',
    'hidden_activation': 'gelu_pytorch_tanh',
    'tie_word_embeddings': True,
}
_GEMMA2 = _GEMMA | {
    'num_hidden_layers': 26,
    'hidden_size': 2304,
    'num_attention_heads': 8,
    'num_key_value_heads': 4,
    'intermediate_size': 9216,
    'query_pre_attn_scalar': 256,
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
}
_GEMMA3 = _GEMMA2 | {
    'vocab_size': 262_208,
    'max_position_embeddings': 131_072,
    'attn_logit_softcapping': None,
    'final_logit_softcapping': None,
    'rope_theta': 1_000_000.0,
    'rope_local_base_freq': 10_000.0,
    'sliding_window_pattern': 6,
}
_FIRST = (*ENDS, *PRE_NORMS, *PROJECTIONS)
_LATER = (*ENDS, *BOTH_NORMS, *PROJECTIONS)
_THIRD = (*_LATER, *QK_NORMS)

GEMMA = Family('gemma', 'GemmaForCausalLM', 'model.', _FIRST, _read_gemma, _write_gemma, _GEMMA)
GEMMA2 = Family('gemma2', 'Gemma2ForCausalLM', 'model.', _LATER, _read_gemma2, _write_gemma2, _GEMMA2)
GEMMA3 = Family('gemma3_text', 'Gemma3ForCausalLM', 'model.', _THIRD, _read_gemma3, _write_gemma3, _GEMMA3)
