"""What was computed and may be wanted again, up to so many bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class Kept:
    """The values used last whose sizes come to at most `most` bytes; the last one is kept whatever its size."""

    def __init__(self, most: int):
        self._most, self._bytes = most, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: Hashable) -> Any:
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: Hashable, value: Any, size: int) -> Any:
        """Keeps a value of `size` bytes, forgets the ones used longest ago, and returns it."""
        self.drop(key)
        self._values[key] = (value, size)
        self._bytes += size
        while self._bytes > self._most and len(self._values) > 1:
            self.drop(next(iter(self._values)))
        return value

    def drop(self, key: Hashable) -> Any | None:
        """Forgets a value, and returns it if it was there."""
        value, size = self._values.pop(key, (None, 0))
        self._bytes -= size
        return value
