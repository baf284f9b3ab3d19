"""Events to lines: a table's columns, and the lines of many records made at once.

Line by line in Python, making a line costs several times what it takes to make all cells of a column in one
call, since nearly all of them were made before: the texts of ports, addresses, names and pids are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Any

from tcpmon.events.record import MAPPED, decoder
from tcpmon.kernel.load import Layout
from tcpmon.kernel.ring import stride

MAX_KEPT = 65_536  # texts a column; then it starts anew

# What a terminal takes for a command, or a reader for the end of a line: C0, DEL, and, in UTF-8, C1
_HARMLESS = dict.fromkeys((*range(32), *range(127, 160)), "?")
_HARMLESS_BYTES = bytes(0x3F if number < 0x20 or number == 0x7F else number for number in range(256))


@dataclass(frozen=True)
class Column:
    """One column: its heading, padded; the fields it shows; and the padded text for their values.

    `keep`: the text depends on the values alone, and they come again.
    """

    heading: str
    fields: tuple[str, ...]
    text: Callable[..., bytes]
    keep: bool = True


def column(
    title: str, template: str, field: str, value: Callable[[Any], object] | None = None, heading: str = ""
) -> Column:
    """A column of one field: `template` pads its value, or what `value` makes of it, and with %s for %d the
    title too, unless `heading` does that."""
    padded = (heading or template.replace("d", "s")) % title

    def text(found: Any) -> bytes:
        return (template % (found if value is None else value(found))).encode()

    return Column(padded, (field,), text)


class _Kept(dict[Any, bytes]):
    """Texts by value, made when first asked for."""

    def __init__(self, make: Callable[[Any], bytes]) -> None:
        self._make = make

    def __missing__(self, value: Any) -> bytes:
        if len(self) >= MAX_KEPT:
            self.clear()
        made = self[value] = self._make(value)
        return made


class Lines:
    """Makes the lines of a table."""

    def __init__(self, layout: Layout, columns: Sequence[Column]) -> None:
        self._decode = decoder(layout, [field for column in columns for field in column.fields])
        self._cells = [_cells(column) for column in columns]
        self._widths = [len(column.fields) for column in columns]
        self._stride = stride(layout.size)

    def render(self, records: bytes) -> bytes:
        """The lines of records as Ring.read gives them."""
        return b"\n".join([*self.each(records), b""])

    def each(self, records: bytes) -> list[bytes]:
        """The same one by one, without their ends."""
        if not records:
            return []
        values = iter(self._decode(records))
        cells = [
            make([next(values) for _ in range(width)])
            for make, width in zip(self._cells, self._widths, strict=True)
        ]
        return list(map(b"".join, zip(*cells, strict=True)))

    def apart(self, records: bytes) -> list[bytes]:
        """The records one by one, each with its header."""
        return [records[at : at + self._stride] for at in range(0, len(records), self._stride)]


def _cells(column: Column) -> Callable[[Sequence[Sequence[Any]]], Iterable[bytes]]:
    """From the values of a column's fields to its texts."""
    if column.keep and len(column.fields) == 1:
        kept = _Kept(column.text)
        return lambda values: map(kept.__getitem__, values[0])
    return lambda values: map(column.text, *values)


def header(columns: Sequence[Column]) -> bytes:
    return "".join(column.heading for column in columns).encode() + b"\n"


def address_text(address: bytes) -> str:
    """Of 16 bytes; an IPv4-mapped one as IPv4."""
    if is_ipv4(address):
        return inet_ntop(AF_INET, address[12:])
    return inet_ntop(AF_INET6, address)


def is_ipv4(address: bytes) -> bool:
    return address.startswith(MAPPED)


def ip_version(address: bytes) -> int:
    return 4 if is_ipv4(address) else 6


def comm_text(comm: bytes) -> str:
    """A name for a line: bytes that are no UTF-8 as U+FFFD, control characters as question marks."""
    return comm.partition(b"\0")[0].decode("utf-8", "replace").translate(_HARMLESS)


def comm_bytes(comm: bytes) -> bytes:
    """The same as the kernel has it, not decoded."""
    return comm.partition(b"\0")[0].translate(_HARMLESS_BYTES)


def seconds_since_first(template: str) -> Callable[[int], bytes]:
    """For nanoseconds: the text of the seconds since the first that this was asked for."""
    encoded, passed = template.encode(), _since_first()
    return lambda ns: encoded % (passed(ns) / 1e9)


def nanoseconds_since_first(template: str) -> Callable[[int], bytes]:
    encoded, passed = template.encode(), _since_first()
    return lambda ns: encoded % passed(ns)


def _since_first() -> Callable[[int], int]:
    first = -1

    def since(ns: int) -> int:
        nonlocal first
        if first < 0:
            first = ns
        # Two CPUs may get into the ring in another order than they looked at the clock
        return ns - first if ns > first else 0

    return since
