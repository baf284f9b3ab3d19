"""The budgets: what finds no room is in `_other` or among the lost, and the sums are what happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from harness.daemon import Daemon
from harness.expect import accepted, opened
from harness.metrics import Counts, Metrics
from harness.netns import Netns
from harness.polling import eventually, settled
from harness.workload import Child
from helpers.b_traffic import Address, ask, client, connect, dial, fail, hold, release, server

PORTS = 503
MAX_SERIES = 8
OTHER = {"comm": "_other", "netns": "_other", "port": "_other"}
KEEP = 199
MAX_TRACKED = 64
COUNTED = ("tcpmon_connect_attempts_total", "tcpmon_accepts_total")


def connect_to_each(addresses: list[Address]) -> None:
    for address in addresses:
        dial(address).close()


@contextmanager
def many_ports(ns: Netns, comm: str) -> Iterator[tuple[Child, list[Address]]]:
    """A client, and a server with PORTS ports: twice PORTS label sets."""
    listening = [("127.0.0.1", 0)] * PORTS
    with server(ns, comm + ".s", *listening) as (_, ports), client(ns, comm) as asking:
        yield asking, [("127.0.0.1", port) for port in ports]


def label_sets(scrape: Metrics) -> set[tuple[tuple[str, str], ...]]:
    rows = (row for name in COUNTED for row, _ in scrape.series(name))
    return {tuple(sorted(row.items())) for row in rows}


def both_ends(count: int) -> Counts:
    return Counts(count, count, count, {}, count, count)


def expect_sum(daemon: Daemon, want: Counts) -> Metrics:
    """The sum over all series (of a daemon that counts one namespace only)."""

    def check() -> Metrics:
        scrape = daemon.scrape()
        assert scrape.counts() == want
        return scrape

    scrape = settled(check)
    scrape.identities()
    return scrape


def test_a_thousand_label_sets_and_room_for_eight(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    daemon = start_daemon({"filters": {"netns": [ns.name]}, "metrics": {"max_series": MAX_SERIES}})
    with many_ports(ns, comm) as (asking, addresses):
        ask(asking, connect_to_each, addresses)
        scrape = expect_sum(daemon, both_ends(PORTS))
    named = label_sets(scrape) - {tuple(sorted(OTHER.items()))}
    assert len(named) == MAX_SERIES
    other = scrape.counts(**OTHER)
    assert other.attempts + other.accepts == 2 * PORTS - MAX_SERIES
    assert scrape.value("tcpmon_series_limit") == MAX_SERIES
    assert scrape.value("tcpmon_series") == MAX_SERIES
    assert scrape.value("tcpmon_series_overflow_total") >= 2 * PORTS - MAX_SERIES
    assert scrape.lost() == 0


def test_the_series_that_are_there_go_on(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """Full is full, but nothing is evicted: the first label sets go on counting under their own names."""
    daemon = start_daemon({"filters": {"netns": [ns.name]}, "metrics": {"max_series": MAX_SERIES}})
    with many_ports(ns, comm) as (asking, addresses):
        ask(asking, connect, addresses[0], 7)
        daemon.expect(accepted(7), ns, comm + ".s")
        ask(asking, connect_to_each, addresses)
        ask(asking, connect, addresses[0], 5)
        expect_sum(daemon, both_ends(7 + PORTS + 5))
        port = str(addresses[0][1])
        daemon.expect(opened(13), ns, comm, port=port)
        daemon.expect(accepted(13), ns, comm + ".s", port=port)


def test_other_takes_failures_and_open_connections(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    """All kinds of counts overflow alike, and connections that were born in `_other` end there."""
    daemon = start_daemon({"filters": {"netns": [ns.name]}, "metrics": {"max_series": 1}})
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, fail, ("127.0.0.1", 9), 3, 111)
        ask(asking, fail, ("127.0.0.1", 11), 5, 111)
        ask(asking, hold, ("127.0.0.1", port), 7)
        expect_sum(daemon, Counts(15, 7, 7, {"refused": 8}, 0, 0, 7, 7))
        assert daemon.scrape().counts(**OTHER) == Counts(12, 7, 7, {"refused": 5}, 0, 0, 7, 7)
        ask(asking, release)
        expect_sum(daemon, Counts(15, 7, 7, {"refused": 8}, 7, 7))
        assert daemon.scrape().counts(**OTHER) == Counts(12, 7, 7, {"refused": 5}, 7, 7)
        daemon.expect(Counts(attempts=3, failures={"refused": 3}), ns, comm, port="9")


@pytest.mark.parametrize("labels", [["comm"], []], ids=["comm", "none"])
def test_a_process_named_other(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str, labels: list[str]
) -> None:
    """It may share the label set of `_other`, but no label set may be exposed twice."""
    metrics = {"labels": labels, "max_series": 1}
    daemon = start_daemon({"filters": {"netns": [ns.name]}, "metrics": metrics})
    with server(ns, comm) as (_, [port]), client(ns, "_other") as asking:
        ask(asking, connect, ("127.0.0.1", port), 7)
        scrape = expect_sum(daemon, both_ends(7))
    rows = [tuple(row.items()) for row, _ in scrape.series("tcpmon_connects_total")]
    assert len(rows) == len(set(rows))


def test_more_connections_than_can_be_followed(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    """Counted and lost add up to what happened; once there is room again, all is counted again."""
    config = {"filters": {"netns": [ns.name]}, "connections": {"max_tracked": MAX_TRACKED}}
    daemon = start_daemon(config, lossy=True)
    assert daemon.scrape().lost() == 0
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, hold, ("127.0.0.1", port), KEEP)

        def all_there() -> Metrics:
            scrape = daemon.scrape()
            counted = scrape.sum("tcpmon_connect_attempts_total") + scrape.sum("tcpmon_accepts_total")
            assert counted + scrape.lost() == 2 * KEEP
            return scrape

        scrape = settled(all_there)
        scrape.identities()
        lost = scrape.lost()
        assert lost > 0
        assert scrape.value("tcpmon_tracked_connections") <= MAX_TRACKED
        assert scrape.value("tcpmon_tracked_connections_limit") == MAX_TRACKED
        ask(asking, release)
        eventually(lambda: expect_tracked(daemon, 0))
        before = daemon.scrape().counts()
        ask(asking, connect, ("127.0.0.1", port), 7)
        again = 7
        scrape = expect_sum(
            daemon,
            Counts(
                before.attempts + again,
                before.connects + again,
                before.accepts + again,
                {},
                before.closes_client + again,
                before.closes_server + again,
            ),
        )
        assert scrape.lost() == lost


def expect_tracked(daemon: Daemon, count: int) -> None:
    assert daemon.scrape().value("tcpmon_tracked_connections") == count


def test_tracked_connections_come_and_go(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    daemon = start_daemon({"filters": {"netns": [ns.name]}})
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, hold, ("127.0.0.1", port), KEEP)
        eventually(lambda: expect_tracked(daemon, 2 * KEEP))
        ask(asking, release)
        eventually(lambda: expect_tracked(daemon, 0))
