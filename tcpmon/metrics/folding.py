"""Label sets that leave: their counts go to another name, to the last one, and their room is used again.

The target is _other, or what a label set is called by the labels in force. What it has of others stands in
`folded`, apart from what the programs count. In steps, of which none loses a count or has one twice:

1. `leaving` names them, and is put in force: what is born for them from now on is _other's, and no program is
   at work that does not know it.
2. One that had an event since it was chosen stays, and so does one with a connection under way: only births
   and a label set's own connections change its numbers, so that the numbers of all others are final.
3. One write to `fold` notes the target's new sum, with them in it, and that they are yet to be deleted.
4. The sum is written to `folded`, they are deleted, which is noted too, and nothing is diverted any more.

A daemon that is killed in between leaves all that in the kernel, and the next one finishes it; so does the
next reader where the kernel refused one of the writes.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tcpmon.kernel import libbpf, quiescence
from tcpmon.kernel.load import Layout, Table
from tcpmon.metrics import snapshot
from tcpmon.metrics.families import Field
from tcpmon.metrics.numbers import number
from tcpmon.metrics.snapshot import OTHER_KEY, Numbers, Row

_FOLD = struct.Struct("=24s2Q")  # and the sum behind it
_ONLY = struct.pack("=I", 0)
_PRESENT = b"\x01"


class Print(NamedTuple):
    """A label set's key, and a number that changes when its numbers do; None while it has a connection."""

    key: bytes
    print: int | None


@dataclass(frozen=True)
class Fold:
    """struct fold of bpf/types.h."""

    target: bytes
    deleting: int
    label_sets: int
    sum: Numbers


class Folding:
    """The label sets of the kernel, and what was counted for those that left. Ends first what a daemon that
    was killed has begun."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self._tables = tables
        self._series, self._folded = tables["series"], tables["folded"]
        self._has_no_connection = _settled(self._series.value)
        self._lock = threading.Lock()  # while label sets are both in the sum and in the table
        self._turn = 0
        self._finish()

    @property
    def label_sets(self) -> int:
        """How many went into _other since counting began."""
        return self._fold().label_sets

    def rows(self) -> tuple[list[Row], list[Row]]:
        """As snapshot.rows: the label sets, and what was counted for those that left, by their targets' keys.
        Read anew where some left in the middle of it. OSError where they cannot."""
        while True:
            with self._lock:
                self._delete()
                turn = self._turn
            found = snapshot.rows(self._series), snapshot.rows(self._folded)
            if turn == self._turn:
                return found

    def prints(self) -> Iterator[Print]:
        """All label sets' but _other's."""
        folded = dict(snapshot.entries(self._folded))
        for key, value in snapshot.entries(self._series):
            counted = [value, folded.pop(key, b"")]
            if key != OTHER_KEY:
                yield Print(key, _print(counted) if self._has_no_connection(value) else None)
        folded.pop(OTHER_KEY, None)
        yield from (Print(key, _print([b"", value])) for key, value in folded.items())

    def fold(self, target: bytes, chosen: Sequence[Print]) -> int:
        """Folds label sets, LEAVING of them at most and not the target, to which nothing happened since
        prints() told of them. How many it were. For one thread. OSError: the next call, or the next reader,
        ends what was begun."""
        self._finish()
        leaving = self._tables["leaving"].fd
        for key, _ in chosen:
            libbpf.update(leaving, key, _PRESENT)
        quiescence.divert(self._tables)
        final = {key: value for key, print_ in chosen if (value := self._final(key, print_))}
        for key, _ in chosen:
            if key not in final:
                libbpf.delete(leaving, key)
        if final:
            self._move(target, list(final.values()))
        self._finish()
        return len(final)

    def _move(self, target: bytes, values: Sequence[Numbers]) -> None:
        """The label sets that `leaving` names, into the target's sum."""
        so_far = libbpf.lookup(self._folded.fd, target, self._folded.value.size)
        if so_far is None:
            so_far = bytes(self._folded.value.size)
            libbpf.update(self._folded.fd, target, so_far)  # so that there is room, once that is noted
        total = snapshot.added([so_far, *values])
        label_sets = self._fold().label_sets + (len(values) if target == OTHER_KEY else 0)
        with self._lock:
            self._turn += 1
            self._note(Fold(target, 1, label_sets, total))
            self._delete()

    def _final(self, key: bytes, before: int | None) -> Numbers | None:
        """A label set's numbers, if they cannot change any more."""
        found = [libbpf.lookup(of.fd, key, of.value.size) or b"" for of in (self._series, self._folded)]
        settled = not found[0] or self._has_no_connection(found[0])
        return snapshot.added(filter(None, found)) if settled and _print(found) == before else None

    def _finish(self) -> None:
        """Deletes what is in the sum already, and ends the diversion."""
        with self._lock:
            self._delete()
        quiescence.divert_no_more(self._tables)
        for key in self._leaving():
            libbpf.delete(self._tables["leaving"].fd, key)

    def _delete(self) -> None:
        fold = self._fold()
        if not fold.deleting:
            return
        libbpf.update(self._folded.fd, fold.target, fold.sum)
        for key in self._leaving():
            libbpf.delete(self._series.fd, key)
            libbpf.delete(self._folded.fd, key)
        self._note(replace(fold, deleting=0))

    def _leaving(self) -> list[bytes]:
        return list(libbpf.keys(self._tables["leaving"].fd, self._series.key.size))

    def _fold(self) -> Fold:
        value = libbpf.lookup(self._tables["fold"].fd, _ONLY, self._tables["fold"].value.size)
        assert value  # an array has all its entries
        target, deleting, label_sets = _FOLD.unpack_from(value)
        return Fold(target, deleting, label_sets, value[_FOLD.size :])

    def _note(self, fold: Fold) -> None:
        packed = _FOLD.pack(fold.target, fold.deleting, fold.label_sets)
        libbpf.update(self._tables["fold"].fd, _ONLY, packed + fold.sum)


def _print(counted: Sequence[Numbers]) -> int:
    """Of what is counted for a label set, and what was for those that it took in; empty for none."""
    series, folded = counted
    return zlib.crc32(folded, zlib.crc32(series))


def _settled(layout: Layout) -> Callable[[Numbers], bool]:
    """Whether a label set has no connection that is connecting or open."""
    attempts, failures, client, accepts, server = (
        number(layout, Field(name))
        for name in ("attempts", "failures", "client_closes.duration", "accepts", "server_closes.duration")
    )
    return lambda row: attempts(row) == failures(row) + client(row) and accepts(row) == server(row)
