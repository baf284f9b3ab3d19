"""From maps to rows: one label set with its numbers, as the kernel had them at the time of reading."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tcpmon.kernel import libbpf
from tcpmon.kernel.load import Table

OTHER = "_other"
_OTHER_KIND = 1
_KEY = struct.Struct("=16sIHH")  # struct series_key
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


@dataclass(frozen=True)
class LabelSet:
    """What a row is counted for. None for a label that was not in force when it was made."""

    comm: str | None
    netns: str | None
    port: str | None


OTHER_SET = LabelSet(OTHER, OTHER, OTHER)
Numbers: TypeAlias = "memoryview | array[int]"  # struct series: 64-bit words in the machine's order
Row = tuple[LabelSet, Numbers]


def rows(series: Table) -> list[Row]:
    """All label sets, read in batches."""
    return [(label_set(key), value.cast("Q")) for key, value in entries(series)]


def entries(series: Table) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values as the kernel has them."""
    key_size, value_size = series.key.size, series.value.size
    for count, keys, values in libbpf.read_batches(series.fd, key_size, value_size):
        numbers = memoryview(values)
        for index in range(count):
            key = keys[index * key_size : (index + 1) * key_size]
            yield key, numbers[index * value_size : (index + 1) * value_size]


def is_other(key: bytes) -> bool:
    *_, kind = _KEY.unpack(key)
    return bool(kind == _OTHER_KIND)


def label_set(key: bytes) -> LabelSet:
    comm, netns, port, kind = _KEY.unpack(key)
    if kind == _OTHER_KIND:
        return OTHER_SET
    name = comm_text(comm.partition(b"\0")[0])
    # 0 is no namespace's number and no service's port: that label was not in force
    return LabelSet(name or None, str(netns) if netns else None, str(port) if port else None)


def comm_text(comm: bytes) -> str:
    """A process name as text. Bytes that are no UTF-8 become \\xNN; backslashes are doubled where they
    could be taken for that, so that different names stay different."""
    try:
        text = comm.decode()
    except UnicodeDecodeError:
        return comm.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return text.replace("\\", "\\\\") if "\\x" in text else text


def merge(found: Iterable[Row], labels: Sequence[str]) -> list[tuple[tuple[str, ...], Numbers]]:
    """Rows by the labels in force, sorted: what differs only in other labels is added up."""
    merged: dict[tuple[str, ...], Numbers] = {}
    for of, numbers in found:
        key = tuple(getattr(of, label) or "" for label in labels)
        before = merged.get(key)
        merged[key] = numbers if before is None else array("Q", map(_add, before, numbers))
    return sorted(merged.items(), key=lambda item: item[0])


def named(found: Iterable[Row]) -> int:
    """How many label sets there are, _other not among them."""
    return sum(of.comm != OTHER or of.netns != OTHER for of, _numbers in found)


def _add(a: int, b: int) -> int:
    return (a + b) & 0xFFFFFFFFFFFFFFFF


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
