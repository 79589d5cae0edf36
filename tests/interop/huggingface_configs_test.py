"""The config.json of well-known models, as they were published, come to the models that are known to be behind them."""

import json

import jax
import pytest

from llm.config import ModelConfig
from llm.errors import UserError
from llm.interop.huggingface.families import FAMILIES, differences, family_for, family_of, function, read_model
from llm.interop.huggingface.fields import Fields
from llm.interop.huggingface.tensors import place
from llm.training.train_state import initial_model

GPT2 = {
    'model_type': 'gpt2',
    'activation_function': 'gelu_new',
    'attn_pdrop': 0.1,
    'layer_norm_epsilon': 1e-05,
    'n_ctx': 1024,
    'n_embd': 768,
    'n_head': 12,
    'n_layer': 12,
    'n_positions': 1024,
    'vocab_size': 50257,
}
LLAMA_2_7B = {
    'model_type': 'llama',
    'hidden_act': 'silu',
    'hidden_size': 4096,
    'intermediate_size': 11008,
    'max_position_embeddings': 4096,
    'num_attention_heads': 32,
    'num_hidden_layers': 32,
    'num_key_value_heads': 32,
    'pretraining_tp': 1,
    'rms_norm_eps': 1e-05,
    'rope_scaling': None,
    'tie_word_embeddings': False,
    'torch_dtype': 'float16',
    'vocab_size': 32000,
}
LLAMA_3_2_1B = {
    'model_type': 'llama',
    'attention_bias': False,
    'head_dim': 64,
    'hidden_act': 'silu',
    'hidden_size': 2048,
    'intermediate_size': 8192,
    'max_position_embeddings': 131072,
    'mlp_bias': False,
    'num_attention_heads': 32,
    'num_hidden_layers': 16,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-05,
    'rope_scaling': {
        'factor': 32.0,
        'high_freq_factor': 4.0,
        'low_freq_factor': 1.0,
        'original_max_position_embeddings': 8192,
        'rope_type': 'llama3',
    },
    'rope_theta': 500000.0,
    'tie_word_embeddings': True,
    'vocab_size': 128256,
}
MISTRAL_7B = {
    'model_type': 'mistral',
    'hidden_act': 'silu',
    'hidden_size': 4096,
    'intermediate_size': 14336,
    'max_position_embeddings': 32768,
    'num_attention_heads': 32,
    'num_hidden_layers': 32,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-05,
    'rope_theta': 10000.0,
    'sliding_window': 4096,
    'tie_word_embeddings': False,
    'vocab_size': 32000,
}
QWEN2_5_0_5B = {
    'model_type': 'qwen2',
    'hidden_act': 'silu',
    'hidden_size': 896,
    'intermediate_size': 4864,
    'max_position_embeddings': 32768,
    'max_window_layers': 24,
    'num_attention_heads': 14,
    'num_hidden_layers': 24,
    'num_key_value_heads': 2,
    'rms_norm_eps': 1e-06,
    'rope_theta': 1000000.0,
    'sliding_window': 32768,
    'tie_word_embeddings': True,
    'use_sliding_window': False,
    'vocab_size': 151936,
}
QWEN3_0_6B = {
    'model_type': 'qwen3',
    'attention_bias': False,
    'head_dim': 128,
    'hidden_act': 'silu',
    'hidden_size': 1024,
    'intermediate_size': 3072,
    'max_position_embeddings': 40960,
    'max_window_layers': 28,
    'num_attention_heads': 16,
    'num_hidden_layers': 28,
    'num_key_value_heads': 8,
    'rms_norm_eps': 1e-06,
    'rope_scaling': None,
    'rope_theta': 1000000,
    'sliding_window': None,
    'tie_word_embeddings': True,
    'use_sliding_window': False,
    'vocab_size': 151936,
}
GEMMA_2B = {
    'model_type': 'gemma',
    'head_dim': 256,
    'hidden_act': 'gelu',
    'hidden_size': 2048,
    'intermediate_size': 16384,
    'max_position_embeddings': 8192,
    'num_attention_heads': 8,
    'num_hidden_layers': 18,
    'num_key_value_heads': 1,
    'rms_norm_eps': 1e-06,
    'rope_scaling': None,
    'rope_theta': 10000.0,
    'vocab_size': 256000,
}
GEMMA_2_2B = {
    'model_type': 'gemma2',
    'attn_logit_softcapping': 50.0,
    'final_logit_softcapping': 30.0,
    'head_dim': 256,
    'hidden_act': 'gelu_pytorch_tanh',
    'hidden_activation': 'gelu_pytorch_tanh',
    'hidden_size': 2304,
    'intermediate_size': 9216,
    'max_position_embeddings': 8192,
    'num_attention_heads': 8,
    'num_hidden_layers': 26,
    'num_key_value_heads': 4,
    'query_pre_attn_scalar': 256,
    'rms_norm_eps': 1e-06,
    'rope_theta': 10000.0,
    'sliding_window': 4096,
    'vocab_size': 256000,
}
GEMMA_3_1B = {
    'model_type': 'gemma3_text',
    'attn_logit_softcapping': None,
    'final_logit_softcapping': None,
    'head_dim': 256,
    'hidden_activation': 'gelu_pytorch_tanh',
    'hidden_size': 1152,
    'intermediate_size': 6912,
    'max_position_embeddings': 32768,
    'num_attention_heads': 4,
    'num_hidden_layers': 26,
    'num_key_value_heads': 1,
    'query_pre_attn_scalar': 256,
    'rms_norm_eps': 1e-06,
    'rope_local_base_freq': 10000,
    'rope_scaling': None,
    'rope_theta': 1000000,
    'sliding_window': 512,
    'sliding_window_pattern': 6,
    'vocab_size': 262144,
}
# With the parameters that each is known to have, and some of what they compute.
PUBLISHED = {
    'gpt2': (GPT2, 124_439_808, {'context_length': 1024, 'tied_embeddings': True, 'activation': 'gelu'}),
    'llama_2_7b': (LLAMA_2_7B, 6_738_415_616, {'rope_base': 10_000.0, 'rope_scaling': 'none', 'norm_epsilon': 1e-5}),
    'llama_3_2_1b': (
        LLAMA_3_2_1B,
        1_235_814_400,
        {'rope_scaling': 'llama3', 'rope_factor': 32.0, 'rope_original_context': 8192, 'rope_base': 500_000.0},
    ),
    'mistral_7b': (MISTRAL_7B, 7_241_732_096, {'windows': (4096,), 'kv_heads': 8}),
    'qwen2_5_0_5b': (QWEN2_5_0_5B, 494_032_768, {'windows': (None,), 'biases': ('query', 'key', 'value')}),
    'qwen3_0_6b': (QWEN3_0_6B, 596_049_920, {'qk_norm': True, 'key_size': 128, 'biases': ()}),
    'gemma_2b': (GEMMA_2B, 2_506_172_416, {'activation': 'geglu', 'embedding_scale': 2048**0.5, 'kv_heads': 1}),
    'gemma_2_2b': (GEMMA_2_2B, 2_614_341_888, {'windows': (4096, None), 'attention_scale': 1 / 16}),
    'gemma_3_1b': (
        GEMMA_3_1B,
        999_885_952,
        {'windows': (512,) * 5 + (None,), 'local_rope_base': 10_000.0, 'rope_base': 1_000_000.0},
    ),
}


def read(data):
    fields = Fields(data, 'config.json')
    return read_model(family_of(fields), fields)


@pytest.mark.parametrize('name', PUBLISHED)
def test_a_published_config_has_the_parameters_it_is_known_for(name):
    data, parameters, expected = PUBLISHED[name]
    model = read(data)
    abstract = jax.eval_shape(lambda: initial_model(model, 0))
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract)) == parameters
    for field, value in expected.items():
        assert getattr(model, field) == value, field
    place(FAMILIES[data['model_type']].table, abstract)  # every parameter has a tensor


@pytest.mark.parametrize('name', PUBLISHED)
def test_what_is_written_of_it_says_the_same(name):
    data, _, _ = PUBLISHED[name]
    model, family = read(data), FAMILIES[data['model_type']]
    assert differences(family, model) == {}
    assert family_for(model, family.model_type) is family
    again = read(json.loads(json.dumps(family.write(model))) | {'model_type': family.model_type})
    assert function(again) == function(model)


def test_a_config_that_says_little_is_its_family_s_first_model():
    assert read({'model_type': 'gemma3_text'}).layer_windows[:6] == (4096,) * 5 + (None,)
    assert read({'model_type': 'llama'}).hidden_width == 11008
    assert read({'model_type': 'gpt2'}) == read(GPT2)
    assert read({'model_type': 'qwen3'}).key_size == 128


def test_rope_parameters_of_transformers_5_and_the_fields_of_before_say_the_same():
    scaling = LLAMA_3_2_1B['rope_scaling']
    modern = {k: v for k, v in LLAMA_3_2_1B.items() if k not in ('rope_scaling', 'rope_theta')}
    modern['rope_parameters'] = scaling | {'rope_theta': 500000.0}
    assert read(modern) == read(LLAMA_3_2_1B)
    kinds = {
        'full_attention': {'rope_type': 'default', 'rope_theta': 1000000.0},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 10000.0},
    }
    modern = {k: v for k, v in GEMMA_3_1B.items() if not k.startswith('rope_')} | {'rope_parameters': kinds}
    assert read(modern) == read(GEMMA_3_1B)


def test_where_both_are_there_rope_scaling_counts_as_in_transformers():
    scaling = LLAMA_3_2_1B['rope_scaling']
    both = LLAMA_3_2_1B | {'rope_parameters': {'rope_type': 'default', 'rope_theta': 7.0}}
    assert read(both) == read(LLAMA_3_2_1B)
    del both['rope_theta']
    assert read(both).rope_base == 10_000.0  # the family's: what the other object says goes with it
    assert read(both | {'rope_scaling': scaling | {'rope_theta': 50.0}}).rope_base == 50.0
    kinds = {
        'full_attention': {'rope_type': 'default', 'rope_theta': 3000.0},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 20.0},
    }
    scaled = read(GEMMA_3_1B | {'rope_parameters': kinds, 'rope_scaling': {'rope_type': 'linear', 'factor': 8.0}})
    assert (scaled.rope_scaling, scaled.rope_factor) == ('linear', 8.0)
    assert (scaled.rope_base, scaled.local_rope_base) == (3000.0, 20.0)


def test_yarn_s_amplitude_follows_from_what_the_file_says():
    def amplitude(**more):
        scaling = {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 32}
        return read(LLAMA_2_7B | {'rope_scaling': scaling | more}).rope_amplitude

    assert amplitude() is None  # 0.1 ln(factor) + 1
    assert amplitude(attention_factor=0.5, mscale=1.0, mscale_all_dim=1.0) == 0.5
    assert amplitude(mscale=0.7, mscale_all_dim=0.7) == 1.0
    assert amplitude(mscale=0.7) is None


def test_a_model_of_attention_alone_has_no_family():
    with pytest.raises(UserError, match=r'cannot have model.feed_forward_width 0 \(it has \d+\)$'):
        family_for(ModelConfig(width=64, num_heads=2, feed_forward_width=0), None)
