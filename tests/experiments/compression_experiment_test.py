"""The compression experiment: what its numbers are, and that it runs from end to end."""

import json
import math

import numpy as np
import pytest

pytest.importorskip('constriction')
pytest.importorskip('zstandard')

from experiments.compression import images, others, report, text
from llm.compression import archive, compressor
from llm.config import ModelConfig
from llm.data.corpora import Document
from llm.training.train_state import initial_model

TEXTS = [b'def read(self):\n    return self.value\n' * n for n in (3, 5)]


def test_every_program_gives_back_what_it_took():
    known = b''.join(b'def function_%d(): return %d\n' % (i, i * i) for i in range(500))
    for program in (*others.programs(), others.primed(known)):
        timed = others.measure(program, [*TEXTS, b'', bytes(range(256))])
        assert len(timed.sizes) == 4 and min(timed.sizes) > 0 and min(timed.seconds) > 0


def test_what_is_known_is_cheap():
    draw = np.random.default_rng(0)
    known = draw.integers(0, 256, 200_000, np.uint8).tobytes()
    part = known[1000:9000]
    assert (
        others.measure(others.primed(known), [part]).sizes[0]
        < 100
        < 8000
        <= others.measure(others.programs()[1], [part]).sizes[0]
    )


def test_a_sheet_holds_every_picture_once():
    pictures = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    made = images.sheet(pictures)
    assert made.shape == (4, 9)
    np.testing.assert_array_equal(made[:2, 3:6], pictures[1])
    np.testing.assert_array_equal(made[2:, :3], pictures[3])
    assert not made[2:, 6:].any()


def test_the_code_of_places_is_that_of_counts():
    training = np.array([[0] * 64, [0] * 64, [16] * 64], np.uint8)
    cost = images.histogram_bits(training, np.array([[0] * 32 + [5] * 32], np.uint8))
    np.testing.assert_allclose(cost[0], [-math.log2(3 / 20)] * 32 + [-math.log2(1 / 20)] * 32)


@pytest.fixture(scope='module')
def bytes_model():
    """A random model that reads bytes."""
    from llm.config import TokenizerConfig
    from llm.inference import prepared
    from llm.model.transformer import Transformer
    from llm.tokenizer import train

    config = ModelConfig(vocab_size=272, context_length=66, num_layers=1, width=16, num_heads=2)
    params = prepared.ready(initial_model(config, 0), config)
    tokenizer = train(TokenizerConfig(kind='byte'), 272, [])
    return compressor.Compressor('bytes', 1, False, Transformer(config), params, '00', tokenizer)


def test_what_pixels_cost_is_what_the_archive_has(bytes_model):
    pictures = np.random.default_rng(0).integers(0, images.SHADES, (16, 64), np.uint8)
    cost = images.bits(bytes_model, pictures)
    assert cost.shape == (16, 64)
    assert np.ptp(cost) > 0.1 and abs(cost.mean() - 8) < 0.5  # a random model hardly tells 256 bytes apart
    found = images.measure([bytes_model], pictures[:8], pictures)
    assert found['by_seed'] == [pytest.approx(cost.mean())]
    rows = {row['name']: row['bits_per_pixel'] for row in found['rows']}
    assert rows['the model'] == pytest.approx(cost.mean())
    assert rows['the model, with its archive'] == pytest.approx(8 * found['archive_bytes'][0] / 1024)


def test_the_page_has_every_number(bytes_model, tmp_path):
    files = [Document(f'{i}.py', data) for i, data in enumerate(TEXTS)]
    found = {'text': text.measure(bytes_model, files, b'training ' * 50, (1, 2))}
    sizes = {row['name']: row for row in found['text']['rows']}
    alone = [len(archive.compress(bytes_model, data).data) for data in TEXTS]
    assert sizes['the model']['apart'] == sum(alone)
    pictures = np.random.default_rng(0).integers(0, images.SHADES, (16, 64), np.uint8)
    found['images'] = images.measure([bytes_model], pictures[:8], pictures)
    found['made on'] = {'processor': 'a <b>', 'cores': 2, 'code': 'c'}
    found = json.loads(json.dumps(found))
    page = report.write(tmp_path, found).read_text()
    said = report.summary(found)
    for row in found['images']['rows']:
        assert f'{row["bits_per_pixel"]:.3f}' in page and f'{row["bits_per_pixel"]:.3f}' in said
    for row in found['text']['rows']:
        assert f'{8 * row["together"] / found["text"]["bytes"]:.3f}' in page
    assert '<svg' in page and 'data:image/png' in page and '<b>' not in page


def test_it_pays_where_the_weights_are_saved():
    rows = [
        {'name': 'xz', 'together': 400},
        {'name': 'zstd, knowing the training text', 'together': 100},
        {'name': report.MODEL, 'together': 200},
    ]
    measured = {'bytes': 1000, 'parameters': 50, 'rows': rows}
    assert report.break_even(measured) == pytest.approx(100 / 0.2)  # 100 bytes of weights, 0.2 saved a byte
    rows[-1]['together'] = 500
    assert report.break_even(measured) == math.inf
