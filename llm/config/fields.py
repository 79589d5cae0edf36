"""What every section of the config is made of: roles of fields, and checks that name the field and the fix."""

import dataclasses
import typing
from typing import Any, Literal

# How much a field matters to the numbers a run produces; everything unmarked is part of the run's identity.
RUN_LENGTH = {'role': 'run_length'}  # where to stop: a longer run is the same run, continued
LOGGING = {'role': 'logging'}  # what is written down: changes no parameter
PLACEMENT = {'role': 'placement'}  # which device does what: changes no number beyond its last bits

# A field that came after runs had been identified by their hashes: it counts in them where it is not at its default,
# so that the configs of before keep theirs.
LATER = {'later': True}


def require(condition: bool, name: str, value: Any, must: str) -> None:
    """Raises ValueError naming the field, its value and the fix, unless `condition` holds."""
    if not condition:
        raise ValueError(f'{name} is {value!r}; it must be {must}')


def require_choices(section: str, config: Any) -> None:
    """Refuses a word that is none of a field's choices: a misspelt one would quietly mean another model."""
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        words = _words(f.type)
        for word in value if isinstance(value, tuple) else (value,):
            require(not words or word in words, f'{section}.{f.name}', value, f'among {", ".join(words)}')


def _words(annotation: Any) -> tuple[str, ...]:
    """The words of a Literal, of a union of them, or of a tuple of them."""
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return args
    return tuple(word for part in args for word in _words(part))
