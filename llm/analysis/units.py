"""Numbers as people read them. Exact values belong in JSON; these are for tables and pages."""

import math
from typing import Any


def count(value: float) -> str:
    """A count of things with three digits: 950, 122,880, 4.21 M, 1.30 B."""
    for limit, factor, suffix in ((1e6, 1, ''), (1e9, 1e6, ' M'), (1e12, 1e9, ' B'), (math.inf, 1e12, ' T')):
        if abs(value) < limit:
            scaled = value / factor
            return f'{scaled:,.0f}' if factor == 1 else f'{digits(scaled)}{suffix}'
    return str(value)


def flops(value: float) -> str:
    """Floating-point operations with an SI prefix: 1.23 PFLOP."""
    exponent = min(max(int(math.log10(value)) // 3, 0), 8) if value > 0 else 0
    return f'{digits(value / 1000**exponent)} {" kMGTPEZY"[exponent].strip()}FLOP'


def size(num_bytes: float) -> str:
    """Bytes with a binary prefix: 3.42 MiB."""
    exponent = min(int(math.log2(num_bytes)) // 10, 5) if num_bytes >= 1 else 0
    return f'{digits(num_bytes / 1024**exponent)} {("B", "KiB", "MiB", "GiB", "TiB", "PiB")[exponent]}'


def duration(seconds: float) -> str:
    """Time in its two largest units: 48.2 s, 5 min 12 s, 3 h 05 min."""
    if seconds < 60:
        return f'{digits(seconds)} s'
    minutes = round(seconds) // 60
    if minutes < 60:
        return f'{minutes} min {round(seconds) % 60:02d} s'
    return f'{minutes // 60:,} h {minutes % 60:02d} min'


def digits(value: float, significant: int = 3) -> str:
    """A plain number with that many significant digits, never cutting digits before the point."""
    if value == 0 or not math.isfinite(value):
        return '0' if value == 0 else str(value)
    return f'{value:,.{max(0, significant - 1 - math.floor(math.log10(abs(value))))}f}'


def table(header: list[str], rows: list[list[Any]], left: int = 1) -> str:
    """A plain-text table: the first `left` columns aligned left, the rest right."""
    cells = [header, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row):
        padded = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        return '  '.join(padded).rstrip()

    return '\n'.join([line(header), '  '.join('-' * width for width in widths), *map(line, cells[1:])])
