"""The measurements. Each starts what it measures, and leaves nothing running."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench import rendering, subjects
from tests.bench.loops import Plan
from tests.bench.scrape import discard, samples, single, until
from tests.bench.subjects import BenchError, Subject
from tests.bench.world import namespace

FIRST_LABEL_PORT = 20000
# Work of the start itself (a last collection of garbage, say) is not idleness.
CALM_SECONDS = 1.0


@dataclass(frozen=True)
class Idle:
    start_mib: float
    ticks: int
    switches: int


@dataclass(frozen=True)
class Loaded:
    """After many label sets and scrapes."""

    series: int
    scrapes: int
    mib: float
    peak_mib: float
    scrape_seconds: float
    scrape_bytes: int


def start_seconds(plan: Plan) -> float:
    """The daemon's, until it has counted a connection."""
    with subjects.tcpmon(plan.folder) as daemon:
        return seconds_to_first_count(daemon)


def seconds_to_first_count(daemon: Subject) -> float:
    """From the daemon's exec until /metrics shows a connection; connections are made all the while."""
    with subjects.listener() as server:
        port = str(server.getsockname()[1])

        def counted() -> bool:
            subjects.whole_connection(server)
            return shows_port(daemon, port)

        if not until(counted, subjects.START_SECONDS):
            raise daemon.failed()
        return time.monotonic() - daemon.launched


def shows_port(daemon: Subject, port: str) -> bool:
    try:
        return samples(daemon.url).total("tcpmon_connects_total", port=port) > 0
    except OSError:  # it does not listen yet
        if daemon.gone():
            raise daemon.failed() from None
        return False


def idle(plan: Plan) -> Idle:
    """The daemon left alone: its memory, and what it does when there is nothing to do."""
    with subjects.tcpmon(plan.folder) as daemon:
        daemon.wait_ready()
        mib = daemon.memory_mib()
        time.sleep(CALM_SECONDS)
        ticks, switches = daemon.cpu_ticks(), daemon.voluntary_switches()
        time.sleep(plan.idle_seconds)
        return Idle(mib, daemon.cpu_ticks() - ticks, daemon.voluntary_switches() - switches)


def loaded(plan: Plan, comms: int, ports: int, scrapes: int, max_series: int = 10_000) -> Loaded:
    """The daemon with comms x ports label sets, after so many scrapes."""
    with filled(plan, comms, ports, max_series) as daemon:
        start = time.monotonic()
        for _ in range(scrapes):
            size = discard(daemon.url)
        seconds = (time.monotonic() - start) / scrapes
        mib, peak = daemon.memory_mib(), daemon.memory_mib("VmHWM")
        series = int(single(daemon.url, "tcpmon_series"))
    if series < min(comms * ports, max_series):
        raise BenchError(f"only {series} label sets of {comms * ports}")
    return Loaded(series, scrapes, mib, peak, seconds, size)


def rendered(plan: Plan, comms: int, ports: int) -> rendering.Rendering:
    with filled(plan, comms, ports) as daemon:
        return rendering.measured(daemon)


@contextmanager
def filled(plan: Plan, comms: int, ports: int, max_series: int = 10_000) -> Iterator[Subject]:
    """A daemon that has counted a connection for each of comms x ports label sets."""
    settings = f"metrics: {{max_series: {max_series}}}"
    with namespace() as ns, subjects.tcpmon(plan.folder, settings) as daemon:
        daemon.wait_ready()
        ns.run(plan.folder / "labels", str(FIRST_LABEL_PORT), str(comms), str(ports))
        yield daemon
