"""A scrape as numbers: sums over label subsets, the contract's identities, and a label set's whole story."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]
Samples = Mapping[str, list[tuple[dict[str, str], float]]]

# What each histogram's _count must equal, besides its +Inf bucket. Not of accept_wait: where an accept was
# not seen as such (io_uring, say), the wait is not known.
WAIT = "tcpmon_accept_wait_seconds"
HISTOGRAMS = {
    "tcpmon_connect_latency_seconds": "tcpmon_connects_total",
    "tcpmon_connection_duration_seconds": "tcpmon_closes_total",
}


@dataclass(frozen=True)
class Counts:
    """All that is counted of some label sets. What a test does not mention must not have moved."""

    attempts: int = 0
    connects: int = 0
    accepts: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    closes_client: int = 0
    closes_server: int = 0
    open_client: int = 0
    open_server: int = 0


@dataclass(frozen=True)
class Metrics:
    """One scrape's samples, by sample name (`..._total`, `..._bucket`, ...)."""

    samples: Samples

    def series(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """The (labels, value) of each series of `name` whose labels include the given ones."""
        rows = self.samples.get(name, [])
        return [row for row in rows if labels.items() <= row[0].items()]

    def sum(self, name: str, **labels: str) -> float:
        """The sum over `series`; 0 where there is none."""
        return math.fsum(value for _, value in self.series(name, **labels))

    def value(self, name: str, **labels: str) -> float:
        """The value of the one series that matches; more than one or none is an error."""
        rows = self.series(name, **labels)
        assert len(rows) == 1, f"{len(rows)} series of {name}{labels}: {rows}"
        return rows[0][1]

    def lost(self) -> float:
        """How many events the daemon says it lost, over all stages."""
        assert self.series("tcpmon_lost_events_total"), "tcpmon_lost_events_total is not there from the start"
        return self.sum("tcpmon_lost_events_total")

    def losses(self) -> dict[str, float]:
        """What was lost, by stage; empty when nothing was.

        Stage recursion is left to the counts themselves: a step that the kernel hid from BPF in an earlier
        test (see witness.py) may be noticed only in this one.
        """
        self.lost()
        rows = self.series("tcpmon_lost_events_total")
        return {row["stage"]: value for row, value in rows if value and row["stage"] != "recursion"}

    def failures(self, **labels: str) -> dict[str, int]:
        """Failed connects by reason, those at 0 left out."""
        total: dict[str, int] = {}
        for row, value in self.series("tcpmon_connect_failures_total", **labels):
            total[row["reason"]] = total.get(row["reason"], 0) + int(value)
        return {reason: count for reason, count in total.items() if count}

    def counts(self, **labels: str) -> Counts:
        """The whole story of the label sets that match."""

        def number(name: str, **more: str) -> int:
            return int(self.sum(name, **labels, **more))

        return Counts(
            attempts=number("tcpmon_connect_attempts_total"),
            connects=number("tcpmon_connects_total"),
            accepts=number("tcpmon_accepts_total"),
            failures=self.failures(**labels),
            closes_client=number("tcpmon_closes_total", role="client"),
            closes_server=number("tcpmon_closes_total", role="server"),
            open_client=number("tcpmon_open_connections", role="client"),
            open_server=number("tcpmon_open_connections", role="server"),
        )

    def ports(self, name: str, **labels: str) -> set[str]:
        """The `port` labels under which `name` is above 0."""
        return {row["port"] for row, value in self.series(name, **labels) if value}

    def identities(self, **labels: str) -> None:
        """Assert the contract's identities for the matching label sets: each of them, and their sum."""
        for each in [*self._label_sets(**labels), dict(labels)]:
            self._balance(**each)
            for histogram, counter in HISTOGRAMS.items():
                self._histogram(histogram, **each)
                count = self.sum(f"{histogram}_count", **each)
                assert count == self.sum(counter, **each), f"{histogram}_count {each} is not {counter}"
            self._histogram(WAIT, **each)

    def _label_sets(self, **labels: str) -> list[dict[str, str]]:
        names = ("tcpmon_connect_attempts_total", "tcpmon_accepts_total")
        found = {tuple(sorted(row.items())) for name in names for row, _ in self.series(name, **labels)}
        return [dict(each) for each in found]

    def _balance(self, **labels: str) -> None:
        got = self.counts(**labels)
        assert got.attempts == got.connects + sum(got.failures.values()), f"attempts {labels}: {got}"
        assert got.connects == got.closes_client + got.open_client, f"client side {labels}: {got}"
        assert got.accepts == got.closes_server + got.open_server, f"server side {labels}: {got}"

    def _histogram(self, name: str, **labels: str) -> None:
        count, inf = self.sum(f"{name}_count", **labels), self.sum(f"{name}_bucket", le="+Inf", **labels)
        assert count == inf, f"{name} {labels}: _count is not +Inf"


def parse(text: str, only: str = "") -> Metrics:
    """Prometheus text as a scrape answers it; with `only`, nothing but the lines that contain it."""
    kept = [line for line in text.splitlines() if line.startswith("#") or only in line]
    samples: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families("\n".join(kept) + "\n"):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return Metrics(samples)
