"""Configs as plain dictionaries and JSON; their hashes, and what differs between two of them."""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from typing import Any

from llm.config import Config
from llm.errors import UserError

SCHEMA_VERSION = 1


def to_dict(config: Any) -> dict:
    """A nested plain dictionary; a choice among several dataclasses carries its `kind`."""

    def plain(value):
        if dataclasses.is_dataclass(value):
            kind = {'kind': value.kind} if hasattr(type(value), 'kind') and _is_choice(type(value)) else {}
            return kind | {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return list(value) if isinstance(value, tuple) else value

    return plain(config)


def from_dict(data: dict, cls: type = Config) -> Any:
    """The inverse of `to_dict`. What an older version did not know keeps its default (which is the old behaviour).

    Raises:
        UserError: for a name that the config does not have, or a value that it refuses.
    """
    return _build(cls, data, '')


def to_json(config: Config) -> str:
    return json.dumps({'schema_version': SCHEMA_VERSION, **to_dict(config)}, indent=2)


def from_json(text: str) -> Config:
    """Reads `to_json`'s output, of this or an older schema version."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise UserError(f'config.json is damaged ({error}); restore it from a copy') from error
    if not isinstance(data, dict):
        raise UserError('config.json is damaged (it holds no object); restore it from a copy')
    version = data.pop('schema_version', None)
    if version is None or version > SCHEMA_VERSION:
        raise UserError(
            f'config.json has schema version {version}, this program reads up to {SCHEMA_VERSION}; update Glassbox'
        )
    return from_dict(data)


def roles(cls: type = Config, prefix: str = '') -> dict[str, str]:
    """Maps the dotted name of every field that is not part of a run's identity to its role in `llm.config`."""
    found = {}
    for f in dataclasses.fields(cls):
        if 'role' in f.metadata:
            found[prefix + f.name] = f.metadata['role']
        elif dataclasses.is_dataclass(f.type):
            found |= roles(f.type, f'{prefix}{f.name}.')
    return found


def flatten(config: Config) -> dict[str, Any]:
    """Every field by its dotted name, in the order of the tree."""
    flat = {}

    def walk(prefix, value):
        for name, item in value.items():
            if isinstance(item, dict):
                walk(f'{prefix}{name}.', item)
            else:
                flat[prefix + name] = item

    walk('', to_dict(config))
    return flat


def difference(a: Config, b: Config, ignore: tuple[str, ...] = ()) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs differ, as {dotted name: (a's, b's)}; `ignore` names roles to leave out."""
    left, right, role = flatten(a), flatten(b), roles()
    names = [n for n in {**left, **right} if role.get(n) not in ignore]
    return {n: (left.get(n), right.get(n)) for n in names if left.get(n) != right.get(n)}


def config_hash(config: Config) -> str:
    """Twelve hex digits of SHA-256 over the whole config."""
    return _digest(flatten(config))


def identity_hash(config: Config) -> str:
    """Like `config_hash`, over the fields that decide the numbers: not where to stop, what is logged or runs where."""
    role = roles()
    return _digest({name: value for name, value in flatten(config).items() if name not in role})


def _digest(flat: dict) -> str:
    return hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()[:12]


def _is_choice(cls: type) -> bool:
    return any(cls in typing.get_args(f.type) for f in dataclasses.fields(Config))


def _build(annotation: Any, value: Any, path: str) -> Any:
    """Makes `value`, as read from JSON, into what `annotation` says."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        choices = {c.kind: c for c in args if dataclasses.is_dataclass(c)}
        if choices:
            kind = value.get('kind') if isinstance(value, dict) else None
            if kind not in choices:
                raise UserError(f'{path[:-1]}.kind is {kind!r}; choose one of {", ".join(choices)}')
            return _build(choices[kind], {name: v for name, v in value.items() if name != 'kind'}, path)
        if value is None and type(None) in args:
            return None
        return _build(next(a for a in args if a is not type(None)), value, path)
    if dataclasses.is_dataclass(annotation):
        fields = {f.name: f for f in dataclasses.fields(annotation)}
        for name, f in fields.items():  # what was the only kind when it was written down
            if hasattr(f.default, 'kind') and isinstance(value.get(name), dict):
                value = value | {name: {'kind': f.default.kind} | value[name]}
        for name in value:
            if name not in fields:
                close = difflib.get_close_matches(name, fields, n=1)
                hint = f'; perhaps you meant {path}{close[0]}' if close else ''
                raise UserError(f'the config has no field {path}{name}{hint}')
        try:
            return annotation(**{n: _build(fields[n].type, v, f'{path}{n}.') for n, v in value.items()})
        except (ValueError, TypeError) as error:
            raise UserError(str(error)) from error
    if origin is tuple:
        return tuple(_build(args[0], v, path) for v in value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value
