"""Events in the journal: what the daemon writes to journald's socket, and what becomes of it when that is
stuck or gone. journald itself has its part in the virtual machines."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.expect import accepted, opened
from harness.manager import Manager
from harness.metrics import Counts
from harness.netns import Netns
from harness.polling import eventually, settled
from harness.traffic import IPV4, connect_errno
from harness.watched import Flow, mirrors
from helpers import parties
from helpers.parties import Party, close, dial, exchange, fail, party, serve, take, take_and_close
from journalsocket import JournalSocket

from tcpmon.events.fields import MESSAGE_IDS
from tcpmon.events.journald import SOCKET
from tcpmon.events.record import JOURNALED

COUNT = 7
WRITTEN, LOST = "tcpmon_journal_events_total", "tcpmon_lost_events_total"
StartDaemon = Callable[..., Daemon]
Entry = Mapping[str, bytes]


@pytest.fixture
def journald() -> Iterator[JournalSocket]:
    path = Path(SOCKET)
    if path.exists():
        pytest.skip("a journald runs here: the virtual machines' tests have it")
    path.parent.mkdir(parents=True, exist_ok=True)
    made = JournalSocket(path)
    yield made
    made.close()


def config(ns: Netns, **events: Any) -> dict[str, Any]:
    return {"filters": {"netns": [f"{ns.name}"]}, "events": {"journal": True, **events}}


def text(entry: Entry, name: str) -> str:
    return entry["TCPMON_" + name].decode()


def flow(entry: Entry) -> Flow:
    sport, dport = (int(text(entry, name)) for name in ("SPORT", "DPORT"))
    return Flow(text(entry, "SADDR"), sport, text(entry, "DADDR"), dport)


def expect_sum(daemon: Daemon, name: str, number: float, **labels: str) -> None:
    assert daemon.scrape(name).value(name, **labels) == number


def expect_entry(entry: Entry, kind: str, who: Party, ns: Netns, role: str) -> None:
    assert entry["SYSLOG_IDENTIFIER"] == b"tcpmon"
    assert entry["MESSAGE_ID"].decode() == MESSAGE_IDS[JOURNALED[kind]]
    assert who.comm.encode() in entry["MESSAGE"]
    want = {
        "EVENT": kind,
        "PID": str(who.pid),
        "TID": str(who.pid),
        "UID": "0",
        "COMM": who.comm,
        "THREAD_COMM": who.comm,
        "IP": "4",
        "NETNS": ns.inum,
        "ROLE": role,
    }
    assert {name: text(entry, name) for name in want} == want


def test_the_life_of_a_connection(
    journald: JournalSocket, start_daemon: StartDaemon, ns: Netns, comm: str
) -> None:
    """Four entries: of each end its birth and its close, joined by its id, with what it carried."""
    daemon = start_daemon(config(ns))
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, 1, "127.0.0.1", server.ask(serve))
        server.ask(take, 1)
        client.ask(parties.send, b"x" * 1009)
        server.ask(parties.send, b"y" * 503)
        client.ask(parties.shut)
        server.ask(parties.read_close)
        client.ask(parties.read_close)
        entries = journald.take(4)
    assert [text(entry, "EVENT") for entry in entries] == ["connect", "accept", "close", "close"]
    connect, accept = entries[:2]
    expect_entry(connect, "connect", client, ns, "client")
    expect_entry(accept, "accept", server, ns, "server")
    assert [flow(connect)] == flows
    assert [flow(accept)] == mirrors(flows)
    closes = {text(entry, "ROLE"): entry for entry in entries[2:]}
    expect_entry(closes["client"], "close", client, ns, "client")
    expect_entry(closes["server"], "close", server, ns, "server")
    for birth, role in ((connect, "client"), (accept, "server")):
        assert flow(closes[role]) == flow(birth)
        assert text(closes[role], "CONNECTION") == text(birth, "CONNECTION")
    carried = {role: [text(closes[role], f"{way}_BYTES") for way in ("SENT", "RECEIVED")] for role in closes}
    assert carried == {"client": ["1009", "503"], "server": ["503", "1009"]}
    assert {text(entry, "RETRANSMITS") for entry in closes.values()} == {"0"}
    eventually(lambda: expect_sum(daemon, WRITTEN, 4))


def test_failures(journald: JournalSocket, start_daemon: StartDaemon, ns: Netns, comm: str) -> None:
    """With a SYN and without; each with its reason."""
    start_daemon(config(ns))
    with party(ns, comm) as client:
        flows = client.ask(fail, COUNT, "127.0.0.1", 9, 111, "127.0.0.1")
        refused = journald.take(COUNT)
        client.ask(fail, 1, "10.99.0.1", 9, 101, "127.0.0.1")
        (unreachable,) = journald.take(1)
    for entry in refused:
        expect_entry_of_thread(entry, client, ns, "refused")
    assert sorted(map(flow, refused)) == sorted(flows)
    expect_entry_of_thread(unreachable, client, ns, "unreachable")
    assert (text(unreachable, "DADDR"), text(unreachable, "DPORT")) == ("10.99.0.1", "9")


def test_no_port(journald: JournalSocket, start_daemon: StartDaemon, ns: Netns, comm: str) -> None:
    """When connect() returns, its socket has forgotten where to; the entry has it."""
    ns.sysctl("net.ipv4.ip_local_port_range", "40000 40001")
    start_daemon(config(ns, types=["connect_failed"]))
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve, IPV4, 0, 4242)
        client.ask(dial, 2, "127.0.0.1", port)
        client.ask(no_port_left, port)
        for entry in journald.take(2):
            expect_entry_of_thread(entry, client, ns, "no_port")
            assert (text(entry, "DADDR"), text(entry, "DPORT")) == ("127.0.0.1", str(port))
    assert journald.is_empty()


def no_port_left(port: int) -> None:
    for blocking in (True, False):
        with socket.socket() as sock:
            assert connect_errno(sock, ("127.0.0.1", port), blocking) == errno.EADDRNOTAVAIL


def expect_entry_of_thread(entry: Entry, who: Party, ns: Netns, reason: str) -> None:
    found = [text(entry, name) for name in ("EVENT", "PID", "COMM", "NETNS", "REASON")]
    assert found == ["connect_failed", str(who.pid), who.comm, ns.inum, reason]


def test_switched_by_reload(journald: JournalSocket, start_daemon: StartDaemon, ns: Netns, comm: str) -> None:
    """Off, on, some kinds only, off: no count is touched by it."""
    daemon = start_daemon(config(ns, journal=False))
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)

        def connections() -> None:
            server.tell(take_and_close, COUNT)
            client.ask(exchange, COUNT, "127.0.0.1", port)
            server.child.hear()

        connections()
        assert daemon.reload(config(ns))
        connections()
        kinds = [text(entry, "EVENT") for entry in journald.take(4 * COUNT)]
        assert {kind: kinds.count(kind) for kind in set(kinds)} == {
            "connect": COUNT,
            "accept": COUNT,
            "close": 2 * COUNT,
        }
        assert daemon.reload(config(ns, types=["accept"]))
        connections()
        assert [text(entry, "EVENT") for entry in journald.take(COUNT)] == ["accept"] * COUNT
        assert daemon.reload(config(ns, journal=False))
        connections()
        daemon.expect(opened(4 * COUNT), ns, comm, port=str(port))
        daemon.expect(accepted(4 * COUNT), ns, comm + ".s", port=str(port))
    assert journald.is_empty()
    expect_sum(daemon, WRITTEN, 5 * COUNT)


def test_the_rate_limit(journald: JournalSocket, start_daemon: StartDaemon, ns: Netns, comm: str) -> None:
    """What is beyond it is cut in the kernel, and counted."""
    count, limit = 101, 10
    daemon = start_daemon(config(ns, rate_limit=limit), lossy=True)
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        server.tell(take_and_close, count)
        client.ask(exchange, count, "127.0.0.1", port)
        server.child.hear()
    daemon.expect(opened(count), ns, comm)

    def check() -> float:
        scrape = daemon.scrape()
        written, cut = scrape.value(WRITTEN), scrape.value(LOST, stage="rate_limit")
        assert written + cut == 4 * count
        return written

    written = settled(check)
    assert limit <= written < 4 * count
    journald.take(int(written))
    assert journald.is_empty()


def test_a_journal_that_is_stuck(
    journald: JournalSocket, start_daemon: StartDaemon, ns: Netns, comm: str
) -> None:
    """Scrapes are answered and all is counted; what the ring has no room for is told as lost, and the rest is
    written when the journal goes on."""
    count = 1009
    daemon = start_daemon(config(ns, rate_limit=0, buffer="16KiB"), lossy=True)
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        server.tell(take_and_close, count)
        client.ask(exchange, count, "127.0.0.1", port)
        server.child.hear()
    daemon.expect(opened(count), ns, comm)
    daemon.expect(accepted(count), ns, comm + ".s")
    lost = daemon.scrape().value(LOST, stage="event_ring")
    assert 0 < lost < 4 * count
    journald.take(4 * count - int(lost))
    assert journald.is_empty()
    eventually(lambda: expect_sum(daemon, WRITTEN, 4 * count - lost))


def test_a_journal_that_is_gone(
    journald: JournalSocket, start_daemon: StartDaemon, ns: Netns, comm: str
) -> None:
    """Said once, counted each, and over when it is back."""
    daemon = start_daemon(config(ns), lossy=True)
    journald.close()
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        client.ask(dial, COUNT, "127.0.0.1", port)
        eventually(lambda: expect_sum(daemon, LOST, COUNT, stage="journal"))
        back = JournalSocket(Path(SOCKET))
        client.ask(close)
        closes = back.take(COUNT)
        back.close()
    assert {text(entry, "EVENT") for entry in closes} == {"close"}
    expect_sum(daemon, WRITTEN, COUNT)
    daemon.expect(Counts(attempts=COUNT, connects=COUNT, closes_client=COUNT), ns, comm)
    assert daemon.stderr().count("the journal does not take events") == 1


def test_over_a_restart(journald: JournalSocket, tmp_path: Path, ns: Netns, comm: str) -> None:
    """What happens while no daemon runs is written by the next one; the count of entries goes on."""
    with Manager(tmp_path) as manager, party(ns, comm + ".s") as server, party(ns, comm) as client:
        first = Daemon(tmp_path, config(ns), launch=manager.launch)
        port = server.ask(serve)
        client.ask(dial, COUNT, "127.0.0.1", port)
        assert len(journald.take(COUNT)) == COUNT
        eventually(lambda: expect_sum(first, WRITTEN, COUNT))
        first.process.kill()
        first.process.wait()
        client.ask(close)
        server.ask(take, COUNT)
        with Daemon(tmp_path, config(ns), launch=manager.launch) as second:
            kinds = [text(entry, "EVENT") for entry in journald.take(2 * COUNT)]
            assert sorted(kinds) == ["accept"] * COUNT + ["close"] * COUNT
            eventually(lambda: expect_sum(second, WRITTEN, 3 * COUNT))
    assert journald.is_empty()
