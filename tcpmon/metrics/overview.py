"""What the landing page shows: the busiest label sets, sums over all of them, and how tcpmon itself is."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tcpmon import netns
from tcpmon.kernel.load import Layout, Loaded
from tcpmon.metrics import selfmetrics, snapshot
from tcpmon.metrics.families import FAMILIES, Family, Field
from tcpmon.metrics.folding import Folding
from tcpmon.metrics.numbers import number
from tcpmon.metrics.scrape import Status
from tcpmon.metrics.snapshot import Numbers

# The families that a label set's numbers are the sums of. `open` is what is left of the first two.
_COUNTED = {
    "connects": "tcpmon_connects",
    "accepts": "tcpmon_accepts",
    "closes": "tcpmon_closes",
    "failures": "tcpmon_connect_failures",
    "sent_bytes": "tcpmon_sent_bytes",
    "received_bytes": "tcpmon_received_bytes",
}
COLUMNS = (*_COUNTED, "open")
# About 60 bytes of JSON each. Whoever is busy now soon has more connections than the least of so many.
MAX_ROWS = 1000

Values = tuple[int, ...]  # in the order of COLUMNS
Row = tuple[tuple[str, ...], Values]  # a label set, by the labels in force


@dataclass(frozen=True)
class Overview:
    """One look. `uptime` is the daemon's, in seconds, when the numbers were read: the clock for rates."""

    status: Status
    started: float  # Unix time
    uptime: float
    probes: Sequence[tuple[str, str, str]]  # event, function, mechanism
    losses: Mapping[str, int]  # by stage
    counters: Mapping[str, int]  # by the names of snapshot.COUNTERS
    series: int  # label sets held in the kernel
    netns: Mapping[str, str]  # names, by the label's value
    label_sets: int  # by the labels in force, of which `rows` has the busiest
    total: Values  # over all of them
    rows: Sequence[Row]


class Observer:
    """Takes looks, several at once if need be. Each reads the kernel's maps once, as a scrape does."""

    def __init__(self, loaded: Loaded, folding: Folding, journal: selfmetrics.Journal) -> None:
        self._loaded = loaded
        self._folding = folding
        self._journal = journal
        self._values = values(loaded.tables["series"].value)
        self._started, self._start = time.time(), time.monotonic()

    def look(self, status: Status) -> Overview:
        uptime = time.monotonic() - self._start
        series, folded = self._folding.rows()
        found = [*series, *folded]
        labels = status.config.metrics.labels
        merged = snapshot.merge(found, {key: snapshot.label_values(key, labels) for key, _ in found})
        read = ((of, self._values(numbers)) for of, numbers in merged.items())
        all_rows = [row for row in read if any(row[1])]  # _other is there from the start
        counters = snapshot.counters(self._loaded.tables["counters"])
        return Overview(
            status=status,
            started=self._started,
            uptime=uptime,
            probes=selfmetrics.probe_rows(self._loaded.probes),
            losses=selfmetrics.lost(counters, selfmetrics.program_infos(self._loaded), self._journal),
            counters=counters,
            series=snapshot.named(series),
            netns={str(inum): name for inum, name in netns.names().items()},
            label_sets=len(all_rows),
            total=total(of_row for _labels, of_row in all_rows),
            rows=busiest(all_rows),
        )


def values(layout: Layout) -> Callable[[Numbers], Values]:
    """How to read COLUMNS from a label set's numbers. A family counts all slots of its fields."""
    families = {family.name: family for family in FAMILIES if isinstance(family, Family)}
    readers = [
        [
            number(layout, Field(name))
            for name in {sample.plus.name: None for sample in families[found].samples}
        ]
        for found in _COUNTED.values()
    ]

    def read(row: Numbers) -> Values:
        counted = [sum([reader(row) for reader in of_column]) for of_column in readers]
        connects, accepts, closes = counted[:3]
        return (*counted, connects + accepts - closes)

    return read


def total(rows: Iterable[Values]) -> Values:
    """Column by column; zeros where there is no row."""
    return tuple(map(sum, zip(*rows, strict=True))) or (0,) * len(COLUMNS)


def busiest(rows: Iterable[Row]) -> list[Row]:
    """Those with most connections, opened, accepted or failed, since counting began: MAX_ROWS at most."""
    return heapq.nlargest(MAX_ROWS, rows, key=_activity)


def _activity(row: Row) -> int:
    connects, accepts, _closes, failures = row[1][:4]
    return connects + accepts + failures
