"""Whose name is on a connection: the process's, at the connection's birth, whatever bytes it is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from harness.daemon import Daemon
from harness.expect import accepted, opened
from harness.metrics import Counts, Metrics
from harness.netns import Netns
from harness.polling import settled
from harness.traffic import connect_and_close, listen
from harness.workload import rename, run
from helpers.b_traffic import ask, client, connect, dial, hold, release, server

BEFORE, AFTER = 3, 5
COUNTS = {"one": 2, "two": 3, "three": 5}


def both_ends_of(count: int) -> Counts:
    """The story of a process that opened and accepted `count` connections, all closed."""
    return Counts(attempts=count, connects=count, accepts=count, closes_client=count, closes_server=count)


def in_threads(names: list[str], work: Callable[[str], None]) -> None:
    """`work(name)` in a thread called `name`, for each, one after the other."""

    def body(name: str) -> None:
        rename(name)
        work(name)

    for name in names:
        thread = threading.Thread(target=body, args=(name,))
        thread.start()
        thread.join()


def threaded_both_ends() -> None:
    """Threads named after COUNTS open that many connections, which threads of the same names accept."""
    listener = listen()
    port = listener.getsockname()[1]

    def accept(name: str) -> None:
        for _ in range(COUNTS[name]):
            listener.accept()[0].close()

    in_threads(list(COUNTS), lambda name: connect_and_close(COUNTS[name], "127.0.0.1", port))
    in_threads(list(COUNTS), accept)


def test_threads_count_for_their_process(daemon: Daemon, ns: Netns, comm: str) -> None:
    run(ns, comm, threaded_both_ends)
    scrape = daemon.expect(both_ends_of(sum(COUNTS.values())), ns, comm)
    assert not comms(scrape, ns) & set(COUNTS)


def test_threads_have_their_own_series_if_asked(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    daemon = start_daemon({"metrics": {"comm": "thread"}})
    run(ns, comm, threaded_both_ends)
    for name, count in COUNTS.items():
        daemon.expect(both_ends_of(count), ns, name)
    assert comms(daemon.scrape(), ns) == set(COUNTS)


def test_a_renamed_process(daemon: Daemon, ns: Netns, comm: str) -> None:
    """The name at each connection's birth holds to its close, on both ends."""
    old, new = comm, comm + ".new"

    def both_ends() -> None:
        listener = listen()
        kept = []
        for name, count in ((old, BEFORE), (new, AFTER)):
            rename(name)
            for _ in range(count):
                kept.append(dial(listener.getsockname()))
                kept.append(listener.accept()[0])
        for sock in kept:
            sock.close()

    run(ns, old, both_ends)
    for name, count in ((old, BEFORE), (new, AFTER)):
        daemon.expect(both_ends_of(count), ns, name)


def test_renamed_while_connections_are_open(daemon: Daemon, ns: Netns, comm: str) -> None:
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, hold, ("127.0.0.1", port), BEFORE)
        ask(asking, rename, comm + ".new")
        daemon.expect(Counts(attempts=BEFORE, connects=BEFORE, open_client=BEFORE), ns, comm)
        ask(asking, release)
        daemon.expect(opened(BEFORE), ns, comm)
        daemon.expect(Counts(), ns, comm + ".new")


def test_a_name_of_15_bytes(daemon: Daemon, ns: Netns, comm: str) -> None:
    """15 bytes are kept whole; the kernel cuts what is longer, and so does the label."""
    full = (comm + "." + "x" * 15)[:15]
    exchange(ns, full, full[:-1] + "s")
    daemon.expect(opened(BEFORE), ns, full)
    daemon.expect(accepted(BEFORE), ns, full[:-1] + "s")
    exchange(ns, full[:14] + "l" + "too long", comm + ".s")
    daemon.expect(opened(BEFORE), ns, full[:14] + "l")


def test_nothing_of_a_longer_name_stays(daemon: Daemon, ns: Netns, comm: str) -> None:
    with server(ns, comm + ".s") as (_, [port]), client(ns, (comm + "y" * 15)[:15]) as asking:
        ask(asking, rename, comm)
        ask(asking, connect, ("127.0.0.1", port), BEFORE)
        daemon.expect(opened(BEFORE), ns, comm)


@pytest.mark.parametrize(
    "name", ['q"uo"te', "back\\slash", "new\nline", "\\n", 'a"} 1\n#', "{}=,", " ", "é", "日本語"]
)
def test_a_name_comes_back_as_it_was(daemon: Daemon, ns: Netns, comm: str, name: str) -> None:
    exchange(ns, name.encode(), comm + ".s")
    daemon.expect(opened(BEFORE), ns, name)


HARD = [
    b"\xff\xfe",
    b"\xfe\xff",
    b"\\xff\\xfe",
    b"\xef\xbf\xbd",
    b"\xef\xbf\xbd\xef\xbf\xbd",
    b"??",
    b"\xc3",
    b"caf\xe9",
    b"caf\xc3\xa9",
]


def test_distinct_names_are_distinct_series(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    """Bytes that are not UTF-8, and names that look like the ways to write them."""
    daemon = start_daemon()
    counts = {name: number for number, name in enumerate(HARD, start=2)}
    with server(ns, comm + ".s") as (_, [port]):
        for name, count in counts.items():
            run(ns, name, connect_and_close, count, "127.0.0.1", port)

    def all_there() -> Metrics:
        scrape = daemon.scrape()
        rows = scrape.series("tcpmon_connects_total", netns=ns.inum)
        assert sorted(value for row, value in rows if value) == sorted(counts.values())
        return scrape

    scrape = settled(all_there)
    for name in comms(scrape, ns):
        scrape.identities(netns=ns.inum, comm=name)
    assert len(comms(scrape, ns) - {comm + ".s"}) == len(HARD)
    assert "café" in comms(scrape, ns)


def test_an_empty_name(daemon: Daemon, ns: Netns, comm: str) -> None:
    """A process may call itself nothing at all (a label without value is no label to Prometheus)."""
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, rename, b"\0")
        ask(asking, connect, ("127.0.0.1", port), BEFORE)
        daemon.expect(accepted(BEFORE), ns, comm + ".s")
        daemon.expect(opened(BEFORE), ns, "")


def comms(scrape: Metrics, ns: Netns) -> set[str]:
    """The `comm` labels of all that happened in `ns`."""
    names = ("tcpmon_connect_attempts_total", "tcpmon_accepts_total")
    rows = (row for name in names for row in scrape.series(name, netns=ns.inum))
    return {labels["comm"] for labels, value in rows if value}


def exchange(ns: Netns, opening: str | bytes, accepting: str | bytes) -> None:
    """BEFORE connections from a process of one name to a process of another."""
    with server(ns, accepting) as (_, [port]):
        run(ns, opening, connect_and_close, BEFORE, "127.0.0.1", port)
