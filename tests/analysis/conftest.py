import json
import math

import pytest

from llm.config import Config, ModelConfig, TrainingConfig
from llm.workdir import Workdir

TINY = ModelConfig(vocab_size=300, context_length=256, num_layers=2, width=16, num_heads=2)


@pytest.fixture
def make_workdir(tmp_path):
    """A finished run of three logged steps, as training would have left it."""

    def make(name='run', *, loss=2.0, extra_rows=(), summary=None, **overrides) -> Workdir:
        workdir = Workdir(tmp_path / name)
        workdir.path.mkdir(parents=True)
        config = Config(**({'name': name, 'model': TINY, 'training': TrainingConfig(steps=30)} | overrides))
        workdir.write_config(config)
        rows = [
            {
                'kind': 'train',
                'step': step,
                'attempt': 1,
                'loss': loss + 1 / step,
                'perplexity': math.exp(loss + 1 / step),
                'grad_norm': 0.5,
                'learning_rate': 1e-3,
                'tokens': step * 4096,
                'flops': step * 1e9,
                'seconds': step * 0.25,
                'tokens_per_second': 16384.0,
                'mfu': None,
            }
            for step in (10, 20, 30)
        ]
        rows.append(
            {'kind': 'evaluation', 'step': 30, 'attempt': 1, 'loss': loss, 'bits_per_byte': loss / 2, 'tokens': 99}
        )
        workdir.metrics_file.write_text(''.join(json.dumps(row) + '\n' for row in [*rows, *extra_rows]))
        workdir.write_summary(
            {
                'status': 'done',
                'step': 30,
                'message': '',
                'parameters': 7_654_321,
                'params_sha256': 'c0ffee' * 8,
                'tokens': 122_880,
                'flops': 3e10,
                'seconds': 7.5,
                'tokens_per_second': 16384.0,
                'held_out': {
                    'loss': loss,
                    'perplexity': math.exp(loss),
                    'bits_per_byte': loss / 2,
                    'tokens': 1000,
                    'bytes': 3000,
                    'documents': 7,
                },
                'data': {'documents': 640, 'duplicates_dropped': 3},
                'environment': {'python': '3.11.1', 'device': 'cpu'},
            }
            | (summary or {})
        )
        return workdir

    return make
