"""A run's model on the files that it has not seen: size and speed, beside programs that know nothing of text."""

import math
import time
from collections.abc import Sequence
from typing import Any

from experiments.compression import others
from llm.analysis import memory, statistics
from llm.compression import archive, container
from llm.compression.compressor import Compressor
from llm.config import Config
from llm.data import split
from llm.data.corpora import Document, open_corpus
from llm.errors import MachineError, UserError

STREAMS = (4, 16, 64, 256)  # numbers to try, on the first `PART` bytes: with few, all of them would take minutes
PART = 100_000


def documents(config: Config) -> tuple[list[Document], bytes]:
    """The held-out documents of a run's corpora, and its training text in one piece; equal ones count once.

    Raises:
        UserError: if nothing is held out.
    """
    duplicates = split.Deduplicator()
    held_out, training = [], []
    for source in config.data.corpora:
        for document in duplicates.unique(source, open_corpus(source, config.data).read()):
            if split.is_held_out(document.identity):
                held_out.append(document)
            else:
                training.append(document.text)
    if not held_out:
        raise UserError(f'no document of {", ".join(config.data.corpora)} is held out; give the corpora more')
    return held_out, b''.join(training)


def measure(
    compressor: Compressor, files: Sequence[Document], training: bytes, streams: Sequence[int]
) -> dict[str, Any]:
    """Compresses all files as one, and each by itself, with every program; then with several numbers of streams.

    Args:
        compressor: a run's model.
        files: held out.
        training: what the model has seen.
        streams: numbers to try, on the first `PART` bytes.
    """
    each, whole = [file.text for file in files], b''.join(file.text for file in files)
    rows = []
    for program in (*others.programs(), others.primed(training)):
        together, apart = others.measure(program, [whole]), others.measure(program, each)
        rows.append(_row(program.name, together, apart, each))
    warm_up(compressor, whole, compressor.streams(len(whole) // 8))
    together = _both_ways(compressor, whole)
    apart = others.Timed([len(archive.compress(compressor, text).data) for text in each], (math.nan, math.nan))
    rows.append(_row('the model', together, apart, each))
    part = whole[:PART]
    return {
        'run': compressor.name,
        'step': compressor.step,
        'parameters': memory.parameter_count(compressor.model.config),
        'files': len(files),
        'bytes': len(whole),
        'training_bytes': len(training),
        'rows': rows,
        'part': len(part),
        'streams': [_streams(compressor, part, number) for number in streams],
    }


def _row(name: str, together: others.Timed, apart: others.Timed, each: Sequence[bytes]) -> dict[str, Any]:
    size = sum(map(len, each))
    return {
        'name': name,
        'together': together.sizes[0],
        'apart': sum(apart.sizes),
        'error': 8 * (statistics.ratio_error(apart.sizes, [len(text) for text in each]) or 0.0),
        'kB_per_second': [size / 1000 / max(seconds, 1e-9) for seconds in together.seconds],
    }


def _both_ways(compressor: Compressor, data: bytes) -> others.Timed:
    """As `others.measure`, of one document: both ways, with what comes out compared."""
    start = time.perf_counter()
    made = archive.compress(compressor, data).data
    middle = time.perf_counter()
    again = archive.restore(compressor, container.from_bytes(made, 'the archive'))
    end = time.perf_counter()
    if again != data:
        raise MachineError('what came out of an archive is not what went in')
    return others.Timed([len(made)], (middle - start, end - middle))


def warm_up(compressor: Compressor, data: bytes, streams: int) -> None:
    """Compiles the programs of so many long streams; their seconds are not the compressor's speed."""
    made = archive.compress(compressor, data[: 1000 * streams], streams)
    archive.restore(compressor, container.from_bytes(made.data, 'the archive'))


def _streams(compressor: Compressor, data: bytes, number: int) -> dict[str, Any]:
    warm_up(compressor, data, number)
    start = time.perf_counter()
    made = archive.compress(compressor, data, number)
    return {
        'streams': number,
        'bits_per_byte': 8 * len(made.data) / len(data),
        'kB_per_second': len(data) / 1000 / (time.perf_counter() - start),
    }
