"""A scrape of many label sets beside prometheus_client's generate_latest, and what waits meanwhile."""

from __future__ import annotations

import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.client import HTTPConnection

from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest as generate_text
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tests.bench.scrape import AS_PROMETHEUS, CHUNK_BYTES, TIMEOUT_SECONDS, discard, plain
from tests.bench.subjects import TICKS_PER_SECOND, BenchError, Subject

ROUNDS = 3
AT_ONCE = 4
_Generate = Callable[[CollectorRegistry], bytes]
# By format: what asks for it, and prometheus_client's way to make it
FORMATS: dict[str, tuple[str, _Generate]] = {
    "text": ("text/plain", generate_text),
    "OpenMetrics": (AS_PROMETHEUS["Accept"], generate_openmetrics),
}


@dataclass(frozen=True)
class Against:
    """CPU seconds of whole scrapes, uncompressed, and of generate_latest over their families, in pairs."""

    scrapes: list[float]
    generated: list[float]

    @property
    def ratios(self) -> list[float]:
        return [theirs / ours for ours, theirs in zip(self.scrapes, self.generated, strict=True)]


@dataclass(frozen=True)
class Rendering:
    """By format; and by the number of scrapes at once, the longest that another request took."""

    against: dict[str, Against]
    waits: dict[int, float]


def measured(daemon: Subject) -> Rendering:
    waits = {number: longest_wait(daemon, number) for number in (1, AT_ONCE)}
    return Rendering(against_prometheus_client(daemon), waits)


class _Families(Collector):
    """Families that are made already: only what generate_latest itself does is measured."""

    def __init__(self, text: str) -> None:
        self._families = list(text_string_to_metric_families(text))

    def collect(self) -> Iterable[Metric]:
        return self._families


def against_prometheus_client(daemon: Subject) -> dict[str, Against]:
    """By format, in rounds of one after the other."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(plain(daemon.url)))
    found = {name: Against([], []) for name in FORMATS}
    for _ in range(ROUNDS):
        for name, (accept, generate) in FORMATS.items():
            found[name].scrapes.append(_cpu_of_scrape(daemon, accept))
            start = time.process_time()
            generate(registry)
            found[name].generated.append(time.process_time() - start)
    return found


def _cpu_of_scrape(daemon: Subject, accept: str) -> float:
    before = daemon.cpu_ticks()
    request = urllib.request.Request(daemon.url, headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        while response.read(CHUNK_BYTES):
            pass
    ticks = daemon.cpu_ticks() - before
    if not ticks:
        raise BenchError("a scrape took no time: too few label sets to measure")
    return ticks / TICKS_PER_SECOND


def longest_wait(daemon: Subject, at_once: int) -> float:
    """Seconds that a request for /-/healthy took at most while so many scrapes were answered."""
    scrapes = [threading.Thread(target=discard, args=(daemon.url,)) for _ in range(at_once)]
    connection = HTTPConnection(urllib.parse.urlsplit(daemon.url).netloc, timeout=TIMEOUT_SECONDS)
    longest = 0.0
    for scrape in scrapes:
        scrape.start()
    while any(scrape.is_alive() for scrape in scrapes):
        start = time.monotonic()
        connection.request("GET", "/-/healthy")
        connection.getresponse().read()
        longest = max(longest, time.monotonic() - start)
        time.sleep(0.005)  # not a load of its own
    connection.close()
    return longest
