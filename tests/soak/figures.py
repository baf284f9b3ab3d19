"""The daemon's size over time, and what counts as flat."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# Of a run in fifths the first is left out: Python's own pools are still growing then. What some hundred
# scrapes may add is what the size of pools varies by: a page kept for each scrape would be more.
FLAT_KIB = 1024
# A label set takes memory, and new ones come for as long as names and namespaces meet that have not met
# before: 32 MiB with 500 and 96 MiB with 10,000 are what the daemon may take.
KIB_PER_LABEL_SET = (96 - 32) * 1024 / 9500
# A shorter run has not come to rest by its second fifth
JUDGED_FROM_S = 300


@dataclass(frozen=True)
class Sample:
    """At a time.monotonic(), of the daemon."""

    at: float
    rss_kib: int
    descriptors: int
    threads: int
    label_sets: int = 0


def sample(pid: int, label_sets: int = 0) -> Sample:
    text = Path(f"/proc/{pid}/status").read_text()
    rows = dict(line.split(":", 1) for line in text.splitlines())
    return Sample(
        time.monotonic(),
        int(rows["VmRSS"].split()[0]),
        len(os.listdir(f"/proc/{pid}/fd")),
        int(rows["Threads"]),
        label_sets,
    )


@dataclass(frozen=True)
class Size:
    """The medians of a run's second and last fifth, in KiB; and how many label sets are new in between."""

    second: float
    last: float
    new_label_sets: float

    @property
    def growth(self) -> float:
        return self.last - self.second

    def is_flat(self) -> bool:
        return self.growth <= FLAT_KIB + KIB_PER_LABEL_SET * max(0.0, self.new_label_sets)


def size(samples: Sequence[Sample]) -> Size:
    """Samples in their order in time, more than five."""
    start, end = samples[0].at, samples[-1].at
    fifth = (end - start) / 5
    second = [each for each in samples if fifth <= each.at - start <= 2 * fifth]
    last = [each for each in samples if each.at - start >= 4 * fifth]
    return Size(
        median(each.rss_kib for each in second),
        median(each.rss_kib for each in last),
        median(each.label_sets for each in last) - median(each.label_sets for each in second),
    )
