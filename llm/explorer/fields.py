"""Reading what a page asks for: numbers from a query, fields from JSON. What is wrong is told in one line."""

import math
from collections.abc import Mapping
from typing import Any

from llm.errors import UserError

_MISSING: Any = object()


class Fields:
    """Named values, each to be taken once; `end` refuses those that nobody took."""

    def __init__(self, values: Any, where: str = ''):
        """
        Args:
            values: an object of JSON, or of a query, whose values are all text.
            where: what it is part of, for messages.

        Raises:
            UserError: if it is no object.
        """
        if not isinstance(values, Mapping):
            raise UserError(f'{where or "the body"} must be an object with named fields')
        self._values, self._where = dict(values), where and f'{where}.'

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """A value as it is; null counts as left out."""
        value = self._values.pop(name, None)
        if value is None:
            if default is _MISSING:
                raise UserError(f'{self._where}{name} is missing')
            return default
        return value

    def integer(self, name: str, default: Any = _MISSING) -> Any:
        value = self.take(name, default)
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                raise UserError(f'{self._where}{name} is {value[:40]!r}; it must be a whole number') from None
        elif value is not default and (isinstance(value, bool) or not isinstance(value, int)):
            raise UserError(f'{self._where}{name} must be a whole number')
        if value is not None and not -(2**53) < value < 2**53:
            raise UserError(f'{self._where}{name} is too large a number')
        return value

    def number(self, name: str, default: Any = _MISSING) -> Any:
        value = self.take(name, default)
        try:
            if isinstance(value, bool):
                raise ValueError
            value = value if value is None else float(value)
            if value is not None and not math.isfinite(value):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise UserError(f'{self._where}{name} must be a number') from None
        return value

    def text(self, name: str, default: Any = _MISSING) -> Any:
        value = self.take(name, default)
        if value is not default and not isinstance(value, str):
            raise UserError(f'{self._where}{name} must be a text')
        return value

    def items(self, name: str, default: Any = _MISSING) -> Any:
        value = self.take(name, default)
        if value is not default and not isinstance(value, list):
            raise UserError(f'{self._where}{name} must be a list')
        return value

    def end(self) -> None:
        """Raises UserError if there is a field that has no meaning here."""
        for name in self._values:
            raise UserError(f'there is no field {self._where}{name[:60]!r} here')
