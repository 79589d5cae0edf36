"""A model's config.json, field by field: the family's default where one is absent, a refusal where one is strange."""

import json
import pathlib
from typing import Any

from llm.errors import UserError

CONFIG_FILE = 'config.json'
MOST = 2**31 - 1  # of any size: the largest that an axis can have
MOST_LAYERS = 10_000  # far more than any model has
LAYERS = ('num_hidden_layers', 'n_layer')


class Fields:
    """The fields of one config.json."""

    def __init__(self, data: dict[str, Any], source: str | pathlib.Path, defaults: dict[str, Any] | None = None):
        """
        Args:
            data: its content.
            source: the file, for messages.
            defaults: what the family takes where a field is absent.
        """
        self._data, self.source, self._defaults = data, source, defaults or {}

    @classmethod
    def read(cls, folder: pathlib.Path) -> 'Fields':
        """The config of a model's folder.

        Raises:
            UserError: if there is none, or it holds no object.
        """
        path = folder / CONFIG_FILE
        try:
            data = json.loads(path.read_text(encoding='utf-8'))
        except FileNotFoundError as error:
            raise UserError(
                f'{folder} is no model: it has no {CONFIG_FILE}; point at what save_pretrained left'
            ) from error
        except (OSError, ValueError, RecursionError) as error:  # the last: brackets in brackets in brackets
            raise UserError(f'{path} cannot be read ({error}); get it again') from error
        if not isinstance(data, dict):
            raise UserError(f'{path} holds no object; get it again')
        return cls(data, path)

    def with_defaults(self, defaults: dict[str, Any]) -> 'Fields':
        """The same file, read as one of a family."""
        return Fields(self._data, self.source, defaults)

    def get(self, name: str) -> Any:
        """A field, or what the family takes where it is absent; None if that is nothing."""
        return self._data.get(name, self._defaults.get(name))

    def size(self, name: str, least: int = 1) -> int:
        """A field that is a whole number.

        Raises:
            UserError: if it is something else.
        """
        value = self.get(name)
        most = MOST_LAYERS if name in LAYERS else MOST
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(f'{name} is {value!r}; it must be a whole number from {least} to {most:,}')
        return value

    def size_or(self, name: str, otherwise: int | None) -> int | None:
        """A field that is a whole number, or something else where it is absent.

        Raises:
            UserError: see `size`.
        """
        return otherwise if self.get(name) is None else self.size(name)

    def expect(self, name: str, expected: Any) -> None:
        """Refuses a field that says what no model here does; None and absent count as what is expected.

        Raises:
            UserError: if it says something else.
        """
        value = self.get(name)
        if value is not None and value != expected:
            raise self.error(f'{name} is {value!r}; only {expected!r} can be read')

    def choose(self, name: str, choices: dict[str, str]) -> str:
        """What a word of theirs is called here.

        Raises:
            UserError: if it is none of the choices.
        """
        value = self.get(name)
        if not isinstance(value, str) or value not in choices:
            raise self.error(f'{name} is {value!r}; only {", ".join(choices)} can be read')
        return choices[value]

    def error(self, message: str) -> UserError:
        """A refusal that names the file."""
        return UserError(f'{self.source}: {message}')
