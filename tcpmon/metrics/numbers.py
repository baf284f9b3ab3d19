"""Numbers of a label set, as the tables of metrics address them: each a function of struct series' words."""

from __future__ import annotations

import struct
from collections.abc import Callable

from tcpmon.kernel.load import Layout
from tcpmon.metrics.families import Field, Sample
from tcpmon.metrics.snapshot import WORD, Numbers

Number = Callable[[Numbers], int]


def slots(layout: Layout, field: Field) -> Callable[[Numbers], tuple[int, ...]]:
    """All slots of a field, or the one that it names."""
    offset, size = layout.fields[field.name]
    if field.slot is not None:
        offset, size = offset + field.slot * WORD, WORD
    unpack = struct.Struct(f"={size // WORD}Q").unpack_from
    return lambda row: unpack(row, offset)


def number(layout: Layout, field: Field) -> Number:
    """The sum of its slots."""
    unpack = slots(layout, field)
    return lambda row: sum(unpack(row))


def difference(layout: Layout, sample: Sample) -> Number:
    """A sample's value."""
    plus = number(layout, sample.plus)
    if sample.minus is None:
        return plus
    minus = number(layout, sample.minus)
    return lambda row: plus(row) - minus(row)
