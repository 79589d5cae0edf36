"""Images in the model: the patch encoder against its formula, who sees whom, where patches are, and the cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy.testing as npt
import pytest

from llm.config import SFT, ModelConfig
from llm.model import KVCache, Transformer, attention_backends
from llm.model.patches import PatchEncoder, cut, image_inputs, rotary_positions
from llm.model.rope import apply_rope, rope_angles
from llm.objectives import next_token
from llm.training.train_step import summed_gradients

MODEL = ModelConfig(
    vocab_size=12,
    context_length=16,
    num_layers=2,
    width=16,
    num_heads=2,
    feed_forward_width=24,
    image_size=4,
    patch_size=2,
)
PATCHES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0]  # a word, two images, three words
GROUPS = np.array([0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0])


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion('strict'), jax.numpy_rank_promotion('raise'):
        yield


def variant(**changes) -> ModelConfig:
    return dataclasses.replace(MODEL, **changes)


@functools.cache
def random_params(config: ModelConfig):
    """Parameters of the right shapes, all of them random."""
    init = lambda: Transformer(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))['params']
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(draw.normal(0, 0.3, x.shape), x.dtype), jax.eval_shape(init))


def pixels(*shape: int, seed: int = 0):
    return jnp.asarray(np.random.default_rng(seed).uniform(0, 1, shape), jnp.float32)


def row(values=PATCHES):
    return jnp.array([values], jnp.int32)


TOKENS = jnp.asarray(np.random.default_rng(1).integers(1, 12, (1, len(PATCHES))), jnp.int32)


@functools.partial(jax.jit, static_argnums=0)
def run(config, params, tokens, images=None, patches=None, **more):
    given = image_inputs(Transformer(config), params, {'images': images, 'patches': patches})
    return Transformer(config).apply({'params': params}, tokens, **given, **more)


# ------------------------------------------------------------------------------------------------------- the encoder


@pytest.mark.parametrize('learned', [False, True])
def test_a_patch_is_its_pixels_times_a_matrix(learned):
    """Written out pixel by pixel, in float64."""
    config = variant(image_channels=3, image_positions='learned' if learned else 'rotary', embedding_scale=1.5)
    params, images = random_params(config)['patches'], pixels(1, 2, 4, 4, 3)
    kernel = np.asarray(params['kernel'], np.float64)
    expected = np.zeros((8, 16))
    for image in range(2):
        for r in range(2):
            for c in range(2):
                at, vector = 0, np.zeros(16)
                for y in range(2):
                    for x in range(2):
                        for channel in range(3):
                            value = float(images[0, image, 2 * r + y, 2 * c + x, channel])
                            vector += (2 * value - 1) * kernel[at]
                            at += 1
                if learned:
                    vector += np.asarray(params['rows'][r]) + np.asarray(params['columns'][c])
                expected[image * 4 + r * 2 + c] = 1.5 * vector
    found = Transformer(config).apply(
        {'params': random_params(config)}, images, jnp.arange(1, 9, dtype=jnp.int32)[None], method='embed_images'
    )
    npt.assert_allclose(found[0], expected, atol=1e-5)
    assert set(params) == ({'kernel', 'rows', 'columns'} if learned else {'kernel'})


def test_patches_are_cut_in_reading_order():
    image = jnp.arange(16.0).reshape(1, 1, 4, 4, 1)
    npt.assert_array_equal(cut(image, 2)[0, 0], [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])


def test_patches_begin_at_the_size_of_tokens():
    """For pixels that are black or white, a token of either kind starts with deviation `init_std`."""
    config = variant(width=512)
    vectors, _ = PatchEncoder(config).init_with_output(jax.random.key(0), jnp.round(pixels(1, 4, 4, 4, 1)))
    assert float(jnp.std(vectors)) == pytest.approx(config.init_std, rel=0.05)


# --------------------------------------------------------------------------------------------- who influences whom


def influence(config: ModelConfig) -> np.ndarray:
    """(query, key): whether the gradient of a hidden vector with respect to what is read there is anything but 0."""
    params = random_params(config)
    inputs = jnp.asarray(np.random.default_rng(3).normal(0, 1, (1, len(PATCHES), 16)), jnp.float32)

    tokens = jnp.arange(len(PATCHES), dtype=jnp.int32)[None, :]  # so that a word's vector is a row of the table

    @jax.jit
    def gradients(inputs):
        def hidden(inputs):
            read = params | {'embedding': {'table': inputs[0]}}
            output = Transformer(config).apply(
                {'params': read}, tokens, input_embeddings=inputs, patches=row(), with_logits=False
            )
            return jnp.sum(output.hidden[0] * jax.random.normal(jax.random.key(0), (len(PATCHES), 16)), axis=-1)

        return jax.jacrev(hidden)(inputs)

    return np.asarray(jnp.abs(gradients(inputs))[:, 0].max(axis=-1) != 0.0)


@pytest.mark.parametrize('attention', ['bidirectional', 'causal'])
def test_an_image_sees_all_of_itself_and_text_what_came_before(attention):
    place = np.arange(len(PATCHES))
    mask = place[None] <= place[:, None]
    if attention == 'bidirectional':
        mask = mask | ((GROUPS[:, None] == GROUPS[None]) & (GROUPS[None] > 0))
    npt.assert_array_equal(influence(variant(image_attention=attention)), mask)


def test_backends_that_are_causal_do_not_run_images():
    model = variant(width=32, compute_dtype='bfloat16')
    for platform, name in (('cpu', 'blocks'), ('gpu', 'cudnn'), ('tpu', 'splash')):
        assert 'each other' in attention_backends.unavailable(name, model, platform)
        assert attention_backends.choose(model, platform) == 'reference'
    assert attention_backends.choose(dataclasses.replace(model, image_attention='causal'), 'cpu') == 'blocks'


def test_rows_without_images_are_read_as_by_any_model():
    """Patches that are all 0 change nothing, and what stands in `images` then makes no difference."""
    config = MODEL
    params, nowhere = random_params(config), jnp.zeros_like(row())
    plain = run(config, params, TOKENS).logits
    none = dataclasses.replace(
        config, image_size=None, patch_size=None, image_positions='rotary', attention_backend='reference'
    )
    without = {name: tree for name, tree in params.items() if name != 'patches'}
    npt.assert_array_equal(plain, run(none, without, TOKENS).logits)
    given = [run(config, params, TOKENS, pixels(1, 2, 4, 4, 1, seed=seed), nowhere).logits for seed in range(2)]
    npt.assert_array_equal(*given)
    npt.assert_allclose(given[0], plain, atol=1e-6)


# --------------------------------------------------------------------------------------------------------- positions


def test_rotary_positions_written_out():
    config = variant(width=12, head_dim=6)  # three pairs: row, column, row
    positions = jnp.arange(100, 112, dtype=jnp.int32)[None, :]
    rows = [100, 101, 101, 102, 102, 105, 105, 106, 106, 109, 110, 111]
    columns = [100, 101, 102, 101, 102, 105, 106, 105, 106, 109, 110, 111]
    expected = np.stack([rows, columns, rows], axis=-1)
    npt.assert_array_equal(rotary_positions(positions, row(), config)[0], expected)


def test_a_score_between_patches_depends_on_how_far_apart_they_are_in_rows_and_columns():
    """Wherever the image stands in the sequence, and whichever two patches they are."""
    config = variant(image_size=6, patch_size=2, context_length=64, head_dim=8)
    draw = np.random.default_rng(0)
    query, key = (jnp.asarray(draw.normal(0, 1, (1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def score(start, one, other):
        patches = jnp.array([[3 * r + c + 1 for r, c in (one, other)]], jnp.int32)
        places = jnp.array([[start + 3 * r + c for r, c in (one, other)]], jnp.int32)
        angles = rope_angles(rotary_positions(places, patches, config), 8, 100.0)
        turn = lambda x, i: apply_rope(x, tuple(angle[:, i : i + 1] for angle in angles))
        return float(jnp.sum(turn(query, 0) * turn(key, 1)))

    assert score(0, (0, 0), (1, 2)) == pytest.approx(score(30, (1, 0), (2, 2)), abs=1e-5)
    assert abs(score(0, (0, 0), (1, 2)) - score(0, (0, 0), (2, 1))) > 1e-2  # rows and columns differ
    assert abs(score(0, (0, 2), (1, 0)) - score(0, (0, 0), (0, 1))) > 1e-2  # neighbours in the sequence alone


# ------------------------------------------------------------------------------------------------- cache and packing


@pytest.mark.parametrize('positions', [('rope', 'rotary'), ('alibi', 'learned')])
def test_reading_with_a_cache_is_reading_at_once(positions):
    """A word, then both images behind it, then the rest."""
    config = variant(position=positions[0], image_positions=positions[1])
    params, images = random_params(config), pixels(1, 2, 4, 4, 1)
    whole = run(config, params, TOKENS, images, row()).logits
    cache, found = KVCache.create(config, 1, 16), []
    for start, end in ((0, 1), (1, 9), (9, 12)):
        given = (images, row()[:, start:end]) if start == 1 else ()
        read = run(config, params, TOKENS[:, start:end], *given, cache=cache)
        cache, found = read.cache, [*found, read.logits]
    npt.assert_allclose(jnp.concatenate(found, axis=1), whole, atol=2e-5)


def test_examples_in_one_row_do_not_see_each_others_images():
    """Two examples packed: the logits of each are those it has alone."""
    config, params = variant(context_length=24), random_params(MODEL)
    images = pixels(1, 3, 4, 4, 1)
    first, second = [*PATCHES[:5], 0], [*PATCHES[1:9], 0, 0]
    both = row(first + [p + 4 if p else 0 for p in second])
    tokens = jnp.asarray(np.random.default_rng(2).integers(1, 12, both.shape), jnp.int32)
    segments, positions = row([1] * 6 + [2] * 10), row([*range(6), *range(10)])
    packed = run(config, params, tokens, images, both, segment_ids=segments, positions=positions).logits
    npt.assert_allclose(packed[:, :6], run(config, params, tokens[:, :6], images[:, :1], row(first)).logits, atol=1e-5)
    npt.assert_allclose(packed[:, 6:], run(config, params, tokens[:, 6:], images[:, 1:], row(second)).logits, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- training


@pytest.mark.slow
def test_images_reach_the_patch_encoder_and_text_does_not():
    """Gradients of all its parameters, over two micro-batches, are the finite differences of the whole batch's loss;
    without images they are 0."""
    config = variant(image_positions='learned', num_layers=1)
    loss = next_token.make_loss(SFT(), Transformer(config), next_token.hyperparameters(SFT()))
    tokens = jnp.tile(TOKENS, (2, 1))
    text = {'inputs': tokens, 'targets': tokens, 'loss_weights': jnp.ones(tokens.shape)}
    pictures = {'images': pixels(2, 2, 4, 4, 1), 'patches': jnp.tile(row(), (2, 1))}
    params = random_params(config)

    @jax.jit
    def of(params):
        read = summed_gradients(loss, params, text | pictures, None, accumulation=2)[0]['patches']
        unread = summed_gradients(loss, params, text, None, accumulation=2)[0]['patches']
        return read, unread, loss(params, text | pictures, None)[0]

    read, unread, _ = of(params)
    for name, gradient in read.items():
        direction = jnp.sign(gradient)
        moved = lambda by, name=name, direction=direction: (
            params | {'patches': params['patches'] | {name: params['patches'][name] + by * direction}}
        )
        change = (of(moved(1e-3))[2] - of(moved(-1e-3))[2]) / 2e-3
        assert float(change) == pytest.approx(float(jnp.sum(jnp.abs(gradient))), rel=1e-2)
        assert not unread[name].any()
