"""Llama (Touvron et al. 2023; Grattafiori et al. 2024) and what is built like it: Mistral, Qwen2, Qwen3."""

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
    theirs,
    write_decoder,
    write_windows,
)
from llm.interop.huggingface.fields import Fields
from llm.interop.huggingface.rope import read_rope

ATTENTION_BIASES = ('query', 'key', 'value', 'attention_output')
QWEN2_BIASES = ('query', 'key', 'value')  # always these


def _read_llama(fields: Fields) -> dict[str, Any]:
    biases = ATTENTION_BIASES if fields.get('attention_bias') else ()
    biases += ('feed_forward',) if fields.get('mlp_bias') else ()
    return {
        **read_decoder(fields),
        **read_rope(fields),
        'activation': fields.choose('hidden_act', GATED),
        'biases': list(biases),
    }


def _write_llama(model: ModelConfig) -> dict[str, Any]:
    return {
        **write_decoder(model),
        'hidden_act': theirs(GATED, model.activation),
        'attention_bias': 'query' in model.biases,
        'mlp_bias': 'feed_forward' in model.biases,
    }


def _read_mistral(fields: Fields) -> dict[str, Any]:
    return {
        **read_decoder(fields),
        **read_rope(fields),
        'activation': fields.choose('hidden_act', GATED),
        'windows': [fields.size_or('sliding_window', None)],
    }


def _write_mistral(model: ModelConfig) -> dict[str, Any]:
    return {
        **write_decoder(model),
        'hidden_act': theirs(GATED, model.activation),
        'sliding_window': model.layer_windows[0],
    }


def _read_qwen(fields: Fields) -> dict[str, Any]:
    window = fields.size_or('sliding_window', None) if fields.get('use_sliding_window') else None
    first = fields.size('max_window_layers', 0)  # the layers before it see everything
    kinds = [FULL if window is None or i < first else WINDOWED for i in range(fields.size('num_hidden_layers'))]
    return {
        **read_decoder(fields),
        **read_rope(fields),
        **read_windows(fields, kinds, window),
        'activation': fields.choose('hidden_act', GATED),
    }


def _write_qwen(model: ModelConfig) -> dict[str, Any]:
    windows = write_windows(model)
    return {
        **write_decoder(model),
        **windows,
        'use_sliding_window': windows['sliding_window'] is not None,
        'hidden_act': theirs(GATED, model.activation),
    }


def _read_qwen2(fields: Fields) -> dict[str, Any]:
    return _read_qwen(fields) | {'biases': list(QWEN2_BIASES)}


def _read_qwen3(fields: Fields) -> dict[str, Any]:
    biases = ATTENTION_BIASES if fields.get('attention_bias') else ()
    return _read_qwen(fields) | {'biases': list(biases), 'qk_norm': True}


def _write_qwen3(model: ModelConfig) -> dict[str, Any]:
    return _write_qwen(model) | {'attention_bias': 'query' in model.biases}


TABLE = (*ENDS, *PRE_NORMS, *PROJECTIONS)
_LLAMA = DEFAULTS | {'vocab_size': 32_000, 'intermediate_size': 11_008, 'max_position_embeddings': 2048}
_MISTRAL = _LLAMA | {'intermediate_size': 14_336, 'num_key_value_heads': 8, 'max_position_embeddings': 131_072}
_QWEN = DEFAULTS | {'vocab_size': 151_936, 'intermediate_size': 22_016, 'max_position_embeddings': 32_768}
_QWEN |= {'num_key_value_heads': 32, 'max_window_layers': 28}

LLAMA = Family('llama', 'LlamaForCausalLM', 'model.', TABLE, _read_llama, _write_llama, _LLAMA)
MISTRAL = Family('mistral', 'MistralForCausalLM', 'model.', TABLE, _read_mistral, _write_mistral, _MISTRAL)
QWEN2 = Family('qwen2', 'Qwen2ForCausalLM', 'model.', TABLE, _read_qwen2, _write_qwen, _QWEN)
QWEN3 = Family(
    'qwen3',
    'Qwen3ForCausalLM',
    'model.',
    (*TABLE, *QK_NORMS),
    _read_qwen3,
    _write_qwen3,
    _QWEN | {'head_dim': 128},
)
