"""Images in examples and prompts: their pixels, and where they stand in the text.

    {"prompt": "<image> What is this?", "completion": "a handwritten seven", "images": [IMAGE]}

An IMAGE is rows of pixels from 0 to 1, each a number or with colours a list of three, or the path of a file, which is
scaled to `model.image_size`. Every `<image>` in the prompt stands for one of them, in order. In a row without `images`
it is text like any other, and so it is in completions.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from llm import chat
from llm.config import ModelConfig
from llm.data.ragged import Ragged
from llm.errors import UserError, first_line
from llm.tokenizer import Tokenizer

MARK = '<image>'
PADDING = 0  # the token at a patch, which is not read
MODES = {1: 'L', 3: 'RGB'}  # what Pillow calls images of so many channels

Image = Float32[np.ndarray, 'height width channels']


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt with images, as ids.

    Attributes:
        ids: tokens; those at patches are padding.
        patches: which token is which patch, see `llm.model.patches`.
        images: pixels from 0 to 1.
    """

    ids: list[int]
    patches: list[int]
    images: tuple[Image, ...]


def read_all(values: Any, model: ModelConfig) -> tuple[Image, ...]:
    """The `images` of a row.

    Raises:
        UserError: if the model reads none, or one is not what it reads.
    """
    if model.image_size is None:
        raise UserError('there are images, and the model reads none; set model.image_size and model.patch_size')
    if not isinstance(values, list | tuple) or not values:
        raise UserError('images must be a list of at least one image')
    return tuple(
        read_file(value, model) if isinstance(value, str | os.PathLike) else _pixels(value, number, model)
        for number, value in enumerate(values, start=1)
    )


def refuse(fields: dict[str, Any], reads_images: bool) -> None:
    """Refuses a row with images where an objective has no place for them.

    Args:
        fields: of the row.
        reads_images: whether the model does; to one that does not, `images` is a field like any other.

    Raises:
        UserError: if there are some.
    """
    if reads_images and 'images' in fields:
        raise UserError('it has images, which only objective sft learns from; leave them out')


def _pixels(value: Any, number: int, model: ModelConfig) -> Image:
    shape = (model.image_size, model.image_size, model.image_channels)
    try:
        pixels = np.asarray(value, np.float32)
    except (ValueError, TypeError):
        pixels = np.zeros(0, np.float32)
    if pixels.size != math.prod(shape) or pixels.shape not in (shape, shape[:2]):
        raise UserError(f'image {number} must be {" x ".join(map(str, shape))} numbers, a list of rows, or a path')
    if not ((pixels >= 0) & (pixels <= 1)).all():
        raise UserError(f'image {number} has pixels outside 0 to 1')
    return pixels.reshape(shape)


def read_file(path: str | os.PathLike, model: ModelConfig) -> Image:
    """Pixels of a file in any format of Pillow's: made gray or coloured, and scaled to the model's size.

    Raises:
        UserError: if it cannot be read, or Pillow is missing.
    """
    try:
        import PIL.Image
    except ImportError as error:
        raise UserError("files of images need Pillow; install it with pip install 'glassbox-llm[images]'") from error
    if model.image_channels not in MODES:
        raise UserError(f'{path}: files have 1 or 3 channels, and model.image_channels is {model.image_channels}')
    try:
        with PIL.Image.open(path) as file:
            image = file.convert(MODES[model.image_channels])
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise UserError(f'{path} cannot be read as an image ({first_line(error)}); give a PNG or JPEG file') from error
    size = (model.image_size, model.image_size)
    if image.size != size:
        image = image.resize(size, PIL.Image.Resampling.BOX if min(image.size) >= size[0] else None)
    return np.asarray(image, np.float32).reshape(*size, model.image_channels) / 255


def write_png(path: str | os.PathLike, image: Image) -> None:
    """Writes an image of one or three channels, its pixels rounded to 256 steps."""
    import PIL.Image

    values = np.round(np.asarray(image) * 255).astype(np.uint8)
    PIL.Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values).save(path, 'PNG')


def encode_prompt(tokenizer: Tokenizer, text: str, images: Sequence[Any], model: ModelConfig) -> ImagePrompt:
    """A prompt to be continued.

    Args:
        tokenizer: the model's.
        text: with a `<image>` for each image.
        images: as in a row's `images`.
        model: what size they must have, and how many tokens they become.

    Raises:
        UserError: if images and marks do not match, or an image is not what the model reads.
    """
    pixels = read_all(images, model)
    ids, patches, rest = _up_to_the_last(tokenizer, text, len(pixels), model)
    after = tokenizer.encode(rest)
    return ImagePrompt(ids + after, patches + [0] * len(after), pixels)


def encode_completion(
    tokenizer: Tokenizer, prompt: str, completion: str, images: Sequence[Image], model: ModelConfig
) -> tuple[list[int], list[int], int, bool]:
    """A prompt with images and what follows it; see `llm.chat.encode_completion`.

    Returns:
        The ids; which of them is which patch; how many are the prompt's; whether these are all ids of the prompt.
    """
    ids, patches, rest = _up_to_the_last(tokenizer, prompt, len(images), model)
    before, after = tokenizer.encode(rest), tokenizer.encode(rest + completion)
    common = chat.common_prefix(before, after)
    patches += [0] * (len(after) + 1)
    return [*ids, *after, tokenizer.end_id], patches, len(ids) + common, common == len(before)


def _up_to_the_last(tokenizer, text, count, model):
    """Ids and patches up to and with the last image, and the text behind it. Each stretch of text is read alone."""
    *before, rest = text.split(MARK)
    if len(before) != count:
        raise UserError(f'the prompt has {MARK} {len(before)} times for {count} image{"s" * (count != 1)}')
    if not rest:
        raise UserError(f'the prompt ends with {MARK}; put at least one character behind it')
    ids = list(tokenizer.prefix_ids)
    patches = [0] * len(ids)
    each = model.patches_per_image
    for number, stretch in enumerate(before):
        new = tokenizer.encode(stretch)
        ids += [*new, *[PADDING] * each]
        patches += [*[0] * len(new), *range(number * each + 1, (number + 1) * each + 1)]
    return ids, patches, rest


def shown(tokenizer: Tokenizer, prompt: ImagePrompt) -> str:
    """A prompt as text, with a mark for each image."""
    each = max(prompt.patches) // len(prompt.images)  # tokens of an image
    parts, stretch = [], []
    for token, patch in zip(prompt.ids, prompt.patches):
        if not patch:
            stretch.append(token)
        elif (patch - 1) % each == 0:
            parts += [tokenizer.decode(stretch), MARK]
            stretch = []
    return ''.join([*parts, tokenizer.decode(stretch)])


def stack(prompts: Sequence[ImagePrompt | None], length: int) -> dict[str, np.ndarray]:
    """`images` and `patches` of rows of prompts, as a batch has them; a row's ids are cut after `length`.

    Args:
        prompts: None is a row without images; at least one has some.
        length: columns.
    """
    some = next(prompt for prompt in prompts if prompt is not None)
    number = max(len(prompt.images) for prompt in prompts if prompt is not None)
    images = np.zeros((len(prompts), number, *some.images[0].shape), np.float32)
    patches = np.zeros((len(prompts), length), np.int32)
    for row, prompt in enumerate(prompts):
        if prompt is not None:
            images[row, : len(prompt.images)] = prompt.images
            patches[row, : len(prompt.patches)] = prompt.patches[:length]
    return {'images': images, 'patches': patches}


class ImageTable:
    """The images of examples; one that several have is kept once."""

    def __init__(self, of_examples: Sequence[Sequence[Image]], patches: Sequence[Int32[np.ndarray, 'tokens']]):
        """
        Args:
            of_examples: the images of each.
            patches: which of its tokens is which patch.
        """
        number: dict[bytes, int] = {}
        images, places = [], []
        for some in of_examples:
            places.append([])
            for image in some:
                key = image.tobytes()
                if key not in number:
                    number[key] = len(images)
                    images.append(image)
                places[-1].append(number[key])
        self._images = np.stack(images)
        self._places, self._patches = Ragged(places, np.int32), Ragged(patches, np.int32)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def counts(self) -> np.ndarray:
        """How many images each example has."""
        return self._places.lengths

    @property
    def tokens(self) -> int:
        """Patches of all examples: tokens that are read and never predicted."""
        return int((self._patches.values > 0).sum())

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image: height, width, channels."""
        return self._images.shape[1:]

    def images(self, example: int) -> Float32[np.ndarray, 'images height width channels']:
        return self._images[self._places[example]]

    def patches(self, example: int) -> Int32[np.ndarray, 'tokens']:
        return self._patches[example]

    def update(self, digest: Any) -> None:
        """Adds the content to a hash."""
        digest.update(self._images.astype('<f4').tobytes())
        self._places.update(digest)
        self._patches.update(digest)
