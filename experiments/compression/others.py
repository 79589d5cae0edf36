"""What other programs make of the same bytes: general-purpose compressors, and PNG for pictures."""

import gzip
import io
import lzma
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from llm.errors import UserError

ZSTD_LEVEL = 19


class Program(NamedTuple):
    """A compressor, and what gives its bytes back."""

    name: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]


class Timed(NamedTuple):
    """What a program made of some documents, each by itself.

    Attributes:
        sizes: bytes of each archive.
        seconds: to compress all, and to decompress all.
    """

    sizes: list[int]
    seconds: tuple[float, float]


def programs() -> list[Program]:
    """gzip, xz and zstd, at their strongest ordinary settings."""
    zstd = _zstandard()
    return [
        Program('gzip -9', lambda data: gzip.compress(data, 9, mtime=0), gzip.decompress),
        Program(
            f'zstd -{ZSTD_LEVEL}',
            lambda data: zstd.ZstdCompressor(level=ZSTD_LEVEL).compress(data),
            lambda data: zstd.ZstdDecompressor().decompress(data),
        ),
        Program('xz -9e', lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
    ]


def primed(training: bytes) -> Program:
    """zstd that has the training text as its dictionary: what a general-purpose compressor can do that knows it too."""
    zstd = _zstandard()
    known = zstd.ZstdCompressionDict(training, dict_type=zstd.DICT_TYPE_RAWCONTENT)
    # The window has to reach over the dictionary, whose matches are then found in all of it.
    log = max(20, (len(training) - 1).bit_length() + 1)
    options = {'window_log': log, 'enable_ldm': True, 'strategy': zstd.STRATEGY_BTULTRA2}
    parameters = zstd.ZstdCompressionParameters.from_level(ZSTD_LEVEL, **options)
    known.precompute_compress(compression_params=parameters)  # once, not for every file
    return Program(
        f'zstd -{ZSTD_LEVEL}, knowing the training text',
        lambda data: zstd.ZstdCompressor(compression_params=parameters, dict_data=known).compress(data),
        lambda data: zstd.ZstdDecompressor(dict_data=known, max_window_size=2**log).decompress(data),
    )


def measure(program: Program, documents: Sequence[bytes]) -> Timed:
    """Compresses documents, and checks that they come back."""
    start = time.perf_counter()
    archives = [program.compress(document) for document in documents]
    middle = time.perf_counter()
    again = [program.decompress(archive) for archive in archives]
    end = time.perf_counter()
    assert again == list(documents), program.name
    return Timed([len(archive) for archive in archives], (middle - start, end - middle))


def png_size(picture: np.ndarray) -> int:
    """Bytes of a picture (rows, columns) of uint8 as a PNG in shades of grey, optimised."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, 'PNG', optimize=True)
    return buffer.tell()


def _zstandard():
    try:
        import zstandard
    except ImportError as error:
        raise UserError("the comparison needs zstandard; pip install 'glassbox-llm[compression]'") from error
    return zstandard
