"""Import and export: workdirs that open like any other, weights equal to the bit, and refusals in one line."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import numpy.testing as npt
import pytest
from safetensors.numpy import load_file, save_file

from llm import command_line
from llm.config import Config, DataConfig, ModelConfig, ParallelConfig
from llm.errors import UserError
from llm.interop.huggingface import load, save
from llm.interop.huggingface.families import FAMILIES, family_for
from llm.interop.huggingface.workdirs import import_model
from llm.model import Transformer
from llm.parallel import mesh as mesh_lib
from llm.training.checkpoint import Checkpoints, load_params
from llm.training.initialize import initialize
from llm.training.train_state import initial_model, placed_state
from llm.workdir import Workdir

NAMES = [
    'gpt2',
    'gpt2_untied',
    'llama2',
    'llama3',
    'llama_yarn',
    'mistral',
    'qwen2',
    'qwen3',
    'gemma',
    'gemma2',
    'gemma3',
]


def all_tensors(folder):
    return {name: value for path in folder.glob('*.safetensors') for name, value in load_file(path).items()}


def equal_to_the_bit(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape
        assert a[name].tobytes() == b[name].tobytes(), name


def with_tokenizer(folder):
    """A tokenizer of a few single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = ['<pad>', '<s>', '</s>', *map(chr, range(ord('a'), ord('a') + 26)), 'Ġ']
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(letters[:3])
    tokenizer.save(str(folder / 'tokenizer.json'))
    return folder


@pytest.fixture
def copied(saved_model, tmp_path):
    """A folder of its own, to be damaged, with a tokenizer."""

    def copy(name):
        return with_tokenizer(shutil.copytree(saved_model(name), tmp_path / name))

    return copy


@pytest.mark.parametrize('name', NAMES)
def test_the_round_trip_gives_every_weight_back_to_the_bit(name, saved_model, tmp_path):
    config, params = load(saved_model(name))
    family = json.loads((saved_model(name) / 'config.json').read_text())['model_type']
    assert save(config, params, tmp_path / 'out', family=family) == family
    equal_to_the_bit(all_tensors(saved_model(name)), all_tensors(tmp_path / 'out'))
    again, _ = load(tmp_path / 'out')
    assert again.model == config.model


def test_a_small_limit_makes_shards_that_load_again(saved_model, tmp_path):
    config, params = load(saved_model('gemma2'))
    save(config, params, tmp_path / 'out', family='gemma2', shard_bytes=5000)
    files = sorted(path.name for path in (tmp_path / 'out').glob('*.safetensors'))
    assert len(files) > 3 and files[0] == f'model-00001-of-{len(files):05}.safetensors'
    index = json.loads((tmp_path / 'out' / 'model.safetensors.index.json').read_text())
    assert index['metadata']['total_size'] == sum(v.nbytes for v in all_tensors(tmp_path / 'out').values())
    equal_to_the_bit(all_tensors(saved_model('gemma2')), all_tensors(tmp_path / 'out'))
    jax.tree.map(npt.assert_array_equal, load(tmp_path / 'out')[1], params)


def test_bfloat16_is_kept_and_other_types_can_be_had(copied, tmp_path):
    folder = copied('qwen3')
    tensors = {name: v.astype(ml_dtypes.bfloat16) for name, v in all_tensors(folder).items()}
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    config, params = load(folder)
    assert config.model.param_dtype == config.model.compute_dtype == 'bfloat16'
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {'bfloat16'}
    save(config, params, tmp_path / 'out')
    equal_to_the_bit(tensors, all_tensors(tmp_path / 'out'))
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['torch_dtype'] == 'bfloat16'
    wider, params = load(folder, dtype='float32')
    assert wider.model.param_dtype == 'float32'
    name = 'model.layers.1.mlp.up_proj.weight'
    npt.assert_array_equal(params['blocks']['feed_forward']['up']['kernel'][1], tensors[name].astype(np.float32).T)


def test_parts_of_a_mesh_hold_what_the_whole_holds(saved_model):
    config, whole = load(saved_model('gpt2'))
    mesh = mesh_lib.make_mesh(ParallelConfig(data=2, fsdp=4))
    _, parts = load(saved_model('gpt2'), mesh=mesh)
    kernel = parts['blocks']['attention']['key']['kernel']
    assert kernel.addressable_shards[0].data.size < kernel.size
    jax.tree.map(npt.assert_array_equal, parts, whole)


def test_an_imported_workdir_opens_like_any_other(copied, tmp_path, capsys):
    folder = copied('mistral')
    command = ['import', '--from', str(folder), '--workdir', str(tmp_path / 'run')]
    assert command_line.main(command) == 0
    assert 'mistral' in capsys.readouterr().out
    workdir = Workdir.open(tmp_path / 'run')
    summary = workdir.summary()
    assert (summary['status'], summary['step'], summary['family']) == ('done', 0, 'mistral')
    step, params = load_params(workdir)
    assert step == 0
    jax.tree.map(npt.assert_array_equal, params, load(folder)[1])
    assert command_line.main(['export', '--workdir', str(tmp_path / 'run'), '--to', str(tmp_path / 'out')]) == 0
    equal_to_the_bit(all_tensors(folder), all_tensors(tmp_path / 'out'))
    assert (tmp_path / 'out' / 'tokenizer.json').read_bytes() == (folder / 'tokenizer.json').read_bytes()
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert (config['bos_token_id'], config['eos_token_id'], config['pad_token_id']) == (1, 2, 0)
    assert command_line.main(command) == 2
    assert 'exists' in capsys.readouterr().err


def test_an_imported_model_is_not_trained_in_its_own_workdir(copied, tmp_path):
    workdir = Workdir(tmp_path / 'run')
    import_model(str(copied('llama3')), workdir)
    config = workdir.config()
    with pytest.raises(UserError, match=r'has an imported model.* --init-from\.workdir'):
        initialize(config, workdir, Checkpoints(workdir.checkpoints), placed_state(config, mesh_lib.one_device()))


# ---------------------------------------------------------------------------------------------------------- bad input


def rewritten(folder, **fields):
    path = folder / 'config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(folder, change):
    tensors = all_tensors(folder)
    change(tensors)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})


def spoil(name, value):
    def change(tensors):
        tensors[name] = tensors[name].copy()
        tensors[name].flat[3] = value

    return change


def more_tokens(folder):
    path = folder / 'tokenizer.json'
    data = json.loads(path.read_text())
    data['model']['vocab'] |= {chr(ord('A') + i): 30 + i for i in range(26)} | {'!' * n: 50 + n for n in range(6, 41)}
    path.write_text(json.dumps(data))


SPOILED = {
    'a wrong family': (lambda f: rewritten(f, model_type='mamba'), r"config\.json: model_type is 'mamba'.*gemma2"),
    'quantized': (lambda f: rewritten(f, quantization_config={'quant_method': 'gptq'}), r"quantized \('gptq'\)"),
    'an unknown kind of RoPE': (
        lambda f: rewritten(f, rope_parameters={'rope_type': 'spiral', 'factor': 2.0}),
        r"config\.json: RoPE type 'spiral'.*unknown",
    ),
    'a kind of RoPE that is refused': (
        lambda f: rewritten(f, rope_parameters={'rope_type': 'dynamic', 'factor': 2.0}),
        r"RoPE type 'dynamic'.*how long the text",
    ),
    'a kind of RoPE without its numbers': (
        lambda f: rewritten(f, rope_parameters={'rope_type': 'llama3', 'factor': 2.0}),
        r'llama3 lacks a number: rope_slow_turns',
    ),
    'part of a head': (
        lambda f: rewritten(f, rope_parameters={'rope_type': 'default', 'partial_rotary_factor': 0.5}),
        r'partial_rotary_factor is 0\.5',
    ),
    'a strange activation': (lambda f: rewritten(f, hidden_act='tanh'), r"hidden_act is 'tanh'; only silu"),
    'a size that is none': (lambda f: rewritten(f, hidden_size='wide'), r"hidden_size is 'wide'"),
    'heads that do not divide': (lambda f: rewritten(f, num_key_value_heads=4), r'config\.json: model\.num_kv_heads'),
    'no config': (lambda f: (f / 'config.json').unlink(), r'has no config\.json'),
    'a damaged config': (lambda f: (f / 'config.json').write_text('{'), r'config\.json (cannot be read|is damaged)'),
    'no weights': (lambda f: (f / 'model.safetensors').unlink(), r'neither model\.safetensors'),
    'a shard cut short': (
        lambda f: (f / 'model.safetensors').write_bytes((f / 'model.safetensors').read_bytes()[:-10]),
        r'model\.safetensors is damaged or cut short',
    ),
    'no tokenizer': (lambda f: (f / 'tokenizer.json').unlink(), r'has no tokenizer'),
    'more tokens than rows of the embedding': (
        more_tokens,
        r'tokenizer has 91 tokens and the model 61',
    ),
    'a missing tensor': (
        lambda f: change_tensors(f, lambda t: t.pop('model.norm.weight')),
        r'lacks tensor model\.norm\.weight',
    ),
    'an unknown tensor': (
        lambda f: change_tensors(f, lambda t: t.update(surplus=np.ones(2, np.float32))),
        r'has tensor surplus, unknown to llama',
    ),
    'another shape': (
        lambda f: rewritten(f, intermediate_size=21),
        r'tensor model\.layers\.0\.mlp\.down_proj\.weight has shape \(24, 20\) and config\.json asks for \(24, 21\)',
    ),
    'a NaN': (
        lambda f: change_tensors(f, spoil('model.layers.1.mlp.up_proj.weight', np.nan)),
        r'model\.safetensors: tensor model\.layers\.1\.mlp\.up_proj\.weight holds NaN',
    ),
    'an infinity': (
        lambda f: change_tensors(f, spoil('model.embed_tokens.weight', np.inf)),
        r'tensor model\.embed_tokens\.weight holds NaN or infinity',
    ),
    'whole numbers for weights': (
        lambda f: change_tensors(f, lambda t: t.update({'model.norm.weight': np.ones(24, np.int8)})),
        r'tensor model\.norm\.weight is stored as I8',
    ),
}


@pytest.mark.parametrize('how', SPOILED)
def test_what_cannot_be_imported_is_refused_in_one_line_and_leaves_nothing(how, copied, tmp_path, capsys):
    spoil, message = SPOILED[how]
    folder = copied('llama_linear')
    spoil(folder)
    assert command_line.main(['import', '--from', str(folder), '--workdir', str(tmp_path / 'run')]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if not line.startswith('WARNING')]  # of what a tokenizer of letters loses
    assert len(said) == 1
    assert re.search(message, said[0]), said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['llama_linear']


def test_a_value_that_the_wanted_type_cannot_hold_is_refused(copied):
    folder = copied('llama_linear')
    change_tensors(folder, spoil('model.layers.1.mlp.up_proj.weight', 1e5))
    with pytest.raises(UserError, match=r'tensor model\.layers\.1\.mlp\.up_proj\.weight has values past what float16'):
        load(folder, dtype='float16')


@pytest.mark.parametrize('name', ['nowhere/at-all', './nowhere', '/nowhere'])
def test_a_model_that_is_neither_here_nor_on_the_hub_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(UserError, match=f'^there is no folder {name}[,;] .+') as error:
        import_model(name, Workdir(tmp_path / 'run'))
    assert '\n' not in str(error.value)


def test_a_shard_that_the_index_names_must_be_there_and_have_what_it_says(copied):
    folder = copied('gemma2')
    shard = sorted(folder.glob('*.safetensors'))[1]
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(UserError, match=f'{shard.name} is missing'):
        load(folder)
    save_file({'surplus': np.ones(2, np.float32)}, shard)
    with pytest.raises(UserError, match=rf'{shard.name} has no tensor model\.\S+, which'):
        load(folder)
    shard.write_bytes(content)
    (folder / 'model.safetensors.index.json').write_text('{}')
    with pytest.raises(UserError, match=r'index\.json is damaged'):
        load(folder)


def test_a_model_saved_without_its_head_has_names_without_the_prefix(copied):
    folder = copied('gpt2')
    _, params = load(folder)
    bare = {name.removeprefix('transformer.'): value for name, value in all_tensors(folder).items()}
    bare['h.0.attn.bias'] = np.ones((1, 1, 4, 4), np.float32)  # a mask, which old files hold
    save_file(bare, folder / 'model.safetensors')
    jax.tree.map(npt.assert_array_equal, load(folder)[1], params)


def test_a_head_that_repeats_the_embedding_is_passed_over(copied):
    folder = copied('llama3')
    change_tensors(folder, lambda t: t.update({'lm_head.weight': t['model.embed_tokens.weight'].copy()}))
    assert load(folder)[0].model.tied_embeddings


# ------------------------------------------------------------------------------------------------ models of our own

OURS = {'vocab_size': 61, 'context_length': 32, 'num_layers': 2, 'width': 24, 'num_heads': 3}


@pytest.mark.parametrize(
    ('fields', 'family'),
    [
        ({}, 'llama'),
        ({'qk_norm': True, 'head_dim': 10}, 'qwen3'),
        ({'windows': (5,)}, 'mistral'),
        ({'qk_norm': True, 'windows': (5, None)}, 'qwen3'),
        ({'biases': ('query', 'key', 'value')}, 'qwen2'),
        (
            {
                'position': 'learned',
                'norm': 'layernorm',
                'activation': 'gelu',
                'biases': ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm'),
            },
            'gpt2',
        ),
    ],
)
def test_a_model_of_ours_finds_its_family(fields, family):
    assert family_for(ModelConfig(**OURS, **fields)).model_type == family


@pytest.mark.parametrize(
    ('fields', 'named'),
    [
        ({'activation': 'relu2'}, 'model.activation'),
        ({'position': 'alibi'}, 'model.position'),
        ({'logit_softcap': 3.0}, 'model.logit_softcap'),
        ({'norm_placement': 'post'}, 'model.norm_placement'),
        ({'embedding_norm': True}, 'model.embedding_norm'),
        ({'windows': (3, 4)}, 'model.windows'),
        ({'parametrization': 'mup', 'base_width': 12}, 'model.parametrization'),
        ({'tied_embeddings': False, 'biases': ('lm_head',)}, 'model.biases'),
        ({'attention_scale': 0.5}, 'model.attention_scale'),
    ],
)
def test_a_model_that_no_family_has_is_refused_by_the_field(fields, named):
    with pytest.raises(UserError, match=f'no family.* cannot have .*{named} ') as error:
        family_for(ModelConfig(**OURS, **fields))
    assert '\n' not in str(error.value)


@pytest.mark.slow
def test_biases_that_only_the_family_has_are_zeros(tmp_path):
    fields = {'position': 'learned', 'norm': 'layernorm', 'activation': 'gelu', 'biases': ('query', 'norm')}
    config = Config(model=ModelConfig(**OURS, **fields), data=DataConfig(sequence_length=32))
    params = initial_model(config.model, 0)
    assert save(config, params, tmp_path / 'out') == 'gpt2'
    again, more = load(tmp_path / 'out')
    assert set(again.model.biases) > set(config.model.biases)
    tokens = jnp.arange(20)[None, :]
    logits = [
        Transformer(m).apply({'params': p}, tokens).logits for m, p in ((config.model, params), (again.model, more))
    ]
    npt.assert_allclose(*logits, rtol=0, atol=1e-6)


def test_every_family_is_tried():
    assert set(FAMILIES) == {'gpt2', 'llama', 'mistral', 'qwen2', 'qwen3', 'gemma', 'gemma2', 'gemma3_text'}
