"""One scrape: from the kernel's maps to the body of an answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tcpmon.config import Config
from tcpmon.kernel.load import Loaded
from tcpmon.metrics import selfmetrics, snapshot
from tcpmon.metrics.exposition import Exposition
from tcpmon.metrics.folding import Folding
from tcpmon.metrics.prefixes import Prefixes

_Encoder = Callable[[CollectorRegistry], bytes]
# Of both formats, as Prometheus asks for them: what is older we write anew
_VERSIONS = ("0.0.1", "0.0.4", "1.0.0")
_NEVER = re.compile(r"0(\.0{0,3})?")


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


def acceptable(accept: str) -> str:
    """Of an Accept header the elements that are wanted, and in a version that is written here, if they name
    one. Others prometheus_client (0.26) would promise in the Content-Type; or it trips over them."""
    return ",".join(element for element in accept.split(",") if all(map(_is_written, element.split(";"))))


def _is_written(parameter: str) -> bool:
    name, _, value = parameter.strip().partition("=")
    if name == "q":
        return not _NEVER.fullmatch(value)
    return name != "version" or value in _VERSIONS


class Scraper:
    """Answers scrapes, several at once if need be: a scrape has no state but its own."""

    def __init__(
        self, loaded: Loaded, folding: Folding, config: Config, journal: selfmetrics.Journal
    ) -> None:
        self._loaded = loaded
        self._folding = folding
        self._journal = journal
        self._prefixes = Prefixes()
        self._exposition = Exposition(loaded.tables["series"].value, bounds(config))
        self.answered = 0

    def scrape(self, accept: str, status: Status) -> tuple[str, Iterator[bytes]]:
        """The content type that `accept` (a request header) asks for, and the body in pieces."""
        encoder, content_type = choose_encoder(acceptable(accept))
        return content_type, self._body(encoder, "openmetrics" in content_type, status)

    def _body(self, encoder: _Encoder, openmetrics: bool, status: Status) -> Iterator[bytes]:
        started = time.monotonic()
        series, folded = self._folding.rows()
        found = [*series, *folded]
        labels = status.config.metrics.labels
        merged = snapshot.merge(found, self._prefixes.of({key for key, _ in found}, labels))
        yield from self._exposition.render(merged.items(), labels, openmetrics)
        state = selfmetrics.State(
            series=snapshot.named(series),
            series_folded=self._folding.label_sets,
            series_limit=status.config.metrics.max_series,
            tracked_limit=status.config.connections.max_tracked,
            journal=self._journal,
            reload_ok=status.reload_ok,
            reload_timestamp=status.reload_timestamp,
            scrape_seconds=lambda: time.monotonic() - started,
        )
        yield encoder(selfmetrics.registry(self._loaded, state))
        self.answered += 1
