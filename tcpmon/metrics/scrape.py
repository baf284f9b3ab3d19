"""One scrape: from the kernel's maps to the body of an answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.exposition import choose_encoder

from tcpmon.config import Config
from tcpmon.kernel.load import Loaded
from tcpmon.metrics import selfmetrics, snapshot
from tcpmon.metrics.exposition import Exposition
from tcpmon.metrics.folding import Folding


@dataclass(frozen=True)
class Status:
    """The daemon's state that a scrape tells of; replaced as a whole at each reload."""

    config: Config
    reload_ok: bool
    reload_timestamp: float


def bounds(config: Config) -> Mapping[str, tuple[float, ...]]:
    """Histogram bounds in seconds, by the name that BPF code, families and configuration share."""
    buckets = config.metrics.buckets
    return {
        "connect_latency": buckets.connect_latency,
        "accept_wait": buckets.accept_wait,
        "connection_duration": buckets.connection_duration,
    }


class Scraper:
    """Answers scrapes, several at once if need be: a scrape has no state but its own."""

    def __init__(
        self, loaded: Loaded, folding: Folding, config: Config, journal: selfmetrics.Journal
    ) -> None:
        self._loaded = loaded
        self._folding = folding
        self._journal = journal
        self._exposition = Exposition(loaded.tables["series"].value, bounds(config))
        self.answered = 0
        self.answered_at = 0.0  # time.monotonic()

    def scrape(self, accept: str, status: Status) -> tuple[str, Iterator[bytes]]:
        """The content type that `accept` (a request header) asks for, and the body in pieces."""
        _encoder, content_type = choose_encoder(accept)
        return content_type, self._body(accept, status)

    def _body(self, accept: str, status: Status) -> Iterator[bytes]:
        started = time.monotonic()
        encoder, content_type = choose_encoder(accept)
        found = self._folding.rows()
        labels = status.config.metrics.labels
        rows = snapshot.merge(found, labels)
        yield from self._exposition.render(rows, labels, "openmetrics" in content_type)
        state = selfmetrics.State(
            series=snapshot.named(found),
            series_folded=self._folding.label_sets,
            series_limit=status.config.metrics.max_series,
            tracked_limit=status.config.connections.max_tracked,
            journal=self._journal,
            reload_ok=status.reload_ok,
            reload_timestamp=status.reload_timestamp,
            scrape_seconds=lambda: time.monotonic() - started,
        )
        yield encoder(selfmetrics.registry(self._loaded, state))
        self.answered_at = time.monotonic()
        self.answered += 1
