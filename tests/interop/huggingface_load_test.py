"""What is read of a model's files, and how much memory that takes."""

import gc
import importlib
import json
import re
import weakref

import jax
import ml_dtypes
import numpy as np
import numpy.testing as npt
import pytest
from safetensors.numpy import load_file, save_file

from llm.errors import UserError
from llm.interop.huggingface import load


def rewrite(source, target, change, **fields):
    """A copy of a saved model with other tensors, and other fields of config.json."""
    target.mkdir()
    tensors = load_file(source / 'model.safetensors')
    change(tensors)
    save_file(tensors, target / 'model.safetensors', metadata={'format': 'pt'})
    config = json.loads((source / 'config.json').read_text())
    (target / 'config.json').write_text(json.dumps(config | fields))
    return target


@pytest.fixture
def warnings(monkeypatch):
    """What is warned of."""
    said = []
    monkeypatch.setattr('absl.logging.warning', lambda text, *args: said.append(text % args))
    return said


def test_no_parameter_is_read_while_the_host_holds_another(saved_model, tmp_path, monkeypatch):
    def enlarge(tensors):
        tokens, width = 60_000, tensors['model.embed_tokens.weight'].shape[1]
        values = np.full((tokens, width), 0.25, np.float32)
        tensors |= {'model.embed_tokens.weight': values, 'lm_head.weight': values}
        for name in list(tensors):
            if '.mlp.' in name:
                wide = tokens // 2
                tensors[name] = np.full((width, wide) if 'down' in name else (wide, width), 0.25, np.float32)

    fields = {'vocab_size': 60_000, 'intermediate_size': 30_000, 'tie_word_embeddings': False}
    folder = rewrite(saved_model('llama_linear'), tmp_path / 'large', enlarge, **fields)
    module = importlib.import_module('llm.interop.huggingface.load')
    made, held, read = [], set(), module._part

    def part(*args):
        held.update(address for found, address in made if found() is not None)
        values = read(*args)
        if values.nbytes > 2**20:
            made.append((weakref.ref(values), values.ctypes.data))
        return values

    monkeypatch.setattr(module, '_part', part)
    gc.disable()  # it may come at the right moment
    try:
        _, params = load(folder)
    finally:
        gc.enable()
    assert len(made) == 5
    # A processor may take an array as it is; then it is the parameter itself.
    assert held <= {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(params)}


def test_a_head_that_is_not_the_embedding_is_kept_whatever_the_config_says(saved_model, tmp_path, warnings):
    copy = lambda tensors: tensors.update({'lm_head.weight': tensors['model.embed_tokens.weight'].copy()})
    config, params = load(rewrite(saved_model('llama3'), tmp_path / 'copy', copy))
    assert config.model.tied_embeddings and 'lm_head' not in params and not warnings

    def another(tensors):
        copy(tensors)
        tensors['lm_head.weight'][-1, -1] += 1e-3

    folder = rewrite(saved_model('llama3'), tmp_path / 'another', another)
    config, params = load(folder)
    assert not config.model.tied_embeddings
    npt.assert_array_equal(params['lm_head']['kernel'].T, load_file(folder / 'model.safetensors')['lm_head.weight'])
    assert len(warnings) == 1 and 'another lm_head.weight' in warnings[0]


@pytest.mark.parametrize('kind', [np.uint8, np.bool_, np.float64])
def test_masks_of_old_gpt2_files_may_be_of_any_type(kind, saved_model, tmp_path, warnings):
    masks = lambda tensors: tensors.update({'transformer.h.0.attn.bias': np.ones((1, 1, 4, 4), kind)})
    config, params = load(rewrite(saved_model('gpt2'), tmp_path / 'old', masks))
    assert config.model.param_dtype == 'float32' and not warnings
    jax.tree.map(npt.assert_array_equal, params, load(saved_model('gpt2'))[1])


def test_one_file_comes_before_an_index(saved_model, tmp_path):
    folder = rewrite(saved_model('llama3'), tmp_path / 'both', lambda tensors: None)
    name = 'model.safetensors.index.json'
    (folder / name).write_text(json.dumps({'weight_map': {'model.norm.weight': 'model-00001-of-00002.safetensors'}}))
    jax.tree.map(npt.assert_array_equal, load(folder)[1], load(saved_model('llama3'))[1])


def test_what_is_rounded_because_tensors_differ_in_type_is_said(saved_model, tmp_path, warnings):
    def mix(tensors):
        for name in tensors:
            if 'norm' not in name:
                tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
        tensors['model.norm.weight'] = tensors['model.norm.weight'] * np.float32(1 + 2**-12)

    folder = rewrite(saved_model('llama_linear'), tmp_path / 'mixed', mix, dtype='bfloat16')
    assert load(folder)[0].model.param_dtype == 'bfloat16'
    assert len(warnings) == 1
    assert 'rounded to bfloat16: tensors model.layers.0.input_layernorm.weight, ' in warnings[0]
    assert load(folder, dtype='float32')[0].model.param_dtype == 'float32' and len(warnings) == 1  # as was asked
    wide = rewrite(saved_model('llama_linear'), tmp_path / 'wide', mix, dtype='float32')
    config, params = load(wide)
    assert config.model.param_dtype == 'float32' and len(warnings) == 1  # nothing is lost
    npt.assert_array_equal(params['final_norm']['scale'], load_file(wide / 'model.safetensors')['model.norm.weight'])


@pytest.mark.parametrize('dtype', [None, 'float32'])
def test_whole_numbers_are_no_weights_whatever_type_is_asked_for(dtype, saved_model, tmp_path):
    whole = lambda tensors: tensors.update({'model.norm.weight': np.ones(24, np.int8)})
    folder = rewrite(saved_model('llama_linear'), tmp_path / 'whole', whole)
    with pytest.raises(UserError, match=r'tensor model\.norm\.weight is stored as I8'):
        load(folder, dtype=dtype)


YARN = {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 32}
DAMAGED = {
    'model_type': (['a'], r"model_type is \['a'\]"),
    'quantization_config': ({'quant_method': 'a\nb'}, r"quantized \('a\\nb'\)"),
    'rope_scaling': ({'rope_type': ['a']}, r"RoPE type \['a'\]"),
    'rope_parameters': ([1], r'rope_parameters is \[1\]; it must be an object'),
    'factor': (YARN | {'factor': 'x', 'mscale': 1, 'mscale_all_dim': 1}, "factor of RoPE is 'x'"),
    'mscale': (YARN | {'mscale': 'x', 'mscale_all_dim': 1}, "mscale of RoPE is 'x'"),
    'attention_factor': (YARN | {'attention_factor': 'x'}, "attention_factor of RoPE is 'x'"),
    'not finite': (YARN | {'attention_factor': float('nan')}, 'attention_factor of RoPE is nan'),
    'original': (
        YARN | {'original_max_position_embeddings': [1]},
        r'original_max_position_embeddings of RoPE is \[1\]',
    ),
    'vocab_size': (2**31, 'vocab_size is 2147483648; it must be a whole number from 1'),
    'rms_norm_eps': (10**400, 'too large'),
    'head_dim': (10**30, 'head_dim is 1000'),
    'num_key_value_heads': ('a', "num_key_value_heads is 'a'"),
    'num_hidden_layers': (10**9, 'num_hidden_layers is 1000000000; it must be a whole number from 1 to 10,000'),
}


@pytest.mark.parametrize('field', DAMAGED)
def test_fields_that_hold_nonsense_are_refused_in_one_line(field, saved_model, tmp_path):
    value, message = DAMAGED[field]
    field = 'rope_scaling' if isinstance(value, dict) and 'rope_type' in value else field
    folder = rewrite(saved_model('llama_linear'), tmp_path / 'damaged', lambda tensors: None, **{field: value})
    with pytest.raises(UserError, match=rf'config\.json: .*{message}') as raised:
        load(folder)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors.index.json'])
def test_brackets_without_end_are_refused(name, saved_model, tmp_path):
    folder = rewrite(saved_model('llama_linear'), tmp_path / 'nested', lambda tensors: None)
    if name != 'config.json':
        (folder / 'model.safetensors').unlink()
    (folder / name).write_text('{"a": ' + '[' * 100_000)
    with pytest.raises(UserError, match=rf'{re.escape(name)} (is damaged|cannot be read)'):
        load(folder)


def test_names_with_newlines_stay_in_one_line(saved_model, tmp_path):
    more = lambda tensors: tensors.update({'a\nb': np.ones(2, np.float32)})
    with pytest.raises(UserError, match=r"has tensor 'a\\nb', unknown") as raised:
        load(rewrite(saved_model('llama_linear'), tmp_path / 'tensor', more))
    assert '\n' not in str(raised.value)
    folder = rewrite(saved_model('llama_linear'), tmp_path / 'shard', lambda tensors: None)
    (folder / 'model.safetensors').unlink()
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'a': 'b\nc.safetensors'}}))
    with pytest.raises(UserError, match=r'index\.json is damaged') as raised:
        load(folder)
    assert '\n' not in str(raised.value)
