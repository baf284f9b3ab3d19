"""Histograms: bounds as configured and inclusive, counts that agree, and times that a clock confirms."""

from __future__ import annotations

import math
import select
import socket
import subprocess
import time
from collections.abc import Callable

import pytest
from harness.blackhole import reach, silence
from harness.daemon import Daemon
from harness.expect import accepted, opened
from harness.helpers import Helpers
from harness.metrics import Counts, Metrics
from harness.netns import RIGHT4, Netns
from harness.traffic import connect_and_close, finish_connect, linger0, listen
from harness.workload import Link, run, spawn
from helpers.b_traffic import SYN_SENT, server

COUNT = 5
WAIT_S = 0.3
DEFAULTS = {
    "connect_latency": [
        0.0001,
        0.00025,
        0.0005,
        0.001,
        0.0025,
        0.005,
        0.01,
        0.025,
        0.05,
        0.1,
        0.25,
        0.5,
        1,
        2.5,
        5,
        10,
    ],
    "accept_wait": [
        0.0001,
        0.00025,
        0.0005,
        0.001,
        0.0025,
        0.005,
        0.01,
        0.025,
        0.05,
        0.1,
        0.25,
        0.5,
        1,
        2.5,
        5,
        10,
    ],
    "connection_duration": [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800, 3600, 21600, 86400],
}
CUSTOM = {
    "connect_latency": [0.000001, 0.0035, 7],
    "accept_wait": [0.2],
    "connection_duration": [0.000123, 0.00029, 0.3, 1e6],
}
CONNECT_LATENCY, ACCEPT_WAIT, DURATION = (f"tcpmon_{setting}_seconds" for setting in DEFAULTS)


def name_of(setting: str) -> str:
    return f"tcpmon_{setting}_seconds"


def cumulative(scrape: Metrics, name: str, **labels: str) -> dict[float, float]:
    """Bound to the count of all at or below it, summed over the label sets that match."""
    counts: dict[float, float] = {}
    for row, value in scrape.series(f"{name}_bucket", **labels):
        bound = float(row["le"])
        counts[bound] = counts.get(bound, 0) + value
    return dict(sorted(counts.items()))


def assert_sound(scrape: Metrics) -> None:
    """Each series of each histogram rises from bound to bound, ends with +Inf, and has a sum that fits."""
    for name in map(name_of, DEFAULTS):
        for row, count in scrape.series(f"{name}_count"):
            buckets = cumulative(scrape, name, **row)
            assert list(buckets.values()) == sorted(buckets.values()), (name, row)
            assert buckets[math.inf] == count, (name, row)
            assert_sum_fits(buckets, scrape.value(f"{name}_sum", **row), (name, row))


def assert_sum_fits(buckets: dict[float, float], total: float, what: object) -> None:
    """Between the sums of each observation's lower and upper bound."""
    low = high = previous = below = 0.0
    for bound, count in buckets.items():
        if count > previous:
            low += (count - previous) * below
            high += (count - previous) * bound
        previous, below = count, bound
    assert low - 1e-6 * previous <= total <= high + 1e-6 * previous, what


def assert_bounds(scrape: Metrics, bounds: dict[str, list[float]], ns: Netns) -> None:
    for setting, want in bounds.items():
        assert list(cumulative(scrape, name_of(setting), netns=ns.inum)) == [*want, math.inf], setting


def exchange(ns: Netns, comm: str, daemon: Daemon) -> Metrics:
    with server(ns, comm + ".s") as (_, [port]):
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
        daemon.expect(opened(COUNT), ns, comm)
        return daemon.expect(accepted(COUNT), ns, comm + ".s")


def test_default_bounds(daemon: Daemon, ns: Netns, comm: str) -> None:
    scrape = exchange(ns, comm, daemon)
    assert_bounds(scrape, DEFAULTS, ns)
    assert_sound(scrape)


def test_bounds_from_the_configuration(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    scrape = exchange(ns, comm, start_daemon({"metrics": {"buckets": CUSTOM}}))
    assert_bounds(scrape, CUSTOM, ns)
    assert_sound(scrape)
    assert cumulative(scrape, DURATION, comm=comm, netns=ns.inum)[1e6] == COUNT


def test_bounds_are_inclusive(helpers: Helpers, comm: str) -> None:
    """Real time cannot be made to fall on a bound: so the kernel side's own functions are called directly."""
    values = {
        0: 0,
        100_000: 0,
        100_001: 1,
        250_000: 1,
        250_001: 2,
        10**9: 2,
        10**9 + 1: 3,
        10**10: 3,
        10**10 + 1: 4,
    }
    program = helpers.named("b_histogram", comm)
    done = subprocess.run([program, *map(str, values)], capture_output=True, text=True, check=True)
    slots = [set(line.split()) for line in done.stdout.splitlines()]
    assert slots == [{str(slot)} for slot in values.values()]


def wait_for_queued(listener: socket.socket) -> None:
    assert select.select([listener], [], [], 10)[0], "nothing arrived in the accept queue"


def test_a_slow_accept(daemon: Daemon, ns: Netns, comm: str) -> None:
    """The time spent in the accept queue, measured from inside and from outside of it."""

    def slow_server(link: Link) -> tuple[float, float]:
        listener = listen()
        link.say(listener.getsockname()[1])
        wait_for_queued(listener)
        queued = time.monotonic()
        time.sleep(WAIT_S)
        accepting = time.monotonic()
        listener.accept()[0].close()
        return accepting - queued, time.monotonic()

    with spawn(ns, comm + ".s", slow_server) as child:
        port = child.hear()
        before = time.monotonic()
        run(ns, comm, connect_and_close, 1, "127.0.0.1", port)
        at_least, accepted_at = child.result()
    scrape = daemon.expect(accepted(1), ns, comm + ".s")
    where = {"netns": ns.inum, "comm": comm + ".s"}
    assert at_least <= scrape.sum(f"{ACCEPT_WAIT}_sum", **where) + 1e-6
    assert scrape.sum(f"{ACCEPT_WAIT}_sum", **where) <= accepted_at - before + 1e-6
    assert cumulative(scrape, ACCEPT_WAIT, **where)[0.25] == 0
    assert_sound(scrape)


def test_a_slow_connect(daemon: Daemon, pair: tuple[Netns, Netns], comm: str) -> None:
    """The first SYN is lost, so that the kernel's retry after a second is the one that is answered."""
    left, right = pair
    silence(left, RIGHT4)

    def slow_client(link: Link, port: int) -> tuple[float, float]:
        sock = socket.socket()
        sock.setblocking(False)
        before = time.monotonic()
        sock.connect_ex((RIGHT4, port))
        link.say(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
        started = time.monotonic()
        assert finish_connect(sock) == 0
        after = time.monotonic()
        sock.close()
        return after - before, after - started

    with (
        server(right, comm + ".s", (RIGHT4, 0)) as (_, [port]),
        spawn(left, comm, slow_client, port) as child,
    ):
        assert child.hear() == SYN_SENT
        reach(left, RIGHT4, right)
        at_most, _ = child.result()
    scrape = daemon.expect(opened(1), left, comm)
    where = {"netns": left.inum, "comm": comm}
    assert cumulative(scrape, CONNECT_LATENCY, **where)[0.5] == 0
    assert 0.5 < scrape.sum(f"{CONNECT_LATENCY}_sum", **where) <= at_most + 1e-6
    assert scrape.sum("tcpmon_retransmitted_segments_total", role="client", **where) >= 1


def hold_for(link: Link, port: int, seconds: float) -> tuple[float, float]:
    """COUNT connections held open together: the least and the most that their durations can sum up to."""
    kept, opened_at, most = [], [], 0.0
    for _ in range(COUNT):
        before = time.monotonic()
        sock = socket.create_connection(("127.0.0.1", port))
        linger0(sock)  # so that the connection is over when close() returns
        kept.append((sock, before))
        opened_at.append(time.monotonic())
    time.sleep(seconds)
    closing = time.monotonic()
    for sock, before in kept:
        sock.close()
        most += time.monotonic() - before
    return sum(closing - at for at in opened_at), most


@pytest.mark.parametrize("seconds", [0.0, 0.06, WAIT_S])
def test_durations(daemon: Daemon, ns: Netns, comm: str, seconds: float) -> None:
    with server(ns, comm + ".s") as (_, [port]), spawn(ns, comm, hold_for, port, seconds) as child:
        least, most = child.result()
        scrape = daemon.expect(opened(COUNT), ns, comm)
        daemon.expect(accepted(COUNT), ns, comm + ".s")
    where = {"netns": ns.inum, "comm": comm}
    assert least - 1e-6 * COUNT <= scrape.sum(f"{DURATION}_sum", **where) <= most + 1e-6 * COUNT
    below = [count for bound, count in cumulative(scrape, DURATION, **where).items() if bound < seconds]
    assert not any(below)
    assert_sound(scrape)


def test_open_connections_are_in_no_duration(daemon: Daemon, ns: Netns, comm: str) -> None:
    def hold(link: Link, port: int) -> None:
        sock = socket.create_connection(("127.0.0.1", port))
        link.say()
        link.hear()
        sock.close()

    with server(ns, comm + ".s") as (_, [port]), spawn(ns, comm, hold, port) as child:
        child.hear()
        scrape = daemon.expect(Counts(attempts=1, connects=1, open_client=1), ns, comm)
        assert scrape.sum(f"{DURATION}_count", netns=ns.inum, comm=comm) == 0
        assert scrape.sum(f"{CONNECT_LATENCY}_count", netns=ns.inum, comm=comm) == 1
        child.say()
        child.result()
        scrape = daemon.expect(opened(1), ns, comm)
        assert scrape.sum(f"{DURATION}_count", netns=ns.inum, comm=comm, role="client") == 1
