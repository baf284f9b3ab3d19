"""Label sets that leave: their counts go into _other, to the last one, and their room is used again.

In steps, of which none loses a count or has one twice:

1. `leaving` names them, and is put in force: what is born for them from now on is _other's, and no program is
   at work that does not know it.
2. One that had an event since it was chosen stays, and so does one with a connection under way: only births
   and a label set's own connections change its numbers, so that the numbers of all others are final.
3. Those are added to the sum, in the entry of `folded` that is not in force. One write to `fold` puts it in
   force, and notes that the label sets are yet to be deleted.
4. They are deleted, which is noted too, and nothing is diverted any more.

A daemon that is killed in between leaves all that in the kernel, and the next one finishes it.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tcpmon.kernel import libbpf, quiescence
from tcpmon.kernel.load import Layout, Table
from tcpmon.metrics import snapshot
from tcpmon.metrics.families import Field
from tcpmon.metrics.numbers import number
from tcpmon.metrics.snapshot import Numbers, Row

_FOLD = struct.Struct("=3Q")
_ONLY = struct.pack("=I", 0)
_PRESENT = b"\x01"


@dataclass(frozen=True)
class Fold:
    """struct fold of bpf/types.h."""

    sum: int
    deleting: int
    label_sets: int


class Folding:
    """The label sets of the kernel, those that left among them as a row of _other's. Ends first what a daemon
    that was killed has begun."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables
        self._series = tables["series"]
        self._settled = _settled(self._series.value)
        self._lock = threading.Lock()  # while label sets are both in the sum and in the table
        self._turn = 0
        self._finish()

    @property
    def label_sets(self) -> int:
        """How many were folded since counting began."""
        return self._fold().label_sets

    def rows(self) -> list[Row]:
        """As snapshot.rows; read anew where label sets left in the middle of it."""
        while True:
            with self._lock:
                turn = self._turn
            found = [*snapshot.rows(self._series), *self._sum()]
            if turn == self._turn:
                return found

    def prints(self) -> Iterator[tuple[bytes, int]]:
        """Each label set's key, and a number that changes when its numbers do; _other's not among them."""
        for key, value in snapshot.entries(self._series):
            if key != snapshot.OTHER_KEY:
                yield key, zlib.crc32(value)

    def fold(self, chosen: Sequence[tuple[bytes, int]]) -> int:
        """Folds label sets, LEAVING of them at most, to which nothing happened since prints() told of them.
        How many it were. For one thread."""
        leaving = self._tables["leaving"].fd
        for key, _ in chosen:
            libbpf.update(leaving, key, _PRESENT)
        quiescence.divert(self._tables)
        final = {key: value for key, before in chosen if (value := self._final(key, before))}
        for key, _ in chosen:
            if key not in final:
                libbpf.delete(leaving, key)
        if final:
            self._move(list(final.values()))
        self._finish()
        return len(final)

    def _move(self, values: Sequence[bytes]) -> None:
        """The label sets that `leaving` names, into the sum."""
        fold = self._fold()
        unused = 1 - fold.sum
        libbpf.update(
            self._tables["folded"].fd,
            struct.pack("=I", unused),
            snapshot.added([self._read_sum(fold), *values]),
        )
        with self._lock:
            self._turn += 1
            self._note(Fold(unused, 1, fold.label_sets + len(values)))
            self._delete()

    def _final(self, key: bytes, before: int) -> bytes | None:
        """A label set's numbers, if they cannot change any more."""
        value = libbpf.lookup(self._series.fd, key, self._series.value.size)
        if value is None or zlib.crc32(value) != before:
            return None
        return value if self._settled(value) else None

    def _finish(self) -> None:
        """Deletes what is in the sum already, and ends the diversion."""
        if self._fold().deleting:
            self._delete()
        quiescence.divert_no_more(self._tables)
        for key in self._leaving():
            libbpf.delete(self._tables["leaving"].fd, key)

    def _delete(self) -> None:
        for key in self._leaving():
            libbpf.delete(self._series.fd, key)
        self._note(replace(self._fold(), deleting=0))

    def _leaving(self) -> list[bytes]:
        return list(libbpf.keys(self._tables["leaving"].fd, self._series.key.size))

    def _sum(self) -> list[Row]:
        fold = self._fold()
        return [(snapshot.OTHER_KEY, self._read_sum(fold))] if fold.label_sets else []

    def _read_sum(self, fold: Fold) -> bytes:
        value = libbpf.lookup(self._tables["folded"].fd, struct.pack("=I", fold.sum), self._series.value.size)
        assert value  # an array has all its entries
        return value

    def _fold(self) -> Fold:
        value = libbpf.lookup(self._tables["fold"].fd, _ONLY, _FOLD.size)
        assert value
        return Fold(*_FOLD.unpack(value))

    def _note(self, fold: Fold) -> None:
        libbpf.update(self._tables["fold"].fd, _ONLY, _FOLD.pack(fold.sum, fold.deleting, fold.label_sets))


def _settled(layout: Layout) -> Callable[[Numbers], bool]:
    """Whether a label set has no connection that is connecting or open."""
    attempts, failures, client, accepts, server = (
        number(layout, Field(name))
        for name in ("attempts", "failures", "client_closes.duration", "accepts", "server_closes.duration")
    )
    return lambda row: attempts(row) == failures(row) + client(row) and accepts(row) == server(row)
