"""Rows with images: what is refused, where patches stand among the ids, and what comes out in a batch."""

import dataclasses
import hashlib

import numpy as np
import numpy.testing as npt
import pytest

from llm.config import SFT, ModelConfig, TokenizerConfig
from llm.data import images
from llm.data.examples import held_out_batches
from llm.data.instructions import InstructionReader
from llm.data.rows import BadRow
from llm.errors import UserError
from llm.tokenizer import BOS, EOS, train

MODEL = ModelConfig(vocab_size=272, context_length=64, width=16, image_size=4, patch_size=2)
LENGTH = 32


@pytest.fixture(scope='module')
def tokenizer():
    return train(TokenizerConfig(kind='byte'), 272, [])


@pytest.fixture
def reader(configure, tokenizer):
    def make(model=MODEL, packing=True, length=LENGTH, **objective):
        config = configure({'sequence_length': length}, objective=SFT(packing=packing, **objective))
        return InstructionReader(dataclasses.replace(config, model=model), tokenizer)

    return make


def image(seed):
    return np.random.default_rng(seed).integers(0, 17, (4, 4)) / 16


def example(text, *seeds, completion='b'):
    return {'prompt': text, 'completion': completion, 'images': [image(seed).tolist() for seed in seeds]}


def test_ids_and_patches_of_an_example(reader, tokenizer):
    (found,) = reader().read(example('x<image><image>yz', 0, 1))
    x, y, z, b = (tokenizer.encode(letter)[0] for letter in 'xyzb')
    assert found.ids.tolist() == [BOS, x, *[0] * 8, y, z, b, EOS]
    assert found.patches.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0]
    assert found.mask.tolist() == [False] * 12 + [True] * 2
    npt.assert_array_equal(np.stack(found.images)[..., 0], np.float32([image(0), image(1)]))


def test_a_mark_is_text_in_rows_without_images_and_in_completions(reader, tokenizer):
    (plain,) = reader().read({'prompt': '<image>', 'completion': 'b'})
    assert plain.ids.tolist() == [BOS, *tokenizer.encode('<image>b'), EOS]
    assert plain.patches is None and not plain.images
    (written,) = reader().read(example('<image>a', 0, completion='<image>'))
    assert written.ids.tolist() == [BOS, *[0] * 4, *tokenizer.encode('a<image>'), EOS]


@pytest.mark.parametrize(
    ('fields', 'said'),
    [
        (example('a<image>b'), 'at least one image'),
        (example('ab', 0), '<image> 0 times for 1 image'),
        (example('<image><image>b', 0), '<image> 2 times for 1 image'),
        (example('<image><image>b', 0, 1, 2), '<image> 2 times for 3 images'),
        (example('a<image>', 0), 'ends with <image>'),
        (example('<image>b', 0) | {'images': [[[0.0] * 3] * 4]}, 'image 1 must be 4 x 4 x 1 numbers'),
        (example('<image>b', 0) | {'images': [[[0.0] * 4] * 3 + [[0.0]]]}, 'image 1 must be 4 x 4 x 1 numbers'),
        (example('<image>b', 0) | {'images': [None]}, 'image 1 must be'),
        (example('<image>b', 0) | {'images': [[[0.0, 0.0, 0.0, 1.5]] * 4]}, 'image 1 has pixels outside 0 to 1'),
        (example('<image>b', 0) | {'images': [[[0.0, 0.0, 0.0, float('nan')]] * 4]}, 'pixels outside 0 to 1'),
        (example('<image>b', 0) | {'images': ['/no/such.png']}, '/no/such.png cannot be read as an image'),
        (example('<image>b', 0) | {'images': 'a.png'}, 'images must be a list'),
        (
            {
                'prompt': [{'role': 'user', 'content': '<image>b'}],
                'completion': [{'role': 'assistant', 'content': 'c'}],
                'images': [image(0).tolist()],
            },
            'texts, not messages',
        ),
    ],
)
def test_what_is_refused(reader, fields, said):
    with pytest.raises((UserError, BadRow), match=said):
        reader().read(fields)


def test_a_model_that_reads_no_images_says_so(reader):
    with pytest.raises(UserError, match=r'set model\.image_size'):
        reader(ModelConfig(vocab_size=272, context_length=64, width=16)).read(example('<image>b', 0))


def test_an_example_whose_images_leave_no_room_is_dropped(reader):
    one = reader(length=8)
    assert one.read(example('<image><image>b', 0, 1)) == []
    assert one.dropped['completion_cut_away'] == 1


def test_a_batch_has_every_example_with_its_own_images(reader):
    """Packed or not, whatever the order: what stands at the patches of an example are its images."""
    for packing in (True, False):
        one = reader(packing=packing)
        texts = ['<image>aa', 'no image', 'q<image><image>w', '<image>e<image>r']
        seeds = [(0,), (), (1, 2), (2, 0)]
        rows = [example(t, *s) if s else {'prompt': t, 'completion': 'b'} for t, s in zip(texts, seeds)]
        table = one.table([[one.read(row)[0] for row in rows]])
        assert table.statistics['images'] == 3  # those that are repeated are kept once
        batch = table.rows(np.arange(len(table)))
        seen = []
        for row, segments in enumerate(batch['segment_ids']):
            for segment in range(1, segments.max() + 1):
                patches = batch['patches'][row][segments == segment]
                numbers = sorted({(patch - 1) // 4 for patch in patches if patch})
                assert [p for p in patches if p] == [4 * n + k + 1 for n in numbers for k in range(4)]
                pixels = [batch['images'][row, n, :, :, 0] for n in numbers]
                seen.append(tuple(hashlib.sha1(x.tobytes()).hexdigest() for x in pixels))
        key = lambda seed: hashlib.sha1(image(seed).astype(np.float32).tobytes()).hexdigest()
        assert sorted(seen) == sorted(tuple(map(key, s)) for s in seeds)
        assert (batch['patches'] > 0).sum() == 4 * sum(map(len, seeds))
        for (filled, real), size in zip(held_out_batches(table, len(table) + 2), [len(table)]):
            assert real == size and not filled['images'][size:].any() and not filled['patches'][size:].any()


@pytest.mark.parametrize('packing', [True, False])
def test_no_patch_is_ever_a_target(reader, packing):
    """Also where everything is trained on: a patch is a vector, there is no token that it would be."""
    own = reader(packing=packing, train_on='all')
    table = own.table([[*own.read(example('x<image>yz', 0)), *own.read({'prompt': 'a', 'completion': 'b'})]])
    batch = table.rows(np.arange(len(table)))
    patches = np.pad(batch['patches'][:, 1:], ((0, 0), (0, 1)))  # which patch each target is
    assert not batch['loss_weights'][patches > 0].any()
    assert batch['loss_weights'].sum() == table.statistics['trained_tokens'] == (10 - 1 - 4) + (4 - 1)


def test_text_alone_has_no_images_in_its_batch_and_the_digest_of_before(reader):
    one = reader()
    rows = [{'prompt': 'a', 'completion': 'b'}] * 2
    plain = one.table([[one.read(row)[0] for row in rows]])
    assert set(plain.rows(np.arange(1))) == {'inputs', 'targets', 'loss_weights', 'segment_ids', 'positions'}

    def digest(*seeds):
        found = hashlib.sha256()
        one.table([[one.read(example('<image>b', seed))[0] for seed in seeds]]).update(found)
        return found.hexdigest()

    assert digest(0, 1) == digest(0, 1) != digest(0, 2)


def test_the_prompt_of_an_example_is_what_is_asked_on_the_command_line(reader, tokenizer):
    """The ids, patches and images that `--image` makes are those that were trained on."""
    one = reader()
    table = one.table([[one.read(example('a<image>b<image>c?', 3, 4, completion='yes'))[0]]])
    trained = table.prompt(0)
    asked = images.encode_prompt(tokenizer, 'a<image>b<image>c?', [image(3), image(4)], MODEL)
    assert (trained.ids, trained.patches) == (asked.ids, asked.patches)
    npt.assert_array_equal(trained.images, asked.images)
    assert images.shown(tokenizer, trained) == 'a<image>b<image>c?'


def test_equal_words_about_other_images_are_other_prompts(reader):
    first, second = (reader().read(example('<image>b', seed))[0] for seed in (0, 1))
    assert first.ids.tolist() == second.ids.tolist() and first.prompt != second.prompt


def test_files_are_read_as_they_were_written(tmp_path):
    pytest.importorskip('PIL')
    steps = np.float32(np.arange(16).reshape(4, 4, 1) * 17 / 255)
    images.write_png(tmp_path / 'a.png', steps)
    (found,) = images.read_all([str(tmp_path / 'a.png')], MODEL)
    npt.assert_allclose(found, steps, atol=1e-6)
    large = np.kron(steps[:, :, 0], np.ones((3, 3)))[:, :, None]
    images.write_png(tmp_path / 'large.png', large)
    npt.assert_allclose(images.read_file(tmp_path / 'large.png', MODEL), steps, atol=1e-6)  # the mean of each square
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(UserError, match=r'text.png cannot be read as an image'):
        images.read_file(tmp_path / 'text.png', MODEL)
