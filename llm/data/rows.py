"""Rows of examples: conversations, preferences, prompts, before anybody looks at what is in them.

    jsonl:GLOB        one JSON object a line
    tfds:NAME         a TensorFlow dataset, or NAME@SPLIT+SPLIT; its features are the fields
    task:NAME         made on the spot, see `llm.data.tasks`

A row's identity, which decides whether it is held out, is that of `llm.data.corpora`: path and `#line`, or
`split#number`. A task may give each of its rows one, in the field `identity`; else it is `name#number`.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llm.config import DataConfig
from llm.data import corpora
from llm.errors import UserError

SOURCES = 'jsonl:GLOB, tfds:NAME or task:NAME'


@dataclass(frozen=True)
class Row:
    """One example, as it was found."""

    identity: str  # decides between train and held-out
    where: str  # for people: FILE:LINE, or the dataset and the number
    fields: dict[str, Any]  # plain values: texts, numbers, lists, dictionaries
    problem: str = ''  # why it could not be read; then there are no fields


class BadRow(ValueError):
    """What is wrong with a row; its arguments are the problems."""

    def __str__(self):
        return '; '.join(self.args)


def open_rows(source: str, config: DataConfig) -> list[Row]:
    """Reads every row of a source, blank lines left out.

    Args:
        source: an entry of `data.corpora`.
        config: `bad_bytes` says what to do with bytes that are not UTF-8.

    Raises:
        UserError: if nothing is there, or it cannot be read.
    """
    kind, colon, rest = source.partition(':')
    readers = {'jsonl': _jsonl, 'tfds': _tfds, 'task': _task}
    if not (colon and rest and kind in readers):
        raise UserError(f'data.corpora has {source!r}; rows of examples come from {SOURCES}')
    rows = list(readers[kind](source, rest, config))
    if not rows:
        raise UserError(f'{source} has no rows; check the path, or give it some')
    return rows


def _jsonl(source: str, pattern: str, config: DataConfig) -> Iterator[Row]:
    for identity, path in corpora.find_files(source, pattern):
        offset = 0
        for number, line in enumerate(corpora.read_lines(path), start=1):
            place = f'{identity}#{number}', f'{path}:{number}'
            if line.strip():
                try:
                    fields = json.loads(corpora.valid_utf8(line, str(path), offset, config).rstrip())
                except (ValueError, RecursionError) as error:
                    about = f'{error.msg}, column {error.colno}' if isinstance(error, json.JSONDecodeError) else error
                    yield Row(*place, {}, f'it is not JSON ({about})')
                else:
                    if isinstance(fields, dict):
                        yield Row(*place, _clean(fields, place[1], config))
                    else:
                        yield Row(*place, {}, 'it is not a JSON object')
            offset += len(line)


def _tfds(source: str, name: str, config: DataConfig) -> Iterator[Row]:
    _, _, splits = corpora.open_splits(source, name)
    for split in sorted(splits):
        for i, fields in enumerate(splits[split]):
            where = f'{source} {split}#{i}'
            yield Row(f'{split}#{i}', where, _plain(fields, where, config))


def _task(source: str, name: str, config: DataConfig) -> Iterator[Row]:
    from llm.data.tasks import TASKS  # late: tasks look at the installed library

    if name not in TASKS:
        raise UserError(f'{source} is no task; there are {", ".join(f"task:{n}" for n in sorted(TASKS))}')
    for i, fields in enumerate(TASKS[name]()):
        fields = dict(fields)
        identity = fields.pop('identity', f'{name}#{i}')
        yield Row(identity, f'{source} row {i}', fields)


def _plain(value: Any, where: str, config: DataConfig) -> Any:
    """What TFDS reads, as JSON would have it.

    TFDS has a list of objects as an object of lists: conversations are turned back.
    """
    if isinstance(value, bytes):
        return corpora.valid_utf8(value, f'a text of {where}', 0, config).decode()
    if isinstance(value, dict):
        value = {name: _plain(v, where, config) for name, v in value.items()}
        if 'role' in value and 'content' in value and all(isinstance(v, list) for v in value.values()):
            return [dict(zip(value, message)) for message in zip(*value.values())]
        return value
    if isinstance(value, list | tuple):
        return [_plain(v, where, config) for v in value]
    if hasattr(value, 'tolist'):  # an array, or a number of numpy's
        return _plain(value.tolist(), where, config)
    return value


def _clean(value: Any, where: str, config: DataConfig) -> Any:
    """The same with texts that UTF-8 can carry: JSON can spell half a surrogate pair."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            data = value.encode('utf-8', 'surrogatepass')  # bad bytes like others
            return corpora.valid_utf8(data, f'a text of {where}', 0, config).decode()
        return value
    if isinstance(value, dict):
        return {name: _clean(v, where, config) for name, v in value.items()}
    if isinstance(value, list):
        return [_clean(v, where, config) for v in value]
    return value
