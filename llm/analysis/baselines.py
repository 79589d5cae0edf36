"""What general-purpose compressors make of the held-out documents: the bits per byte a language model has to beat."""

import gzip
import lzma
from collections.abc import Sequence

GZIP = 'gzip -9, each file'
XZ = 'xz -9, each file'
XZ_ALL = 'xz -9, all files as one'


def compressors(documents: Sequence[bytes]) -> dict[str, float]:
    """Bits per byte of the documents under each compressor, headers included.

    The first two start afresh at every document, as a model that sees no other held-out document does; the last may
    copy from one document to the next.

    Args:
        documents: the held-out documents as UTF-8 bytes.

    Returns:
        {compressor: bits per byte}, worst first for most text; empty when there are no bytes.
    """
    total = sum(map(len, documents))
    if total == 0:
        return {}
    compressed = {
        GZIP: sum(len(gzip.compress(document, compresslevel=9, mtime=0)) for document in documents),
        XZ: sum(len(lzma.compress(document, preset=9)) for document in documents),
        XZ_ALL: len(lzma.compress(b''.join(documents), preset=9)),
    }
    return {name: 8 * size / total for name, size in compressed.items()}
