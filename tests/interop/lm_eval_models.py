"""The models of tests/fixtures/lm_eval as ours, their weights put in place by hand."""

import json
import pathlib

import numpy as np
import safetensors.numpy

from llm.config import Config, DataConfig, ModelConfig
from llm.evaluation.subject import Subject
from llm.tokenizer import open_directory

FOLDER = pathlib.Path(__file__).parents[1] / 'fixtures' / 'lm_eval'
SHAPE = {'vocab_size': 320, 'context_length': 64, 'num_layers': 2, 'width': 32, 'num_heads': 4}
BIASES = ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm')


def subject(name: str) -> Subject:
    tensors = safetensors.numpy.load_file(FOLDER / name / 'model.safetensors')
    model, params = {'llama': llama, 'gpt2': gpt2}[name](tensors)
    config = Config(name=name, model=model, data=DataConfig(sequence_length=64))
    return Subject(config, 0, params, open_directory(FOLDER / name))


def expected(name: str) -> dict:
    return json.loads((FOLDER / name / 'expected.json').read_text())


def llama(tensors):
    stack = lambda name: np.stack([tensors[f'model.layers.{i}.{name}.weight'].T for i in range(2)])
    attention = {
        ours: {'kernel': stack(f'self_attn.{theirs}_proj')}
        for ours, theirs in (('query', 'q'), ('key', 'k'), ('value', 'v'), ('output', 'o'))
    }
    params = {
        'embedding': {'table': tensors['model.embed_tokens.weight']},
        'blocks': {
            'attention_norm': {'scale': stack('input_layernorm')},
            'attention': attention,
            'feed_forward_norm': {'scale': stack('post_attention_layernorm')},
            'feed_forward': {name: {'kernel': stack(f'mlp.{name}_proj')} for name in ('gate', 'up', 'down')},
        },
        'final_norm': {'scale': tensors['model.norm.weight']},
        'lm_head': {'kernel': tensors['lm_head.weight'].T},
    }
    return ModelConfig(**SHAPE, num_kv_heads=2, feed_forward_width=48, norm_epsilon=1e-6, tied_embeddings=False), params


def gpt2(tensors):
    stack = lambda name: np.stack([tensors[f'transformer.h.{i}.{name}'] for i in range(2)])
    linear = lambda name: {'kernel': stack(f'{name}.weight'), 'bias': stack(f'{name}.bias')}
    norm = lambda name: {'scale': stack(f'{name}.weight'), 'bias': stack(f'{name}.bias')}
    parts = {name: np.split(x, 3, axis=-1) for name, x in linear('attn.c_attn').items()}
    attention = {ours: {n: x[i] for n, x in parts.items()} for i, ours in enumerate(('query', 'key', 'value'))}
    params = {
        'embedding': {'table': tensors['transformer.wte.weight']},
        'positions': {'table': tensors['transformer.wpe.weight']},
        'blocks': {
            'attention_norm': norm('ln_1'),
            'attention': attention | {'output': linear('attn.c_proj')},
            'feed_forward_norm': norm('ln_2'),
            'feed_forward': {'up': linear('mlp.c_fc'), 'down': linear('mlp.c_proj')},
        },
        'final_norm': {'scale': tensors['transformer.ln_f.weight'], 'bias': tensors['transformer.ln_f.bias']},
    }
    more = {'feed_forward_width': 128, 'norm': 'layernorm', 'norm_epsilon': 1e-5, 'activation': 'gelu'}
    return ModelConfig(**SHAPE, **more, position='learned', biases=BIASES), params
