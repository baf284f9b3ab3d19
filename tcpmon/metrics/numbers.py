"""Numbers of a label set, as the tables of metrics address them: each a function of struct series' words."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from tcpmon.kernel.load import Layout
from tcpmon.metrics.families import Field, Sample
from tcpmon.metrics.snapshot import WORD, Numbers

Number = Callable[[Numbers], int]


def slots(layout: Layout, field: Field) -> Callable[[Numbers], tuple[int, ...]]:
    """All slots of a field, or the one that it names."""
    offset, size = _place(layout, field)
    return struct.Struct(f"={offset}x{size // WORD}Q").unpack_from


def number(layout: Layout, field: Field) -> Number:
    """The sum of its slots."""
    unpack = slots(layout, field)
    return lambda row: sum(unpack(row))


def values(layout: Layout, samples: Sequence[Sample]) -> Callable[[Numbers], tuple[int, ...]]:
    """The samples' values. Words that follow each other are read in one go."""
    first, _size = _place(layout, samples[0].plus)
    in_a_row = [(first + at * WORD, WORD) for at in range(len(samples))]
    if in_a_row == [_place(layout, sample.plus) for sample in samples if not sample.minus]:
        return struct.Struct(f"={first}x{len(samples)}Q").unpack_from
    readers = [_value(layout, sample) for sample in samples]
    if len(readers) == 1:
        (only,) = readers
        return lambda row: (only(row),)
    return lambda row: tuple([read(row) for read in readers])


def _value(layout: Layout, sample: Sample) -> Number:
    if sample.minus is None:
        return number(layout, sample.plus)
    plus, minus = slots(layout, sample.plus), slots(layout, sample.minus)
    return lambda row: sum(plus(row)) - sum(minus(row))


def _place(layout: Layout, field: Field) -> tuple[int, int]:
    """Offset and size, in bytes."""
    offset, size = layout.fields[field.name]
    return (offset, size) if field.slot is None else (offset + field.slot * WORD, WORD)
