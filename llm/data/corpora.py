"""Corpora to documents.

    python_stdlib     the source of the installed standard library: works offline, is the same for the same Python
    text:GLOB         your own files, one document each (`**` goes down into folders)
    jsonl:GLOB        one document a line, the text in the field `data.text_field`
    tfds:NAME         a TensorFlow dataset, the text in `data.text_field`; NAME@SPLIT+SPLIT reads only some splits.
                      It is downloaded to TFDS's own folder ($TFDS_DATA_DIR). Datasets whose TFDS code imports
                      TensorFlow or Beam need those installed.

A document's identity does not depend on where the corpus lies: it is a path relative to the corpus's root (for a glob,
the folders before its first wildcard), followed by `#line` for jsonl and tfds.
"""

import contextlib
import errno
import functools
import glob
import hashlib
import io
import json
import os
import pathlib
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from absl import logging

from llm import cache
from llm.config import DataConfig
from llm.errors import UserError


@dataclass(frozen=True)
class Document:
    """One text."""

    identity: str  # decides between train and held-out
    text: bytes  # valid UTF-8


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read more than once, always in the same order."""

    source: str  # as the config names it
    fingerprint: str  # changes when the content does (sizes and times of the files, not their bytes)
    bytes: int  # size on disk, an estimate of the text's
    read: Callable[[], Iterator[Document]]


def documents(source: str, config: DataConfig) -> Iterator[Document]:
    """Every document of a corpus.

    Raises:
        UserError: if there are none, or one cannot be read.
    """
    yield from open_corpus(source, config).read()


def open_corpus(source: str, config: DataConfig) -> Corpus:
    """Finds a corpus, without reading it (a dataset that is not on disk yet is downloaded, or built).

    Args:
        source: an entry of `data.corpora`.
        config: says which field holds the text, and what to do with bad bytes.

    Raises:
        UserError: if nothing is there.
    """
    kind, colon, rest = source.partition(':')
    if source == 'python_stdlib':
        return _open_python_stdlib()
    if colon and kind in ('text', 'jsonl') and rest:
        return _open_files(source, rest, functools.partial(_text if kind == 'text' else _jsonl, config=config))
    if colon and kind == 'tfds' and rest:
        return _open_tfds(source, rest, config)
    raise UserError(f'data.corpora has {source!r}; use python_stdlib, text:GLOB, jsonl:GLOB or tfds:NAME')


# ------------------------------------------------------------------------------------------------------------- files


def _open_files(source: str, pattern: str, read_file: Callable[[pathlib.Path, str], Iterator[Document]]) -> Corpus:
    files = find_files(source, pattern)

    def read():
        for identity, path in files:
            yield from read_file(path, identity)

    fingerprint, size = _fingerprint(path for _, path in files)
    return Corpus(source, fingerprint, size, read)


def open_folder(folder: str | os.PathLike, config: DataConfig) -> Corpus:
    """Every text file in a folder and those in it, one document each; hidden and binary ones are passed over.

    A file is binary if a zero byte is among its first 8,192, as Git has it.

    Raises:
        UserError: if there are none.
    """
    source = f'{os.fspath(folder)}/'
    files = [file for file in find_files(source, f'{glob.escape(os.fspath(folder))}/**/*') if not _is_binary(file[1])]
    if not files:
        raise UserError(f'{source} has no text file; check the path')

    def read():
        for identity, path in files:
            yield from _text(path, identity, config)

    return Corpus(source, *_fingerprint(path for _, path in files), read)


def _is_binary(path: pathlib.Path) -> bool:
    with _readable(path), open(path, 'rb') as file:
        return b'\0' in file.read(8192)


def find_files(source: str, pattern: str) -> list[tuple[str, pathlib.Path]]:
    """The files of a pattern, each with its path relative to the folders before the first wildcard, in that order.

    Raises:
        UserError: if there are none.
    """
    pattern = os.path.expanduser(pattern)
    if os.path.isdir(pattern):
        raise UserError(f'{source} is a folder; name the files in it, as in {source.rstrip("/")}/**/*.txt')
    root = _fixed_root(pattern)
    paths = {pathlib.Path(path) for path in glob.iglob(pattern, recursive=True)}
    files = sorted((path.relative_to(root).as_posix(), path) for path in paths if not path.is_dir())
    if not files:
        raise UserError(f'{source} matches no file; check the path and the pattern')
    return files


def _fixed_root(pattern: str) -> pathlib.Path:
    """The folders before the first wildcard."""
    parts = pathlib.PurePath(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return pathlib.Path(*parts[:fixed])


def _fingerprint(paths: Iterator[pathlib.Path]) -> tuple[str, int]:
    """A hash of where the files are, how large and how old, and their size in bytes together."""
    digest, size = hashlib.sha256(), 0
    for path in paths:
        with _readable(path):
            status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f'{path} is not a regular file; remove it from the corpus')
        size += status.st_size
        digest.update(f'{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0'.encode('utf-8', 'surrogateescape'))
    return digest.hexdigest(), size


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f'cannot read {path} ({error.strerror}); remove it from the corpus or repair it') from error


def _text(path: pathlib.Path, identity: str, config: DataConfig) -> Iterator[Document]:
    with _readable(path):
        data = path.read_bytes()
    yield Document(identity, valid_utf8(data, str(path), 0, config))


def _jsonl(path: pathlib.Path, identity: str, config: DataConfig) -> Iterator[Document]:
    offset = 0
    for number, line in enumerate(read_lines(path), start=1):
        where = f'{path}:{number}'
        if line.strip():
            try:
                row = json.loads(valid_utf8(line, str(path), offset, config))
            except ValueError as error:
                raise UserError(f'{where} is not JSON ({error}); every line must be one JSON object') from error
            text = row.get(config.text_field) if isinstance(row, dict) else None
            if not isinstance(text, str):
                raise UserError(f'{where} has no text in the field {config.text_field!r}; set data.text_field')
            # JSON can spell half a surrogate pair, which UTF-8 cannot: 'surrogatepass' makes it bad bytes like others.
            data = text.encode('utf-8', 'surrogatepass')
            yield Document(f'{identity}#{number}', valid_utf8(data, f'the text of {where}', 0, config))
        offset += len(line)


def read_lines(path: pathlib.Path) -> Iterator[bytes]:
    """The lines of a file. Raises UserError if it cannot be read."""
    with _readable(path), open(path, 'rb') as file:
        yield from file


def valid_utf8(data: bytes, where: str, offset: int, config: DataConfig) -> bytes:
    """The same bytes if they are UTF-8; else reported, and replaced or refused.

    Args:
        data: part of a file.
        where: the file's name, for people.
        offset: the part's place in it, in bytes.
        config: says which.
    """
    try:
        data.decode('utf-8')
    except UnicodeDecodeError as error:
        message = f'{where} is not UTF-8 at byte {offset + error.start} ({error.reason})'
        if config.bad_bytes == 'refuse':
            raise UserError(f'{message}; convert the file, or set data.bad_bytes to replace') from error
        _warn_once(f'{message}: its bad bytes are read as U+FFFD')
        return data.decode('utf-8', 'replace').encode()
    return data


@functools.cache
def _warn_once(message: str) -> None:
    logging.warning('%s', message)  # a corpus is read twice, once for the tokenizer


# -------------------------------------------------------------------------------------------------------------- TFDS


def _open_python_stdlib() -> Corpus:
    from llm.data import python_stdlib

    fingerprint, size = _fingerprint(iter(python_stdlib.source_files()))

    def builder(folder):
        return python_stdlib.PythonStdlib(data_dir=folder, file_format='array_record')

    def build(folder):
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()  # it takes half a second
        with contextlib.redirect_stdout(io.StringIO()):  # where TFDS says that it downloads, which it does not
            try:
                builder(folder).download_and_prepare()
            except RuntimeError as error:  # array_record has no other kind of error
                if os.strerror(errno.ENOSPC) in str(error):
                    raise OSError(errno.ENOSPC, _line(error)) from error
                raise

    def read():
        version = python_stdlib.PythonStdlib.VERSION
        key = f'python_stdlib-{version}-{fingerprint[:16]}'
        folder = cache.entry('corpora', key, build, f'source of the Python {version} standard library')
        try:
            for row in builder(folder).as_data_source(split='train'):
                yield Document(row['identity'].decode(), row['text'])
        except Exception as error:  # array_record raises what it likes
            raise UserError(f'the cached corpus {folder} is damaged ({_line(error)}); delete that folder') from error

    return Corpus('python_stdlib', fingerprint, size, read)


def open_splits(source: str, name: str):
    """A TensorFlow dataset by name, or NAME@SPLIT+SPLIT: its builder, what is known of its splits, and their rows.

    Raises:
        UserError: if it is not on disk and cannot be made.
    """
    import tensorflow_datasets as tfds

    name, _, chosen = name.partition('@')
    try:
        with contextlib.redirect_stdout(sys.stderr):
            builder = tfds.builder(name, data_dir=os.environ.get('TFDS_DATA_DIR'), file_format='array_record')
            builder.download_and_prepare()
        splits = {split: builder.info.splits[split] for split in (chosen.split('+') if chosen else builder.info.splits)}
        rows = {split: builder.as_data_source(split=split) for split in splits}
    except Exception as error:  # every dataset has its own
        raise UserError(
            f'{source} is not available here ({_line(error)}); some datasets need the network, TensorFlow or Beam'
        ) from error
    return builder, splits, rows


def _open_tfds(source: str, name: str, config: DataConfig) -> Corpus:
    builder, splits, rows = open_splits(source, name)
    if config.text_field not in builder.info.features:
        fields = ', '.join(builder.info.features)
        raise UserError(f'{source} has no field {config.text_field!r}; set data.text_field to one of {fields}')

    def read():
        for split in sorted(rows):
            for i, row in enumerate(rows[split]):
                text = row[config.text_field]
                if not isinstance(text, bytes):
                    raise UserError(f'{source} has no text in the field {config.text_field!r}; set data.text_field')
                yield Document(f'{split}#{i}', valid_utf8(text, f'{source} {split}#{i}', 0, config))

    files = sorted(pathlib.Path(file) for split in splits.values() for file in split.filepaths)
    return Corpus(source, *_fingerprint(iter(files)), read)


def _line(error: BaseException) -> str:
    """An exception's first line, not too long."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
