"""Arrays that come and go in one block of memory: how large it is, and when they need most."""

import collections
import dataclasses


@dataclasses.dataclass(eq=False)
class Stay:
    """An array in memory from one moment to another, both included.

    Attributes:
        bytes: on one device.
        start, end: moments.
        what: the operation that made it.
        shape, dtype: of the whole array.
        where: where in the program.
    """

    bytes: int
    start: int
    end: int
    what: str
    shape: tuple[int, ...]
    dtype: str
    where: str


def worst_moment(stays: list[Stay]) -> list[Stay]:
    """The arrays that exist when they need most, largest first."""
    changes = collections.Counter()
    for stay in stays:
        changes[stay.start] += stay.bytes
        changes[stay.end + 1] -= stay.bytes
    total, most, moment = 0, 0, 0
    for time in sorted(changes):
        total += changes[time]
        if total > most:
            most, moment = total, time
    return sorted((s for s in stays if s.start <= moment <= s.end and s.bytes), key=lambda stay: -stay.bytes)


def block_size(stays: list[Stay]) -> int:
    """The size of the block: largest first, longest first, each in the tightest gap (XLA's best-fit heap)."""
    placed: list[tuple[int, Stay]] = []
    top = 0
    for stay in sorted(stays, key=lambda stay: (-stay.bytes, stay.start - stay.end)):
        if not stay.bytes:
            continue
        taken = sorted((at, at + s.bytes) for at, s in placed if s.start <= stay.end and stay.start <= s.end)
        offset, tightest, cursor = None, None, 0
        for start, end in taken:
            gap = start - cursor
            if gap >= stay.bytes and (tightest is None or gap < tightest):
                offset, tightest = cursor, gap
            cursor = max(cursor, end)
        offset = cursor if offset is None else offset
        placed.append((offset, stay))
        top = max(top, offset + stay.bytes)
    return top
