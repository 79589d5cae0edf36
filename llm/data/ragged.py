"""Many short arrays in one, so that a table of examples takes the memory of its tokens and not of its padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer, Shaped


class Ragged:
    """Arrays of different lengths, end to end."""

    values: Shaped[np.ndarray, 'total']
    offsets: Int64[np.ndarray, 'arrays+1']  # where each array begins, and the end of the last

    def __init__(self, arrays: Sequence[Sequence[Any]], dtype: Any):
        self.offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        self.values = np.empty(self.offsets[-1], dtype)
        for start, end, array in zip(self.offsets, self.offsets[1:], arrays):
            self.values[start:end] = array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Shaped[np.ndarray, '_']:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Int64[np.ndarray, 'arrays']:
        return np.diff(self.offsets)

    @property
    def largest(self) -> int:
        """The largest value; -1 if there is none."""
        return int(self.values.max(initial=-1))

    def padded(self, indices: Integer[np.ndarray, 'rows'], width: int) -> Shaped[np.ndarray, 'rows width']:
        """Some of the arrays as rows, zeros on the right. None may be longer than `width`."""
        indices = np.asarray(indices, np.int64)
        column = np.arange(width)
        real = column < self.lengths[indices][:, None]
        rows = np.zeros(real.shape, self.values.dtype)
        rows[real] = self.values[(self.offsets[indices][:, None] + column)[real]]
        return rows

    def update(self, digest: Any) -> None:
        """Adds the content to a hash."""
        digest.update(self.offsets.astype('<i8').tobytes())
        digest.update(self.values.astype(self.values.dtype.newbyteorder('<')).tobytes())
