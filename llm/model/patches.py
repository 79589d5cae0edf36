"""Images as tokens: squares of pixels to vectors (Dosovitskiy et al. 2021), read in one sequence with those of text.

A square patch of pixels times one matrix is a token of the image (as in Fuyu, Bavishi et al. 2023): there is no
network for images beside the model, its blocks read patches and words together from the first one on.

Where patches lie in a row of tokens is said by one array, `patches`: 0 at a token of text, k at the row's k-th patch,
counted through its images, each of them from the top left, row by row. An image's patches follow each other, all of
them, in that order.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from llm.config import ModelConfig
from llm.model.dtypes import activation_dtype
from llm.model.initializers import random_parameter
from llm.model.linear import matmul


class PatchEncoder(nn.Module):
    """A vector for each patch: its pixels, from -1 to 1, times a matrix.

    With `image_positions` 'learned' it gets a vector of its row and one of its column added (as factorised in NaViT,
    Dehghani et al. 2023), at the size that tokens of text begin with.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, images: Float[Array, 'batch images height width channels']
    ) -> Float[Array, 'batch patches embed']:
        """Patches of all images of a row behind each other. Pixels are from 0 to 1."""
        config = self.config
        side, inputs = config.patches_per_side, config.patch_size**2 * config.image_channels
        init = nn.initializers.normal(config.init_std * inputs**-0.5)
        kernel = random_parameter(self, 'kernel', init, (inputs, config.width), config.param_dtype)
        pixels = cut(images.astype(activation_dtype(config)), config.patch_size)
        vectors = matmul(2 * pixels - 1, kernel, config)
        if config.image_positions == 'learned':
            init, shape = nn.initializers.normal(config.init_std), (side, config.width)
            rows, columns = (random_parameter(self, name, init, shape, config.param_dtype) for name in _AXES)
            grid = (rows[:, None, :] + columns[None, :, :]).reshape(1, 1, side**2, config.width)
            vectors = vectors + grid.astype(vectors.dtype)
        return vectors.reshape(vectors.shape[0], -1, config.width) * config.embedding_scale


_AXES = ('rows', 'columns')


def cut(
    images: Float[Array, 'batch images height width channels'], size: int
) -> Float[Array, 'batch images patches pixels']:
    """Images in square patches of `size` pixels a side, row by row, the pixels of each row by row, channels last."""
    batch, number, height, width, channels = images.shape
    squares = images.reshape(batch, number, height // size, size, width // size, size, channels)
    return squares.swapaxes(3, 4).reshape(batch, number, -1, size * size * channels)


def image_numbers(patches: Int[Array, 'batch length'], config: ModelConfig) -> Int[Array, 'batch length']:
    """Which image of its row each token belongs to, from 1; 0 is text."""
    return (patches + config.patches_per_image - 1) // config.patches_per_image


def rotary_positions(
    positions: Int[Array, 'batch length'], patches: Int[Array, 'batch length'], config: ModelConfig
) -> Int[Array, 'batch length half']:
    """The position that each pair of a head turns by: even pairs by the row, odd ones by the column.

    An image that begins at position p has its patch of row r and column c at (p + r, p + c); a token of text is at the
    same position on both axes, so text is turned as in any model. That the pairs take turns gives both axes short and
    long wavelengths (Agrawal et al. 2024, Pixtral; text on the diagonal: Wang et al. 2024, Qwen2-VL).
    """
    number = jnp.where(patches > 0, (patches - 1) % config.patches_per_image, 0)
    start, side = positions - number, config.patches_per_side
    axes = jnp.stack([start + number // side, start + number % side], axis=-1)
    return jnp.tile(axes, config.key_size // 4 + 1)[:, :, : config.key_size // 2]


def image_inputs(model: nn.Module, params: Any, batch: dict[str, Array | None]) -> dict[str, Array]:
    """What `Transformer.apply` takes beside the tokens of a batch that has `images` and `patches`; else nothing.

    Args:
        model: the transformer.
        params: its tree.
        batch: `images` (batch, images, height, width, channels) and `patches` (batch, length), or neither.
    """
    if batch.get('images') is None:
        return {}
    patches = batch['patches']
    vectors = model.apply({'params': params}, batch['images'], patches, method='embed_images')
    return {'input_embeddings': vectors, 'patches': patches}
