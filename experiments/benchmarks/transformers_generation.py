"""The other side of `against_transformers.py`: `generate` of Hugging Face transformers on PyTorch.

Runs in an environment of its own (requirements-transformers.txt) as a child process. It reads one command per line from
standard input and answers each with one line of JSON:

    load PATH              takes the parameters from an .npz file written by the other side
    logits ROWS LENGTH     of the last token of the prompts; answers {"logits": [[...], ...]}
    write ROWS LENGTH N    greedy continuations of the prompts; answers {"ids": [[...], ...]}
    time ROWS LENGTH N     one greedy continuation by N tokens of other prompts; answers {"seconds", "cpu_seconds"}
"""

import argparse
import json
import os
import platform
import sys
import time

import generation_shapes as shapes
import numpy as np
import torch
import transformers


def model_of(shape: dict):
    common = {'vocab_size': shape['vocabulary'], 'bos_token_id': 1, 'eos_token_id': 2, 'tie_word_embeddings': True}
    if shape['family'] == 'gpt2':
        config = transformers.GPT2Config(
            n_positions=shape['length'],
            n_embd=shape['width'],
            n_layer=shape['layers'],
            n_head=shape['heads'],
            n_inner=shape['hidden'],
            layer_norm_epsilon=shapes.EPSILON['gpt2'],
            **common,
        )
        return transformers.GPT2LMHeadModel(config)
    config = transformers.LlamaConfig(
        hidden_size=shape['width'],
        intermediate_size=shape['hidden'],
        num_hidden_layers=shape['layers'],
        num_attention_heads=shape['heads'],
        num_key_value_heads=shape['kv_heads'],
        max_position_embeddings=shape['length'],
        rms_norm_eps=shapes.EPSILON['llama'],
        rope_parameters={'rope_type': 'default', 'rope_theta': shapes.ROPE_BASE},
        **common,
    )
    return transformers.LlamaForCausalLM(config)


class Side:
    """One variant of the model."""

    def __init__(self, arguments):
        self.shape, self.arguments, self.calls = arguments.shape, arguments, 0
        self.model = model_of(self.shape).eval()
        self.parameters = sum(p.numel() for p in self.model.parameters())

    def ready(self):
        """What this variant does to the model, once its parameters are in."""
        arguments = self.arguments
        if arguments.dtype == 'bfloat16':
            self.model = self.model.to(torch.bfloat16)
        if arguments.dtype == 'int8':
            from torch.ao.quantization import quantize_dynamic

            self.model = quantize_dynamic(self.model, {torch.nn.Linear}, dtype=torch.qint8)
        self.options = {}
        if arguments.compile:
            self.options = {'cache_implementation': 'static'}
            self.model.forward = torch.compile(self.model.forward)

    def load(self, path: str) -> dict:
        stored = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
        load = {'gpt2': self._load_gpt2, 'llama': self._load_llama}[self.shape['family']]
        with torch.no_grad():
            for parameter, array in load(stored):
                parameter.copy_(array)
        self.ready()
        return {}

    def _load_gpt2(self, stored):
        trunk = self.model.transformer
        yield trunk.wte.weight, stored['embedding/table']
        yield trunk.wpe.weight, stored['positions/table']
        for name in ('weight', 'bias'):
            yield getattr(trunk.ln_f, name), stored[f'final_norm/{self._of(name, "scale")}']
        for i, layer in enumerate(trunk.h):
            for name in ('weight', 'bias'):
                leaf, norm = self._of(name, 'kernel'), self._of(name, 'scale')
                parts = [stored[f'blocks/attention/{part}/{leaf}'][i] for part in ('query', 'key', 'value')]
                yield getattr(layer.attn.c_attn, name), torch.cat(parts, -1)
                yield getattr(layer.attn.c_proj, name), stored[f'blocks/attention/output/{leaf}'][i]
                yield getattr(layer.mlp.c_fc, name), stored[f'blocks/feed_forward/up/{leaf}'][i]
                yield getattr(layer.mlp.c_proj, name), stored[f'blocks/feed_forward/down/{leaf}'][i]
                yield getattr(layer.ln_1, name), stored[f'blocks/attention_norm/{norm}'][i]
                yield getattr(layer.ln_2, name), stored[f'blocks/feed_forward_norm/{norm}'][i]

    def _load_llama(self, stored):
        trunk = self.model.model
        yield trunk.embed_tokens.weight, stored['embedding/table']
        yield trunk.norm.weight, stored['final_norm/scale']
        for i, layer in enumerate(trunk.layers):
            yield layer.input_layernorm.weight, stored['blocks/attention_norm/scale'][i]
            yield layer.post_attention_layernorm.weight, stored['blocks/feed_forward_norm/scale'][i]
            for ours, theirs in {'query': 'q', 'key': 'k', 'value': 'v', 'output': 'o'}.items():
                kernel = stored[f'blocks/attention/{ours}/kernel'][i]
                yield getattr(layer.self_attn, f'{theirs}_proj').weight, kernel.T
            for name in ('gate', 'up', 'down'):
                yield getattr(layer.mlp, f'{name}_proj').weight, stored[f'blocks/feed_forward/{name}/kernel'][i].T

    @staticmethod
    def _of(name, weight):
        return weight if name == 'weight' else 'bias'

    def _prompts(self, rows, length, number=0):
        return torch.from_numpy(shapes.prompts(self.shape, int(rows), int(length), number))

    def _generate(self, tokens, count):
        """Greedy, exactly `count` tokens: the end of a text does not end it."""
        return self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=None,
            pad_token_id=0,
            **self.options,
        )

    def logits(self, rows: str, length: str) -> dict:
        return {'logits': self.model(self._prompts(rows, length)).logits[:, -1].float().tolist()}

    def write(self, rows: str, length: str, count: str) -> dict:
        return {'ids': self._generate(self._prompts(rows, length), int(count))[:, int(length) :].tolist()}

    def time(self, rows: str, length: str, count: str) -> dict:
        self.calls += 1
        tokens = self._prompts(rows, length, self.calls)
        cpu, start = time.process_time(), time.perf_counter()
        written = self._generate(tokens, int(count))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert written.shape[1] == int(length) + int(count)
        return {'seconds': seconds, 'cpu_seconds': cpu}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', type=json.loads, required=True, help='see generation_shapes.py')
    parser.add_argument('--dtype', choices=('float32', 'bfloat16', 'int8'), default='float32')
    parser.add_argument('--compile', action='store_true', help='torch.compile, with a static cache')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    versions = {'torch': torch.__version__, 'transformers': transformers.__version__}
    with torch.inference_mode():
        side = Side(arguments)
        versions |= {'python': platform.python_version(), 'threads': torch.get_num_threads()}
        print(json.dumps(versions | {'parameters': side.parameters}), file=answers)
        for line in sys.stdin:
            command, *rest = line.split()
            print(json.dumps(getattr(side, command)(*rest)), file=answers)


if __name__ == '__main__':
    main()
