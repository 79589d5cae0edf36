"""Spaces of configs: an algebra over overrides of a base.

    product(axis('model.position', 'rope', 'alibi'), axis('optimizer.learning_rate', 1e-3, 3e-3), seeds(3))

A space is a tuple of points. A point has labels, which make the name of its run, and overrides of config fields by
their dotted names. Spaces are plain values: they combine, nest and print. `configs` puts them on a base.
"""

import contextlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm import config_json
from llm.config import Config
from llm.errors import UserError


@dataclass(frozen=True)
class Point:
    """One config to be.

    Attributes:
        labels: joined, the name of the run; empty is the base.
        values: (dotted name, value) of each field that is overridden.
    """

    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, Any], ...] = ()

    def joined(self, other: 'Point') -> 'Point':
        """Both points' overrides.

        Raises:
            UserError: if both set a field.
        """
        mine = dict(self.values)
        for name, _ in other.values:
            if name in mine:
                raise UserError(f'{name} is set twice in one point of the sweep; leave one of them out')
        return Point(self.labels + other.labels, self.values + other.values)


Space = tuple[Point, ...]
BASE: Space = (Point(),)


def point(label: str, overrides: Mapping[str, Any] | None = None, **fields: Any) -> Space:
    """One named change of several fields, `point('post-norm', {'model.norm_placement': 'post'})`.

    Args:
        label: its name.
        overrides: by dotted name.
        **fields: of the config's top level, `seed=1`.
    """
    return (Point((label,), tuple({**(overrides or {}), **fields}.items())),)


def axis(field: str, *values: Any) -> Space:
    """One point for each value of a field, labelled `name=value`."""
    if not values:
        raise UserError(f'the sweep gives {field} no value')
    return tuple(Point((f'{field.split(".")[-1]}={_label(value)}',), ((field, value),)) for value in values)


def seeds(count: int, first: int = 0) -> Space:
    """Repetitions: seed i decides initial weights, dropout and data order, so runs of one seed are paired."""
    if count < 1:
        raise UserError(f'a sweep over {count} seeds has no run; take at least 1')
    return tuple(
        Point((f'seed={seed}',), (('seed', seed), ('data.seed', seed))) for seed in range(first, first + count)
    )


def product(*spaces: Space) -> Space:
    """Every combination, the last space fastest."""
    result = BASE
    for space in spaces:
        result = tuple(left.joined(right) for left, right in itertools.product(result, space))
    return result


def zipped(*spaces: Space) -> Space:
    """The first points of all together, then the second ones, and so on.

    Raises:
        UserError: if they are not equally long.
    """
    if len({len(space) for space in spaces}) > 1:
        raise UserError(f'zipped spaces have {", ".join(str(len(space)) for space in spaces)} points; make them equal')
    result = tuple(Point() for _ in spaces[0]) if spaces else ()
    for space in spaces:
        result = tuple(left.joined(right) for left, right in zip(result, space, strict=True))
    return result


def chain(*spaces: Space) -> Space:
    """The points of one space after those of another."""
    return tuple(itertools.chain.from_iterable(spaces))


@dataclass(frozen=True)
class Uniform:
    """A number from [low, high)."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        return float(random.uniform(self.low, self.high))


@dataclass(frozen=True)
class LogUniform:
    """A number from [low, high) whose logarithm is uniform; for learning rates and the like."""

    low: float
    high: float

    def draw(self, random: np.random.Generator) -> float:
        return float(np.exp(random.uniform(np.log(self.low), np.log(self.high))))


@dataclass(frozen=True)
class Among:
    """One of these, each as likely as the others."""

    values: tuple[Any, ...]

    def draw(self, random: np.random.Generator) -> Any:
        return self.values[random.integers(len(self.values))]


Distribution = Uniform | LogUniform | Among


def sample(count: int, distributions: Mapping[str, Distribution], seed: int = 0) -> Space:
    """Random search (Bergstra & Bengio 2012): points drawn independently, the same ones for the same seed.

    Args:
        count: how many; the first points of a larger sample are those of a smaller one.
        distributions: by dotted name.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    draws = [{name: one.draw(random) for name, one in distributions.items()} for _ in range(count)]
    return tuple(Point((f'draw={i}',), tuple(values.items())) for i, values in enumerate(draws))


def configs(base: Config, space: Space) -> dict[str, Config]:
    """The configs of a space, by the names of their runs; each config carries its name.

    Raises:
        UserError: for a field that the config does not have, a value that it refuses, or two runs of one name.
    """
    result: dict[str, Config] = {}
    for one in space:
        name = ','.join(one.labels) or 'base'
        if name in result:
            raise UserError(f'the sweep has two runs named {name}; give their points different labels')
        try:
            result[name] = config_json.override(base, {'name': name, **dict(one.values)})
        except UserError as error:
            raise UserError(f'run {name}: {error}') from error
    if not result:
        raise UserError('the sweep has no run')
    return result


def parse_axis(text: str) -> Space:
    """An axis as typed: `optimizer.learning_rate=1e-3,3e-3` or `model.position=rope,alibi`.

    Values are JSON where they can be, else words; `model.windows=[64],[null]` is two lists.
    """
    field, sign, values = text.partition('=')
    if not sign or not values:
        raise UserError(f'{text!r} is no axis of a sweep; write FIELD=VALUE,VALUE,...')
    return axis(field.strip().replace('-', '_'), *_values(values))


def _values(text: str) -> Sequence[Any]:
    with contextlib.suppress(ValueError):
        return json.loads(f'[{text}]')  # lists have commas of their own
    return [_value(word.strip()) for word in text.split(',')]


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return {'None': None, 'True': True, 'False': False}.get(word, word)


def _label(value: Any) -> str:
    """A value as part of the name of a folder."""
    text = getattr(value, 'kind', None) or (f'{value:.6g}' if isinstance(value, float) else str(value))
    return re.sub(r'[^\w.+-]+', '_', text).strip('_') or 'empty'
