"""The fixtures would notice: if what a family says is wrong by a little, the logits are not those of transformers."""

import dataclasses

import jax
import numpy as np
import pytest

from llm.interop.huggingface import load
from llm.model import Transformer

pytestmark = pytest.mark.slow

WRONG = [
    ('gpt2', {'activation': 'gelu_exact'}),
    ('gpt2', {'norm_epsilon': 1e-3}),
    ('gpt2_untied', {'activation': 'gelu'}),
    ('llama3', {'rope_base': 900.0}),
    ('llama3', {'rope_factor': 7.0}),
    ('llama3', {'rope_slow_turns': 1.2}),
    ('llama3', {'rope_fast_turns': 5.0}),
    ('llama3', {'rope_original_context': 30}),
    ('llama_linear', {'rope_factor': 2.9}),
    ('llama_linear', {'norm_epsilon': 1e-6}),
    ('llama_yarn', {'rope_factor': 3.9}),
    ('llama_yarn', {'rope_amplitude': 1.1}),
    ('llama_yarn', {'rope_slow_turns': 0.2}),
    ('llama_yarn', {'rope_original_context': 96}),
    ('llama_yarn', {'rope_whole_pairs': False}),
    ('mistral', {'windows': (6,)}),
    ('qwen2', {'windows': (None,)}),
    ('qwen2', {'windows': (4, None)}),
    ('qwen2', {'rope_amplitude': None}),
    ('qwen3', {'activation': 'geglu'}),
    ('gemma', {'embedding_scale': 4.8}),
    ('gemma', {'activation': 'geglu_exact'}),
    ('gemma2', {'attention_scale': 0.39}),
    ('gemma2', {'attention_softcap': 2.1}),
    ('gemma2', {'logit_softcap': 3.1}),
    ('gemma2', {'windows': (None, 4)}),
    ('gemma3', {'local_rope_base': None}),
    ('gemma3', {'rope_factor': 7.5}),
    ('gemma3', {'windows': (4, None, None)}),
    ('gemma3', {'attention_scale': 0.46}),
]


@pytest.mark.parametrize(('name', 'change'), WRONG, ids=lambda value: str(value))
def test_a_small_change_is_seen(name, change, saved_model):
    config, params = load(saved_model(name))
    with np.load(saved_model(name) / 'reference.npz') as reference:
        tokens, expected = reference['tokens'], reference['logits']
    model = Transformer(dataclasses.replace(config.model, **change))
    logits = jax.jit(model.apply)({'params': params}, tokens).logits
    assert np.abs(logits - expected).max() > 1e-3
