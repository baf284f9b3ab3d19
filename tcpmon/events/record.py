"""The event record of bpf/types.h: its kinds, and a decoder made of the layout that the compiler gave it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any

from tcpmon.kernel.load import Layout
from tcpmon.kernel.ring import HEADER_BYTES, stride

_NUMBERS = {1: "B", 2: "H", 4: "I", 8: "Q"}
MAPPED = b"\0" * 10 + b"\xff\xff"  # how an IPv4 address begins in a record
Columns = Sequence[tuple[Any, ...]]


class Kind(IntEnum):
    """enum event_kind."""

    ATTEMPT = 0
    CONNECT = 1
    CONNECT_FAILED = 2
    ACCEPT = 3
    CLOSING = 4
    CLOSE = 5


# What the journal is told of, by the names of events.types.
JOURNALED = {kind.name.lower(): kind for kind in (Kind.CONNECT, Kind.CONNECT_FAILED, Kind.ACCEPT, Kind.CLOSE)}


def decoder(layout: Layout, names: Sequence[str]) -> Callable[[bytes], Columns]:
    """A function from records as Ring.read gives them, one at least, to the values of each named field (one
    of a struct within goes by its own name): a tuple with as many values as there are records, in the order
    of `names`.

    Numbers become int; addresses and comms, with all their bytes, bytes.
    """
    flat = {name.rpartition(".")[2]: place for name, place in layout.fields.items()}
    fields = sorted({name: flat[name] for name in names}.items(), key=lambda item: item[1])
    record = struct.Struct(_format([place for _name, place in fields], stride(layout.size)))
    order = [name for name, _place in fields]
    places = [order.index(name) for name in names]

    def decode(records: bytes) -> Columns:
        columns = list(zip(*record.iter_unpack(records), strict=True))
        return [columns[place] for place in places]

    return decode


def _format(places: Sequence[tuple[int, int]], size: int) -> str:
    """For struct: the fields at `places`, (offset, size) each and rising, and padding for all between."""
    parts, at = ["="], 0
    for offset, width in places:
        offset += HEADER_BYTES
        parts += [f"{offset - at}x", _NUMBERS.get(width, f"{width}s")]
        at = offset + width
    return "".join([*parts, f"{size - at}x"])
