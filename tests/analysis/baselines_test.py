import gzip
import lzma

from llm.analysis import baselines


def test_bits_per_byte_are_those_of_the_compressed_files():
    documents = [b'def f(x):\n    return x\n' * 20, b'import os\n' * 30, b'']
    total = sum(map(len, documents))
    measured = baselines.compressors(documents)
    assert measured[baselines.GZIP] == 8 * sum(len(gzip.compress(d, 9)) for d in documents) / total
    assert measured[baselines.XZ] == 8 * sum(len(lzma.compress(d, preset=9)) for d in documents) / total
    assert measured[baselines.XZ_ALL] == 8 * len(lzma.compress(b''.join(documents), preset=9)) / total


def test_only_the_compressor_of_all_files_sees_what_they_share():
    document = bytes(i * i % 251 for i in range(2000))
    alone, twice = baselines.compressors([document]), baselines.compressors([document, document])
    assert twice[baselines.GZIP] == alone[baselines.GZIP]
    assert twice[baselines.XZ] == alone[baselines.XZ]
    assert twice[baselines.XZ_ALL] < 0.7 * alone[baselines.XZ_ALL]


def test_no_bytes_no_ratio():
    assert baselines.compressors([]) == baselines.compressors([b'']) == {}
