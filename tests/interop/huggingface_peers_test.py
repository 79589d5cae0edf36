"""The same comparisons live: models that transformers makes now, and what it makes of ours.

They run where torch and transformers are: in this interpreter (`pip install 'glassbox-llm[peers]'`), or in the one that
GLASSBOX_PEERS names.
"""

import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys
import zipfile

import jax
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import Config, DataConfig, ModelConfig
from llm.interop.huggingface import load, save
from llm.model import Transformer
from llm.training.train_state import initial_model

SCRIPTS = pathlib.Path(__file__).parents[1] / 'fixtures'
PEERS = os.environ.get('GLASSBOX_PEERS')
HERE = all(importlib.util.find_spec(name) for name in ('torch', 'transformers'))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (PEERS or HERE), reason='torch and transformers are not here'),
]


def run(script, *arguments):
    command = [PEERS or sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """Models from another seed than the fixtures'."""
    target = tmp_path_factory.mktemp('made')
    run('make_huggingface.py', target, 7)
    for archive in target.glob('*.zip'):
        with zipfile.ZipFile(archive) as file:
            file.extractall(target / archive.stem)
        archive.unlink()
    return target


def logits_of(config, params, tokens):
    return jax.jit(Transformer(config.model).apply)({'params': params}, tokens).logits


def checked(folders, tokens, tmp_path):
    """What transformers makes of each folder."""
    np.save(tmp_path / 'tokens.npy', tokens)
    run('check_huggingface.py', tmp_path / 'tokens.npy', *folders)
    for folder in folders:
        with np.load(folder / 'check.npz') as found:
            yield dict(found)


def test_models_of_now_have_our_logits_and_go_back_to_the_bit(made, tmp_path):
    folders, exported = sorted(made.iterdir()), []
    for folder in folders:
        config, params = load(folder)
        with np.load(folder / 'reference.npz') as reference:
            logits = logits_of(config, params, reference['tokens'])
            npt.assert_allclose(logits, reference['logits'], rtol=0, atol=2e-4, err_msg=folder.name)
        exported.append(tmp_path / folder.name)
        save(config, params, exported[-1])
    tokens = np.random.default_rng(0).integers(0, 61, (2, 30), dtype=np.int32)
    both = zip(folders, checked(folders, tokens, tmp_path), checked(exported, tokens, tmp_path))
    for folder, before, after in both:
        assert before.keys() == after.keys()
        for name in before:
            npt.assert_array_equal(before[name], after[name], err_msg=f'{folder.name}: {name}')


OURS = {
    'llama': {},
    'qwen3': {'qk_norm': True, 'head_dim': 10, 'windows': (5, None)},
    'gpt2': {
        'norm': 'layernorm',
        'position': 'learned',
        'activation': 'gelu_exact',
        'tied_embeddings': False,
        'biases': ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm'),
    },
    'bfloat16': {'param_dtype': 'bfloat16'},
}


def test_models_of_ours_have_the_same_logits_there(tmp_path):
    shape = ModelConfig(vocab_size=61, context_length=32, num_layers=2, width=24, num_heads=4)
    tokens = np.random.default_rng(0).integers(0, 61, (2, 30), dtype=np.int32)
    expected = []
    for name, fields in OURS.items():
        config = Config(model=dataclasses.replace(shape, **fields), data=DataConfig(sequence_length=32))
        params = initial_model(config.model, 3)
        save(config, params, tmp_path / name)
        expected.append((config.model.param_dtype, logits_of(config, params, tokens)))
    found = checked([tmp_path / name for name in OURS], tokens, tmp_path)
    for name, (dtype, logits), theirs in zip(OURS, expected, found):
        assert theirs['dtype'] == dtype
        npt.assert_allclose(logits, theirs['logits'], rtol=0, atol=2e-4, err_msg=name)
