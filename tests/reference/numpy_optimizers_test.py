"""The NumPy optimizers are themselves checked, against PyTorch's values (fixtures/make_torch_optimizers.py)."""

import json
import pathlib

import numpy as np
import numpy.testing as npt
import pytest
from reference import numpy_optimizers as ref

TORCH = np.load(pathlib.Path(__file__).parents[1] / 'fixtures' / 'torch_optimizers.npz')
SETTINGS = json.loads(str(TORCH['settings']))


@pytest.mark.parametrize(
    'key', [k for k in TORCH.files if k.partition('/')[0] in ('adamw', 'sgd', 'adafactor', 'muon')]
)
def test_five_updates_equal_torch(key):
    name, _, parameter = key.partition('/')
    p, state = TORCH[f'initial/{parameter}'], {}
    settings = dict(SETTINGS[name])
    peak = settings.pop('learning_rate')
    settings['weight_decay'] *= parameter != 'vector'
    for step, g in enumerate(TORCH[f'gradients/{parameter}'], start=1):
        learning_rate = peak * min(1, step / SETTINGS['warmup'])
        p = getattr(ref, name)(p, g, state, step, learning_rate=learning_rate, **settings)
        npt.assert_allclose(p, TORCH[key][step - 1], rtol=1e-10, atol=1e-12)


def test_lion_by_hand():
    # Chen et al. 2023: the sign of b1 m + (1 - b1) g, then m moves with b2. Second update: 0.5 * 0.25 - 0.5 * 0.2 > 0.
    settings = {'learning_rate': 0.1, 'weight_decay': 0.5, 'b1': 0.5, 'b2': 0.75}
    state = {}
    p = ref.lion(np.array([2.0]), np.array([1.0]), state, 1, **settings)
    npt.assert_allclose(p, [2 - 0.1 * (1 + 0.5 * 2)])
    npt.assert_allclose(state['m'], [0.25])
    p = ref.lion(p, np.array([-0.2]), state, 2, **settings)
    npt.assert_allclose(p, [1.8 - 0.1 * (1 + 0.5 * 1.8)])
    npt.assert_allclose(state['m'], [0.75 * 0.25 - 0.25 * 0.2])
