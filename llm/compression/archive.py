"""Bytes to an archive and back, with a run's model.

Any bytes come back: a tokenizer of ours gives each byte that is no UTF-8 a token of its own. Where a tokenizer from
elsewhere does not give a file back as it was, or the model makes it no smaller, the archive holds the file as it is.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from llm.compression import circumstances, codec, container
from llm.compression.compressor import Compressor, load, tokenize
from llm.compression.container import Archive, Coding, Header
from llm.errors import MachineError, UserError
from llm.tokenizer import open_workdir
from llm.training.checkpoint import Checkpoints
from llm.workdir import Workdir

Progress = Callable[[int, int], Any]  # told bytes of the file, and of the code, that are done


class Made(NamedTuple):
    """An archive's bytes, and what its header says."""

    data: bytes
    header: Header


def compress(
    compressor: Compressor, data: bytes, streams: int | None = None, progress: Progress = lambda done, coded: None
) -> Made:
    """Bytes to an archive.

    Args:
        compressor: the model.
        data: any bytes.
        streams: parts that are coded side by side; None is by the size of the file.
        progress: told how far it is.

    Raises:
        UserError: if the number of streams is out of range, or constriction is not installed.
        MachineError: if the model's numbers are not finite.
    """
    if streams is not None and streams < 1:
        raise UserError(f'--streams is {streams}; it must be at least 1')
    sha256 = hashlib.sha256(data).hexdigest()
    header = Header(len(data), sha256, None)
    stored = Made(container.to_bytes(header, data), header)
    tokens = tokenize(compressor.tokenizer, data)
    if tokens is None or not len(tokens):
        return stored
    streams = min(streams or compressor.streams(len(tokens)), len(tokens))
    predictors = compressor.predictors(len(tokens), streams, compressor.window)
    start = compressor.tokenizer.start_id
    payload = codec.encode(predictors, tokens, start, _counter(compressor, len(data), progress))
    coding = Coding(
        model=compressor.name,
        step=compressor.step,
        ema=compressor.ema,
        params_sha256=compressor.params_sha256,
        tokenizer_sha256=compressor.tokenizer.digest,
        tokens=len(tokens),
        streams=streams,
        window=compressor.window,
        numerics=circumstances.numerics(compressor.model.config.compute_dtype),
        made_by=circumstances.made_by(),
        fingerprint=predictors[0].fingerprint,
    )
    header = Header(len(data), sha256, coding)
    made = Made(container.to_bytes(header, payload), header)
    return made if len(made.data) < len(stored.data) else stored


def decompress(workdir: Workdir, archive: Archive, progress: Progress = lambda done, coded: None) -> bytes:
    """The bytes of an archive.

    Args:
        workdir: of the run that it was made with.
        archive: opened.
        progress: told how far it is.

    Raises:
        UserError: if it was made with another model or in other circumstances, or constriction is not installed.
        MachineError: if what comes out is not what went in.
    """
    if archive.header.coding is None:
        return _checked(archive.payload, archive)
    return restore(open_same(workdir, archive), archive, progress)


def restore(compressor: Compressor, archive: Archive, progress: Progress = lambda done, coded: None) -> bytes:
    """The bytes of an archive, with a model that is known to be the archive's; see `decompress`."""
    coding = archive.header.coding
    if coding is None:
        return _checked(archive.payload, archive)
    tokens = codec.decode(
        compressor.predictors(coding.tokens, coding.streams, coding.window),
        archive.payload,
        coding.tokens,
        compressor.tokenizer.start_id,
        coding.fingerprint,
        _counter(compressor, archive.header.size, progress),
    )
    if tokens is None:
        raise MachineError(circumstances.other_numbers(archive))
    return _checked(compressor.tokenizer.decode_bytes(tokens.tolist()), archive)


def open_same(workdir: Workdir, archive: Archive) -> Compressor:
    """Opens the run at the archive's step, if its model is the archive's and this process is like its maker.

    Raises:
        UserError: that names what differs.
    """
    coding = archive.header.coding
    made = f'{archive.where} was compressed with the model {coding.model!r} at step {coding.step}'
    remedy = 'give the workdir that it was made with'
    if open_workdir(workdir.path).digest != coding.tokenizer_sha256:
        raise UserError(f'{made}, and {workdir.path} has another tokenizer; {remedy}')
    if coding.step not in Checkpoints(workdir.checkpoints).steps():
        raise UserError(f'{made}, and {workdir.path} has no such checkpoint; {remedy}')
    circumstances.check(archive)
    compressor = load(workdir, coding.step, coding.ema, coding.numerics['compute_dtype'])
    if compressor.params_sha256 != coding.params_sha256:
        raise UserError(
            f'{made}, whose parameters are {coding.params_sha256[:12]}, and those of {workdir.path} are '
            f'{compressor.params_sha256[:12]}; {remedy}'
        )
    return compressor


def _counter(compressor: Compressor, size: int, progress: Progress) -> Callable[[np.ndarray, int], None]:
    """What is told tokens and bytes of code, and tells `progress` bytes of both."""
    done = 0

    def tell(tokens: np.ndarray, coded: int) -> None:
        nonlocal done
        done += int(compressor.token_sizes[tokens].sum())
        progress(min(done, size), coded)  # a token may stand for a space more than the text has

    return tell


def _checked(data: bytes, archive: Archive) -> bytes:
    header = archive.header
    if len(data) != header.size or hashlib.sha256(data).hexdigest() != header.sha256:
        raise MachineError(
            f'what came out of {archive.where} is not what went in (its SHA-256 differs), so nothing was written; '
            'decompress it where it was made'
        )
    return data
