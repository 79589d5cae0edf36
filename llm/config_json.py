"""Configs as plain dictionaries and JSON; their hashes, and what differs between two of them."""

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from typing import Any, Literal

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


def override(config: Config, values: dict[str, Any]) -> Config:
    """The config with some fields set, all at once, so that fields which only fit together can be set together.

    Args:
        config: where to start.
        values: by dotted name, `{'model.width': 128}`; a section or choice takes a dataclass, `{'optimizer': Muon()}`,
            a choice also its kind, `{'optimizer': 'muon'}`, and beside it its fields, `{'optimizer.momentum': 0.9}`.

    Raises:
        UserError: for a name that the config does not have, or a value that it refuses.
    """
    tree = to_dict(config)
    for name in sorted(values, key=lambda name: name.count('.')):  # a section before its fields
        *sections, last = name.split('.')
        branch = tree
        for section in sections:
            branch = branch.get(section) if isinstance(branch, dict) else None
        if not isinstance(branch, dict) or last not in branch:
            close = difflib.get_close_matches(name, _names(tree), n=1)
            raise UserError(f'the config has no field {name}{f"; perhaps you meant {close[0]}" if close else ""}')
        value = values[name]
        if isinstance(branch[last], dict) and isinstance(value, str):
            value = _build_choice(name, value)
        branch[last] = to_dict(value)
    return from_dict(tree)


def _build_choice(name: str, kind: str) -> Any:
    """A choice of that kind with its defaults."""
    annotation = {f.name: f.type for f in dataclasses.fields(Config)}[name.split('.')[0]]
    if '.' in name or not typing.get_args(annotation):
        raise UserError(f'{name} is {kind!r}; it is a section, set its fields')
    return _build(annotation, {'kind': kind}, f'{name}.')


def _names(tree: dict, prefix: str = '') -> list[str]:
    """The dotted names of everything in a nested dictionary, sections included."""
    found = []
    for name, value in tree.items():
        found += [prefix + name, *(_names(value, f'{prefix}{name}.') if isinstance(value, dict) else [])]
    return found


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
    return _digest(_counted(config))


def identity_hash(config: Config) -> str:
    """Like `config_hash`, over the fields that decide the numbers: not where to stop, what is logged or runs where."""
    role = roles()
    return _digest({name: value for name, value in _counted(config).items() if name not in role})


def _counted(config: Config) -> dict[str, Any]:
    """The fields that a hash sees: those that came later only where they differ from their default."""
    later = _later()
    return {name: v for name, v in flatten(config).items() if name not in later or v != later[name]}


def _later(cls: type = Config, prefix: str = '') -> dict[str, Any]:
    """Dotted name and default of every field that came after hashes had been stored."""
    found = {}
    for f in dataclasses.fields(cls):
        if f.metadata.get('later'):
            found[prefix + f.name] = f.default
        elif dataclasses.is_dataclass(f.type):
            found |= _later(f.type, f'{prefix}{f.name}.')
    return found


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
        words = tuple(word for a in args if typing.get_origin(a) is Literal for word in typing.get_args(a))
        return _build(Literal[words] if words else next(a for a in args if a is not type(None)), value, path)
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
        if not isinstance(value, list | tuple):
            raise UserError(f'{path[:-1]} is {value!r}; it must be a list')
        return tuple(_build(args[0], v, path) for v in value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = (str, int, float, bool) if origin is Literal else annotation
    if not isinstance(value, expected) or (isinstance(value, bool) and annotation in (int, float)):
        raise UserError(f'{path[:-1]} is {value!r}; it must be {_wanted(annotation)}')
    return value


def _wanted(annotation: Any) -> str:
    """What a field takes, in words."""
    if typing.get_origin(annotation) is Literal:
        return f'among {", ".join(map(str, typing.get_args(annotation)))}'
    return {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'text'}[annotation]
