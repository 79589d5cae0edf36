"""Our side of `against_pytorch.py`: the training step of `llm.training`, on the same model and data as pytorch_gpt.py.

It answers the same commands (see there), and `save PATH`, which writes its first parameters for the other side.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))


def config_of(shape: dict, settings: dict):
    """The config with PyTorch's model in it: GPT-2's shape and AdamW at a constant rate."""
    from llm.config import AdamW, Config, Constant, DataConfig, ModelConfig, NextToken, TrainingConfig

    settings = dict(settings)
    objective = NextToken(vocabulary_chunk=settings.pop('vocabulary_chunk', 0))
    return Config(
        model=ModelConfig(
            vocab_size=shape['vocabulary'],
            context_length=shape['length'],
            num_layers=shape['layers'],
            width=shape['width'],
            num_heads=shape['heads'],
            activation='gelu',
            position='learned',
            norm='layernorm',
            init_kernel='normal',
            **settings,
        ),
        data=DataConfig(sequence_length=shape['length'], document_masking=False),
        objective=objective,
        optimizer=AdamW(learning_rate=1e-3, weight_decay=0.1, b1=0.9, b2=0.95, epsilon=1e-8),
        schedule=Constant(warmup=0),
        training=TrainingConfig(batch_size=shape['batch'], clip_norm=1.0),
    )


class Side:
    """The compiled step, its state and its data."""

    def __init__(self, shape: dict, settings: dict):
        import jax

        from llm.training.train_state import create_state
        from llm.training.train_step import hyperparameters, make_train_step

        config = config_of(shape, settings)
        self.create = jax.jit(lambda seed: create_state(config, seed))
        self.state = self.create(0)
        self.step = jax.jit(make_train_step(config), donate_argnums=0)
        self.hyper = hyperparameters(config)
        size = (shape['batch'], shape['length'] + 1)
        rows = np.random.RandomState(0).randint(0, shape['vocabulary'], size).astype(np.int32)
        weights = np.ones((shape['batch'], shape['length']), np.float32)
        self.batch = jax.device_put({'inputs': rows[:, :-1], 'targets': rows[:, 1:], 'loss_weights': weights})
        self.wait = jax.block_until_ready
        self.parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        self.flatten = jax.tree_util.tree_flatten_with_path

    def _advance(self):
        self.state, metrics = self.step(self.state, self.batch, self.hyper)
        return metrics['loss']

    def time(self, steps: int) -> dict:
        seconds, cpu = [], time.process_time()
        for _ in range(steps):
            start = time.perf_counter()
            total, weight = self.wait(self._advance())
            self.wait(self.state)
            seconds.append(time.perf_counter() - start)
        return {'seconds': seconds, 'cpu_seconds': time.process_time() - cpu, 'loss': float(total / weight)}

    def save(self, path: str) -> dict:
        self.state = self.create(0)
        leaves = self.flatten(self.state.params)[0]
        np.savez(path, **{'/'.join(key.key for key in names): np.asarray(leaf) for names, leaf in leaves})
        return {}

    def losses(self, steps: int) -> dict:
        sums = [self._advance() for _ in range(steps)]
        return {'losses': [float(total / weight) for total, weight in sums]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--shape', type=json.loads, required=True, help='vocabulary, length, layers, width, heads, batch'
    )
    parser.add_argument('--settings', type=json.loads, default={}, help='fields of ModelConfig, and vocabulary_chunk')
    parser.add_argument('--threads', type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)
    from llm.environment import prepare_process

    prepare_process(arguments.threads)  # as every command does
    import jax

    side = Side(arguments.shape, arguments.settings)
    versions = {'jax': jax.__version__, 'python': platform.python_version(), 'threads': arguments.threads}
    print(json.dumps(versions | {'parameters': side.parameters}), file=answers)
    functions = {
        'time': lambda n: side.time(int(n)),
        'save': side.save,
        'losses': lambda n: side.losses(int(n)),
    }
    for line in sys.stdin:
        command, argument = line.split(maxsplit=1)
        print(json.dumps(functions[command](argument.strip())), file=answers)


if __name__ == '__main__':
    main()
