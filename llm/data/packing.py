"""Several examples to a row: less padding, the same loss.

Best-fit decreasing: the longest example first, each into the row that it leaves least room in (Ding et al. 2024, "Fewer
truncations improve language modeling"). No example is cut. In a row each is a segment of its own with positions from 0,
so attention sees what it would see if the example had a row to itself.
"""

import bisect
from collections import deque
from collections.abc import Sequence

import numpy as np


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Deals out examples to rows; the same lengths give the same rows.

    Args:
        lengths: of the examples, each at most `room`.
        room: columns of a row.

    Returns:
        For each row the indices of its examples, in the order they lie in.
    """
    rows: list[list[int]] = []
    open_rows: dict[int, deque[int]] = {}  # by the room that is left, the oldest first
    rooms: list[int] = []  # its keys, sorted
    for index in np.argsort(-np.asarray(lengths, np.int64), kind='stable').tolist():
        length = int(lengths[index])
        if length > room:
            raise ValueError(f'example {index} has length {length}, more than the room of {room}')
        place = bisect.bisect_left(rooms, length)
        if place < len(rooms):
            left = rooms[place]
            row = open_rows[left].popleft()
            if not open_rows[left]:
                del open_rows[left], rooms[place]
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(index)
        left -= length
        if left not in open_rows:
            open_rows[left] = deque()
            bisect.insort(rooms, left)
        open_rows[left].append(row)
    return rows
