"""Idle label sets go into `_other`: no count is lost or there twice, whatever the traffic does meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import MECHANISM, Daemon
from harness.expect import accepted, opened
from harness.manager import Manager
from harness.metrics import Counts, Metrics
from harness.netns import Netns
from harness.oracle import snmp
from harness.polling import PATIENCE, eventually
from helpers.b_traffic import Address, ask, client, connect, dial, hold, release, server
from test_series import OTHER, PORTS, both_ends, connect_to_each, expect_sum, many_ports

from tcpmon import config as configuration
from tcpmon import daemon as daemons
from tcpmon.kernel import control, load
from tcpmon.kernel.load import Loaded
from tcpmon.metrics.families import Field
from tcpmon.metrics.folding import Folding
from tcpmon.metrics.numbers import number
from tcpmon.metrics.snapshot import OTHER_KEY

TTL = {"series_ttl": "1s"}


def watching(ns: Netns, **metrics: Any) -> dict[str, Any]:
    return {"filters": {"netns": [ns.name]}, "metrics": metrics}


def expect_folded(daemon: Daemon, label_sets: int, left: int = 0) -> Metrics:
    def check() -> Metrics:
        scrape = daemon.scrape()
        assert scrape.value("tcpmon_series_folded_total") == label_sets
        assert scrape.value("tcpmon_series") == left
        return scrape

    return eventually(check, 20.0)


def test_idle_ones_are_in_other_and_their_room_is_used_again(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    daemon = start_daemon(watching(ns, max_series=2 * PORTS, **TTL))
    with many_ports(ns, comm) as (asking, addresses):
        for turn in range(1, 4):
            ask(asking, connect_to_each, addresses)
            expect_sum(daemon, both_ends(turn * PORTS))
            scrape = expect_folded(daemon, turn * 2 * PORTS)
            assert scrape.counts(**OTHER) == both_ends(turn * PORTS)
            scrape.identities()
    assert scrape.value("tcpmon_series_overflow_total") == 0
    assert snmp(ns).active_opens == 3 * PORTS


def test_one_that_comes_back_begins_anew(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    daemon = start_daemon(watching(ns, **TTL))
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, connect, ("127.0.0.1", port), 7)
        expect_folded(daemon, 2)
        assert not daemon.scrape().series("tcpmon_connects_total", comm=comm)
        assert daemon.reload(watching(ns, series_ttl=0))
        ask(asking, connect, ("127.0.0.1", port), 5)
        daemon.expect(opened(5), ns, comm)
        daemon.expect(accepted(5), ns, comm + ".s")
        assert expect_sum(daemon, both_ends(12)).counts(**OTHER) == both_ends(7)


def test_one_with_a_connection_stays(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """Open connections stay under their owner's name, however long nothing happens to them."""
    daemon = start_daemon(watching(ns, **TTL))
    with server(ns, comm + ".s") as (_, ports), client(ns, comm) as asking:
        [port] = ports
        ask(asking, connect, ("127.0.0.1", port), 7)
        ask(asking, hold, ("127.0.0.1", port), 3)
        with server(ns, comm + ".t") as (_, [short]):
            ask(asking, connect, ("127.0.0.1", short))
            expect_folded(daemon, 2, left=2)
        daemon.expect(Counts(10, 10, 0, {}, 7, 0, 3), ns, comm)
        ask(asking, release)
        expect_folded(daemon, 4)
        assert daemon.scrape().counts(**OTHER) == both_ends(11)


def test_none_is_folded_with_a_ttl_of_0(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    daemon = start_daemon(watching(ns, series_ttl=0))
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, connect, ("127.0.0.1", port), 7)
        expect_sum(daemon, both_ends(7))
        time.sleep(3 * PATIENCE)  # nothing is to happen, so there is nothing to wait for
        assert daemon.scrape().value("tcpmon_series") == 2
        assert daemon.reload(watching(ns, **TTL))
        expect_folded(daemon, 2)


def test_labels_that_are_dropped(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """What was folded is in no label's series but _other's; without labels all is one."""
    daemon = start_daemon(watching(ns, **TTL))
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, connect, ("127.0.0.1", port), 7)
        expect_folded(daemon, 2)
        assert daemon.reload(watching(ns, labels=["comm"], **TTL))
        assert expect_sum(daemon, both_ends(7)).counts(comm="_other") == both_ends(7)
        assert daemon.reload(watching(ns, labels=[], **TTL))
        assert daemon.scrape().series("tcpmon_connects_total") == [({}, 7.0)]


def test_label_sets_of_former_labels(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """They make room while their names are busy, and no counter of those goes back."""
    ttl = {"series_ttl": "3s"}
    daemon = start_daemon(watching(ns, **ttl))
    with many_ports(ns, comm) as (asking, addresses):
        ask(asking, connect_to_each, addresses[:50])
        expect_sum(daemon, both_ends(50))
        assert daemon.reload(watching(ns, labels=["comm"], **ttl))
        for done in range(51, 5000):
            ask(asking, connect, addresses[0])
            scrape = expect_sum(daemon, both_ends(done))
            assert scrape.counts(comm=comm).attempts == done
            assert scrape.counts(comm=comm + ".s").accepts == done
            if scrape.value("tcpmon_series") == 2:
                break
        assert scrape.value("tcpmon_series") == 2
        assert scrape.value("tcpmon_series_folded_total") == 0
        scrape = expect_folded(daemon, 2)
        assert scrape.counts(comm="_other") == scrape.counts() == both_ends(done)


def test_the_next_daemon_goes_on_with_what_was_folded(tmp_path: Path, ns: Netns, comm: str) -> None:
    with Manager(tmp_path) as manager, server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        for turn in range(1, 4):
            daemon = Daemon(tmp_path, watching(ns, **TTL), lossy=True, launch=manager.launch)
            try:
                assert daemon.scrape().value("tcpmon_series_folded_total") == 2 * (turn - 1)
                ask(asking, connect, ("127.0.0.1", port), 7)
                assert expect_folded(daemon, 2 * turn).counts(**OTHER) == both_ends(7 * turn)
            finally:
                daemon.process.kill()
                daemon.process.wait()


# Without a daemon between, and with no time to live: as often as it goes


@pytest.fixture
def loaded(ns: Netns, tmp_path: Path) -> Iterator[Loaded]:
    """The module, counting what happens in `ns`."""
    path = tmp_path / "tcpmon.yaml"
    path.write_text(f"filters: {{netns: [{ns.inum}]}}\nmetrics: {{max_series: {4 * PORTS}}}\n")
    config = configuration.load(str(path))
    forced = dict.fromkeys(("connect", "accept"), MECHANISM) if MECHANISM else {}
    running = load.load(daemons.module(config), forced)
    control.apply(running.tables, config)
    yield running
    running.close()


def connect_round(addresses: list[Address], seconds: float) -> int:
    """To each, again and again."""
    end, done = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for address in addresses:
            dial(address).close()
            done += 1
    return done


@contextmanager
def read_on(folding: Folding, read: Callable[[Folding], int]) -> Iterator[list[int]]:
    """What `read` gives, over and over, while the body runs."""
    found: list[int] = []
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            found.append(read(folding))

    reader = threading.Thread(target=run)
    reader.start()
    yield found
    ended.set()
    reader.join()


def test_traffic_on_the_very_label_sets_that_are_folded(loaded: Loaded, ns: Netns, comm: str) -> None:
    """And a reader meanwhile never sees one in two places or in none: the sum does not go back."""
    folding, layout = Folding(loaded.tables), loaded.tables["series"].value
    attempts, accepts = (number(layout, Field(name)) for name in ("attempts", "accepts"))

    def total(of: Folding) -> int:
        return sum(attempts(row) + accepts(row) for rows in of.rows() for _, row in rows)

    folded = 0
    with many_ports(ns, comm) as (asking, addresses), read_on(folding, total) as sums:
        asking.say((connect_round, addresses, 4.0 * PATIENCE))
        end = time.monotonic() + 4.0 * PATIENCE
        while time.monotonic() < end:
            folded += folding.fold(OTHER_KEY, list(folding.prints()))
        done = asking.hear()
        eventually(lambda: expect_total(total(folding), 2 * done))
    assert folding.label_sets == folded
    assert folded > PORTS  # what was meant to be folded and used at once
    assert snmp(ns).active_opens == done
    assert len(sums) > 1
    assert sums == sorted(sums)


def expect_total(got: int, want: int) -> None:
    assert got == want
