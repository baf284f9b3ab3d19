"""From maps to rows: one label set with its numbers, as the kernel had them at the time of reading."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from tcpmon.kernel import libbpf
from tcpmon.kernel.load import Table

OTHER = "_other"
_OTHER_KIND = 1
_KEY = struct.Struct("=16sIHH")  # struct series_key
OTHER_KEY = _KEY.pack(b"", 0, 0, _OTHER_KIND)
WORD = 8

# The order of bpf/types.h's enum counter.
COUNTERS = (
    "tracked",
    "overflow",
    "lost_connection",
    "lost_connect",
    "lost_state",
    "lost_series",
    "lost_read",
    "lost_event",
    "cut_event",
)


class LabelSet(NamedTuple):
    """What a row is counted for. Empty for a label that was not in force when it was made."""

    comm: str
    netns: str
    port: str


Numbers = bytes  # struct series: 64-bit words in the machine's order
Row = tuple[bytes, Numbers]  # struct series_key, and what is counted for it
Name = TypeVar("Name")


def rows(series: Table) -> list[Row]:
    """All label sets, read in batches."""
    return list(entries(series))


def entries(series: Table) -> Iterator[Row]:
    """The same, one by one."""
    key_size, value_size = series.key.size, series.value.size
    for keys, values in libbpf.read_batches(series.fd, key_size, value_size):
        yield from zip(_cut(keys, key_size), _cut(values, value_size), strict=True)


def _cut(packed: bytes, size: int) -> list[bytes]:
    return [packed[start : start + size] for start in range(0, len(packed), size)]


def label_set(key: bytes) -> LabelSet:
    comm, netns, port, kind = _KEY.unpack(key)
    if kind == _OTHER_KIND:
        return LabelSet(OTHER, OTHER, OTHER)
    name = comm_text(comm.partition(b"\0")[0])
    # 0 is no namespace's number, and no service's port but for who tries that: the label was not in force
    return LabelSet(name, str(netns) if netns else "", str(port) if port else "")


def comm_text(comm: bytes) -> str:
    """A process name as text. Bytes that are no UTF-8 become \\xNN; backslashes are doubled where they
    could be taken for that, so that different names stay different."""
    try:
        text = comm.decode()
    except UnicodeDecodeError:
        return comm.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return text.replace("\\", "\\\\") if "\\x" in text else text


def label_values(key: bytes, labels: Sequence[str]) -> tuple[str, ...]:
    """Of the labels in force."""
    of = label_set(key)
    return tuple([getattr(of, label) for label in labels])


def key_by(key: bytes, labels: Sequence[str]) -> bytes:
    """What is left of a label set's key by the labels in force: that of the label set it is written under."""
    comm, netns, port, kind = _KEY.unpack(key)
    return _KEY.pack(
        comm if "comm" in labels else b"",
        netns if "netns" in labels else 0,
        port if "port" in labels else 0,
        kind,
    )


def merge(found: Iterable[Row], names: Mapping[bytes, Name]) -> Mapping[Name, Numbers]:
    """Rows by the names that their keys go by, in the names' order: those of one name are added up."""
    merged: dict[Name, list[Numbers]] = {name: [] for name in names.values()}
    for key, numbers in found:
        merged[names[key]].append(numbers)
    return {name: rows[0] if len(rows) == 1 else added(rows) for name, rows in merged.items()}


def named(found: Iterable[Row]) -> int:
    """How many label sets there are, _other not among them."""
    return sum(key != OTHER_KEY for key, _numbers in found)


def added(every: Iterable[Numbers]) -> Numbers:
    """Word by word, wrapping as the kernel's do."""
    words = zip(*(memoryview(numbers).cast("Q") for numbers in every), strict=True)
    return array("Q", [sum(word) & 0xFFFFFFFFFFFFFFFF for word in words]).tobytes()


def counters(table: Table) -> Mapping[str, int]:
    """tcpmon's own counters, each the sum over all CPUs."""
    cpus = possible_cpus()
    size = len(COUNTERS)
    totals = {}
    for index in range(size):
        value = libbpf.lookup(table.fd, struct.pack("=I", index), WORD * cpus)
        totals[COUNTERS[index]] = sum(memoryview(value).cast("q")) if value else 0
    return totals


def possible_cpus(source: Path = Path("/sys/devices/system/cpu/possible")) -> int:
    """How many values a per-CPU map has for a key. The file reads like 0-3 or 0,2-3."""
    ends = [part.split("-") for part in source.read_text().strip().split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)
