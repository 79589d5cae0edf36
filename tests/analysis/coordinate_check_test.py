"""μP moves activations as much at every width, the standard parametrisation moves them more in wider models."""

import numpy as np
import pytest

from llm.analysis.coordinate_check import NAMES, Coordinates, coordinate_check, plot
from llm.config import SGD, Adafactor, AdamW, Config, Constant, DataConfig, Lion, ModelConfig

# Each at a learning rate that neither stands still nor saturates in four updates.
OPTIMIZERS = [AdamW(4e-3), Lion(1e-3), Adafactor(5e-2), SGD(0.3)]


def slopes(parametrization: str, optimizer=OPTIMIZERS[0], widths: tuple[int, ...] = (32, 256)) -> dict[str, float]:
    model = ModelConfig(
        vocab_size=64,
        context_length=16,
        num_layers=1,
        width=32,
        num_heads=4,
        init_std=0.005,  # small, or the logits' random start, which shrinks with the width, would hide what is learned
        parametrization=parametrization,
        base_width=32 if parametrization == 'mup' else None,
    )
    config = Config(model=model, data=DataConfig(sequence_length=16), optimizer=optimizer, schedule=Constant(warmup=0))
    check = coordinate_check(config, widths)
    assert all(change.shape == (len(widths), 4, 4) for change in check.changes.values())
    assert min(change.min() for change in check.changes.values()) > 1e-4  # a line of zeros would be flat
    return {name: check.slope(name) for name in NAMES}


def test_changes_are_flat_under_mup_and_grow_with_the_width_in_the_standard_parametrisation():
    flat, steep = slopes('mup'), slopes('standard')
    assert {name: slope for name, slope in flat.items() if abs(slope) > 0.15} == {}
    assert {name: slope for name, slope in steep.items() if slope < 0.25} == {}


@pytest.mark.slow
@pytest.mark.parametrize('optimizer', OPTIMIZERS, ids=lambda optimizer: optimizer.kind)
def test_other_optimizers_over_more_widths(optimizer):
    flat = slopes('mup', optimizer, (32, 64, 128, 256))
    logits = flat.pop('logits')  # where the embedding moves little, what they owe to its start still shrinks
    assert logits < 0.2
    assert {name: slope for name, slope in flat.items() if abs(slope) > 0.2} == {}


def test_a_slope_is_that_of_the_logarithms():
    widths = np.array([8.0, 16.0, 64.0])
    change = np.broadcast_to((3 * widths**0.7)[:, None, None], (3, 2, 5))
    check = Coordinates((8, 16, 64), dict.fromkeys(NAMES, change))
    assert check.slope('logits') == pytest.approx(0.7)
    assert check.slope('logits', step=0) == pytest.approx(0.7)
    assert 'logits, slope +0.70' in plot('A title', check)
