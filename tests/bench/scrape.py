"""Reading /metrics: as Prometheus does, and to compare numbers."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

AS_PROMETHEUS = {
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
    "Accept-Encoding": "gzip",
}
INTERVAL_SECONDS = 1.0
TIMEOUT_SECONDS = 60.0
CHUNK_BYTES = 65536


def discard(url: str) -> int:
    """One scrape as Prometheus makes it, thrown away; its size in bytes as sent."""
    request = urllib.request.Request(url, headers=AS_PROMETHEUS)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        return sum(len(chunk) for chunk in iter(lambda: response.read(CHUNK_BYTES), b""))


def plain(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        return str(response.read(), "utf-8")


def single(url: str, name: str) -> float:
    """The value of a sample without labels, read past whatever else there is; 0 where it is missing."""
    prefix = f"{name} ".encode()
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:
        return next((float(line.split()[1]) for line in response if line.startswith(prefix)), 0.0)


@dataclass(frozen=True)
class Samples:
    """All samples of one scrape."""

    rows: list[Sample]

    def total(self, name: str, **labels: str) -> float:
        """The sum over the samples of `name` that have these labels; 0 where there is none."""
        return sum(s.value for s in self.rows if s.name == name and labels.items() <= s.labels.items())

    def by(self, label: str, name: str) -> dict[str, float]:
        """The samples of `name` by the value of `label`, which has to tell them apart."""
        return {s.labels[label]: s.value for s in self.rows if s.name == name}


def samples(url: str) -> Samples:
    return Samples([s for family in text_string_to_metric_families(plain(url)) for s in family.samples])


def until(done: Callable[[], bool], seconds: float, poll_seconds: float = 0.002) -> bool:
    """Whether `done` came true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_seconds)
    return True


@contextlib.contextmanager
def every_second(url: str) -> Iterator[None]:
    """Scrapes in the background, the first time after half an interval: a run of one second has one
    scrape."""
    stop = threading.Event()

    def scrape() -> None:
        wait = INTERVAL_SECONDS / 2
        while not stop.wait(wait):
            discard(url)
            wait = INTERVAL_SECONDS

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
