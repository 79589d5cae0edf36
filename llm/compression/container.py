"""The file that `compress` writes. Without jax: decompression has to know the thread count before jax is imported.

    8 bytes    MAGIC, which shows at once what a transfer as text would have broken
    14 bytes   version of this format (uint16), bytes of the header (uint32), bytes of the payload (uint64)
    header     JSON, by zlib: `Header`
    payload    of a range coder, or the file as it was
    4 bytes    CRC-32 of all of the above

Numbers are little-endian. The checksum finds damage before a model is read; the SHA-256 of the file in the header is
compared with what comes out.
"""

import dataclasses
import json
import os
import pathlib
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from llm.errors import UserError
from llm.workdir import write_atomically

MAGIC = b'\x8fGBZ\r\n\x1a\n'
VERSION = 1
_SIZES = struct.Struct('<HIQ')
_CRC = struct.Struct('<I')
_FIXED = len(MAGIC) + _SIZES.size


@dataclass(frozen=True)
class Coding:
    """How the payload was coded: everything that decides the model's probabilities.

    Attributes:
        model: the run's name, for people.
        step: its checkpoint, in updates made.
        ema: whether these are the averaged parameters.
        params_sha256: of the parameters.
        tokenizer_sha256: of what decides the ids of a text.
        tokens: how many there are.
        streams: rows that the tokens were cut into.
        window: most tokens that the model sees at a time.
        numerics: what changes the last bits of a probability, by name: thread count, versions, device, types.
        made_by: what else the machine was, for people: processor, version of our code.
        fingerprint: digest of the first step's frequencies, which another machine's have to equal.
    """

    model: str
    step: int
    ema: bool
    params_sha256: str
    tokenizer_sha256: str
    tokens: int
    streams: int
    window: int
    numerics: dict[str, str | int]
    made_by: dict[str, str]
    fingerprint: str

    def __post_init__(self):
        if not (1 <= self.streams <= self.tokens and self.window >= 1 and 'compute_dtype' in self.numerics):
            raise ValueError('such a coding cannot be')


@dataclass(frozen=True)
class Header:
    """What an archive says of itself.

    Attributes:
        size: bytes of the file.
        sha256: of the file.
        coding: None where the payload is the file as it was, because no model makes it smaller.
    """

    size: int
    sha256: str
    coding: Coding | None


@dataclass(frozen=True)
class Archive:
    """An archive in memory; `where` is for errors."""

    header: Header
    payload: bytes
    where: str


def to_bytes(header: Header, payload: bytes) -> bytes:
    """The content of an archive."""
    text = zlib.compress(json.dumps(dataclasses.asdict(header), separators=(',', ':')).encode(), 9)
    body = b''.join((MAGIC, _SIZES.pack(VERSION, len(text), len(payload)), text, payload))
    return body + _CRC.pack(zlib.crc32(body))


def from_bytes(data: bytes, where: str) -> Archive:
    """Opens the content of an archive.

    Args:
        data: all of it.
        where: its name, for errors.

    Raises:
        UserError: if it is no archive, of a newer version, cut short, or damaged.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise UserError(f'{where} is not an archive made by `python -m llm compress`')
    cut = f'{where} is cut short: it has {len(data):,} bytes'
    if len(data) < _FIXED:
        raise UserError(f'{cut}, less than the smallest archive; copy it again')
    version, text_size, payload_size = _SIZES.unpack_from(data, len(MAGIC))
    if version != VERSION:
        raise UserError(f'{where} has format {version}, and this program reads format {VERSION}; use the one it is of')
    size = _FIXED + text_size + payload_size + _CRC.size
    if len(data) < size:
        raise UserError(f'{cut} of {size:,}; copy it again')
    damaged = UserError(f'{where} is damaged: its checksum does not match; restore it from a copy')
    if len(data) > size or _CRC.unpack(data[-_CRC.size :])[0] != zlib.crc32(data[: -_CRC.size]):
        raise damaged
    try:
        header = _header(json.loads(zlib.decompress(data[_FIXED : _FIXED + text_size])))
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise damaged from error
    return Archive(header, data[_FIXED + text_size : -_CRC.size], where)


def _header(fields: dict[str, Any]) -> Header:
    coding = fields.pop('coding')
    return Header(**fields, coding=None if coding is None else Coding(**coding))


def read_file(path: pathlib.Path) -> bytes:
    """The bytes of a file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f'cannot read {path} ({error.strerror}); give a file that is there') from error


def check_target(path: pathlib.Path) -> None:
    """Refuses, before any work is done, a place where nothing can be written; makes its folder.

    Raises:
        UserError: if there is a file already, or no folder can be made or written to.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f'{path} is there already; remove it, or choose another --out')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot make the folder {path.parent} ({error.strerror}); choose another --out') from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f'the folder {path.parent} cannot be written to; choose another --out')


def write_file(path: pathlib.Path, data: bytes) -> None:
    """Writes a file, as a whole or not at all."""
    write_atomically(path, data)
