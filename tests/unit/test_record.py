"""From the ring's bytes to values, by whatever layout the compiler gave."""

from __future__ import annotations

import struct

import pytest
from eventrecords import EVENT, ROWS, record, records

from tcpmon.events.record import Kind, decoder
from tcpmon.kernel.load import Layout
from tcpmon.kernel.ring import stride


def test_every_field() -> None:
    values = {
        name: bytes([number] * size) if size == 16 else number + 1
        for number, (name, (_offset, size)) in enumerate(EVENT.fields.items())
    }
    columns = decoder(EVENT, tuple(values))(record(**values))
    assert columns == [(value,) for value in values.values()]


def test_in_the_order_asked_for_and_as_often() -> None:
    names = ("remote_port", "ns", "pid", "ns")
    columns = decoder(EVENT, names)(
        record(ns=7, pid=3, remote_port=443) + record(ns=8, pid=4, remote_port=80)
    )
    assert columns == [(443, 80), (7, 8), (3, 4), (7, 8)]


def test_the_largest_numbers() -> None:
    numbers = {"ns": 2**64 - 1, "pid": 2**32 - 1, "local_port": 65535, "kind": 255}
    assert decoder(EVENT, tuple(numbers))(record(**numbers)) == [(number,) for number in numbers.values()]


@pytest.mark.parametrize("size", [20, 21, 24, 25])
def test_another_layout(size: int) -> None:
    """Fields that moved, gaps, and sizes that are no multiple of 8."""
    layout = Layout(size, {"tail": (16, 4), "head": (0, 2), "gap": (8, 4)})
    body = struct.pack("=H6xI4xI", 1, 2, 3).ljust(size, b"!")
    one = (struct.pack("=II", size, 9) + body).ljust(stride(size), b"?")
    assert decoder(layout, ("head", "gap", "tail"))(one * 3) == [(1,) * 3, (2,) * 3, (3,) * 3]


def test_a_field_that_the_layout_lacks() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        decoder(EVENT, ("nonsense",))


def test_half_a_record_is_a_bug() -> None:
    with pytest.raises(struct.error):
        decoder(EVENT, ("pid",))(records([Kind.CLOSE], ROWS[:1])[:-1])
