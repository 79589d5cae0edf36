"""Our side of `against_transformers.py`: `llm.inference.decode.Decoder`, which writes for generate and chat.

It answers the commands of transformers_generation.py (see there), and `save PATH`, which writes its parameters for the
other side. `ready` takes the place of `load` where they are its own.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import generation_shapes as shapes
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))


def config_of(shape: dict, settings: dict):
    from llm.config import ModelConfig

    gpt2 = {
        'position': 'learned',
        'norm': 'layernorm',
        'activation': 'gelu',
        'biases': ('query', 'key', 'value', 'attention_output', 'feed_forward', 'norm'),
    }
    return ModelConfig(
        vocab_size=shape['vocabulary'],
        context_length=shape['length'],
        num_layers=shape['layers'],
        width=shape['width'],
        num_heads=shape['heads'],
        num_kv_heads=shape['kv_heads'],
        feed_forward_width=shape['hidden'],
        rope_base=shapes.ROPE_BASE,
        norm_epsilon=shapes.EPSILON[shape['family']],
        **(gpt2 if shape['family'] == 'gpt2' else {}),
        **settings,
    )


class Side:
    """One variant of the model."""

    def __init__(self, shape: dict, settings: dict, quantize: str | None):
        import jax
        import jax.numpy as jnp

        from llm.model import Transformer

        self.shape, self.quantize, self.calls = shape, quantize, 0
        self.model = Transformer(config_of(shape, settings))
        start = jax.jit(lambda key: self.model.init(key, jnp.zeros((1, 1), jnp.int32))['params'])
        self.stored = start(jax.random.key(0))
        self.parameters = sum(x.size for x in jax.tree.leaves(self.stored))
        self.flatten = jax.tree_util.tree_flatten_with_path

    def save(self, path: str) -> dict:
        leaves = self.flatten(self.stored)[0]
        np.savez(path, **{'/'.join(key.key for key in names): np.asarray(leaf) for names, leaf in leaves})
        return {}

    def ready(self) -> dict:
        import jax

        from llm.inference import prepared

        self.params, self.stored = prepared.ready(self.stored, self.model.config, self.quantize), None
        return {'bytes': sum(x.nbytes for x in jax.tree.leaves(self.params))}

    def _decoder(self, rows, length, count, number=0):
        from llm.inference.decode import Decoder
        from llm.inference.sampling import SamplingParams

        prompts = shapes.prompts(self.shape, int(rows), int(length), number).tolist()
        greedy = [SamplingParams(temperature=0.0)] * int(rows)
        return Decoder(self.model, self.params, prompts, greedy, max_new_tokens=int(count))

    def logits(self, rows: str, length: str) -> dict:
        tokens = shapes.prompts(self.shape, int(rows), int(length)).astype(np.int32)
        return {'logits': np.asarray(self.model.apply({'params': self.params}, tokens).logits[:, -1]).tolist()}

    def write(self, rows: str, length: str, count: str) -> dict:
        written = self._decoder(rows, length, count).advance(int(count))
        return {'ids': [[token for token, _ in row] for row in written]}

    def time(self, rows: str, length: str, count: str) -> dict:
        self.calls += 1
        cpu, start = time.process_time(), time.perf_counter()
        written = self._decoder(rows, length, count, self.calls).advance(int(count))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert all(len(row) == int(count) for row in written)
        return {'seconds': seconds, 'cpu_seconds': cpu}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', type=json.loads, required=True, help='see generation_shapes.py')
    parser.add_argument('--settings', type=json.loads, default={}, help='fields of ModelConfig')
    parser.add_argument('--quantize', choices=('int8', 'int4'))
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    from llm.environment import prepare_process

    prepare_process(arguments.threads)  # as every command does
    import jax

    side = Side(arguments.shape, arguments.settings, arguments.quantize)
    versions = {'jax': jax.__version__, 'python': platform.python_version(), 'threads': arguments.threads}
    print(json.dumps(versions | {'parameters': side.parameters}), file=answers)
    for line in sys.stdin:
        command, *rest = line.split()
        print(json.dumps(getattr(side, command)(*rest)), file=answers)


if __name__ == '__main__':
    main()
