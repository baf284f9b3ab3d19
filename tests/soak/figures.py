"""The daemon's size over time, and what counts as flat."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

# Of a run in fifths the first is left out: label sets, and Python's own pools, are still growing then. What a
# run's tenth of a million events and some hundred scrapes may add is what the size of pools varies by: a page
# kept for each scrape would be three times that.
FLAT_KIB = 1024
# A shorter run has not come to rest by its second fifth
JUDGED_FROM_S = 300


@dataclass(frozen=True)
class Sample:
    """At a time.monotonic(), of the daemon."""

    at: float
    rss_kib: int
    descriptors: int
    threads: int


def sample(pid: int) -> Sample:
    text = Path(f"/proc/{pid}/status").read_text()
    rows = dict(line.split(":", 1) for line in text.splitlines())
    return Sample(
        time.monotonic(),
        int(rows["VmRSS"].split()[0]),
        len(os.listdir(f"/proc/{pid}/fd")),
        int(rows["Threads"]),
    )


@dataclass(frozen=True)
class Size:
    """The medians of a run's second and last fifth, in KiB."""

    second: float
    last: float

    @property
    def growth(self) -> float:
        return self.last - self.second

    def is_flat(self) -> bool:
        return self.growth <= FLAT_KIB


def size(samples: Sequence[Sample]) -> Size:
    """Samples in their order in time, more than five."""
    start, end = samples[0].at, samples[-1].at
    fifth = (end - start) / 5
    second = [each.rss_kib for each in samples if fifth <= each.at - start <= 2 * fifth]
    last = [each.rss_kib for each in samples if each.at - start >= 4 * fifth]
    return Size(median(second), median(last))
