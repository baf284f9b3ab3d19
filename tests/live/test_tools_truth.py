"""What all three tools tell of connections made, refused, given up: the right lines and no others."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from functools import partial

import pytest
from harness.blackhole import SILENT4, SILENT6, reach, silence
from harness.netns import LEFT4, LEFT6, RIGHT4, RIGHT6, Netns
from harness.oracle import sockets
from harness.polling import eventually, settled
from harness.tool import Tool
from harness.traffic import IPV4, WAYS, Accept, Way, accept4, connect, plain_accept
from harness.watched import Deed, Flow, Watched, mirrors
from harness.workload import rename
from helpers import parties
from helpers.parties import Party, begin, close, dial, exchange, fail, party, serve, take, take_and_close

COUNT = 7
PORT, CLOSED_PORT = 4242, 9
Pair = tuple[Netns, Netns]
ANY4 = Way(socket.AF_INET, socket.AF_INET, RIGHT4, "0.0.0.0")
ANY6 = Way(socket.AF_INET6, socket.AF_INET6, RIGHT6, "::")
blocking_or_not = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "nonblocking"])


@pytest.mark.parametrize("accept", [plain_accept, accept4])
@blocking_or_not
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_both_ends(watched: Watched, ns: Netns, comm: str, way: Way, blocking: bool, accept: Accept) -> None:
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, COUNT, way.target, server.ask(serve, way), blocking)
        server.ask(take, COUNT, accept)
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        watched.expect(connects=opens, accepts=accepts)
        client.ask(close)
        watched.expect(connects=opens, accepts=accepts, closes=opens)
        server.ask(close)
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)


@pytest.mark.parametrize("way", [ANY4, ANY6], ids=["ipv4", "ipv6"])
def test_two_namespaces(watched: Watched, pair: Pair, comm: str, way: Way) -> None:
    left, right = pair
    with party(right, comm + ".s") as server, party(left, comm) as client:
        flows = client.ask(dial, COUNT, way.target, server.ask(serve, way))
        server.ask(take, COUNT)
        client.ask(close), server.ask(close)
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)
    rows = watched.trio.tracer.rows(watched.since[0])
    namespaces = {row["NETNS"] for row in rows if row["COMM"] == comm}
    assert namespaces == {left.inum}, "a line shows the namespace of its socket"


def test_they_come_in_order(watched: Watched, ns: Netns, comm: str) -> None:
    """Of every connection the C is before the A, and both before their X."""
    count = 499
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        server.tell(take_and_close, count)
        flows = client.ask(exchange, count, "127.0.0.1", port)
        server.child.hear()
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)
    seen: dict[str, list[str]] = {}  # by the client's port; "-" before what the server did
    for row in watched.traced():
        of_server = row["SPORT"] == str(port)
        client_port = row["DPORT"] if of_server else row["SPORT"]
        seen.setdefault(client_port, []).append("-" * of_server + row["TYPE"])
    for types in seen.values():
        assert types[0] == "connect"
        assert types.index("-accept") < types.index("-close")


@blocking_or_not
@pytest.mark.parametrize(
    "target, source",
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::ffff:127.0.0.1", "::ffff:127.0.0.1")],
)
def test_refused(watched: Watched, ns: Netns, comm: str, target: str, source: str, blocking: bool) -> None:
    with party(ns, comm) as client:
        flows = client.ask(fail, COUNT, target, CLOSED_PORT, errno.ECONNREFUSED, source, blocking)
        watched.expect(failed=client.did(flows))


@pytest.mark.parametrize("target, source", [(SILENT4, LEFT4), (SILENT6, LEFT6)])
def test_timeout(watched: Watched, silent: Pair, comm: str, target: str, source: str) -> None:
    with party(silent[0], comm) as client:
        client.tell(fail, COUNT, target, PORT, errno.ETIMEDOUT, source)
        eventually(lambda: told(watched, COUNT), 2.0)  # well before connect() returns
        assert len(sockets(silent[0], "syn-sent")) == COUNT
        watched.expect(failed=client.did(client.child.hear()))


def told(watched: Watched, count: int) -> None:
    rows = watched.trio.connector.rows(watched.since[2])
    assert [row["COMM"] for row in rows].count(watched.comm) == count


def nowhere(client: Party, code: int, target: str) -> None:
    source = "::" if ":" in target else "0.0.0.0"
    for blocking in (True, False):
        client.ask(fail, COUNT, target, PORT, code, source, blocking)


@pytest.mark.parametrize(
    "code, route, target",
    [
        (errno.ENETUNREACH, None, "10.99.0.1"),
        (errno.ENETUNREACH, None, "fd00:99::1"),
        (errno.EHOSTUNREACH, "unreachable 10.99.0.0/16", "10.99.0.1"),
        (errno.EACCES, "prohibit 10.99.0.0/16", "::ffff:10.99.0.1"),
        (errno.EACCES, "prohibit fd00:99::/64", "fd00:99::1"),
    ],
)
def test_before_any_syn(
    watched: Watched, ns: Netns, comm: str, code: int, route: str | None, target: str
) -> None:
    """The routing table says no: there was no SYN, and there is no line."""
    if route:
        ns.ip(f"{'-6 ' if '::/' in route else ''}route add {route}")
    with party(ns, comm) as client:
        nowhere(client, code, target)
        watched.expect()


def no_port_left(host: str, port: int) -> None:
    for blocking in (True, False) * COUNT:
        with pytest.raises(OSError) as caught:
            connect(host, port, blocking)
        assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_no_port(watched: Watched, ns: Netns, comm: str, host: str) -> None:
    """Two ephemeral ports, all in use: only those who have them sent a SYN."""
    ns.sysctl("net.ipv4.ip_local_port_range", "40000 40001")
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    way = Way(family, family, host, host.removeprefix("::ffff:"))
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        server.ask(serve, way, 0, PORT)
        opens = client.did(client.ask(dial, 2, host, PORT))
        client.ask(no_port_left, host, PORT)
        watched.expect(connects=opens)


def test_router_says_unreachable(watched: Watched, pair: Pair, comm: str) -> None:
    """The SYN left, and an ICMP message came back."""
    left, right = pair
    left.ip(f"route add 10.99.0.0/16 via {RIGHT4}")
    right.sysctl("net.ipv4.ip_forward", 1)
    right.ip("route add unreachable 10.99.0.0/16")
    with party(left, comm) as client:
        flows = client.ask(fail, 3, "10.99.0.1", PORT, errno.EHOSTUNREACH, LEFT4)
        watched.expect(failed=client.did(flows))


@pytest.mark.parametrize("target", [SILENT4, SILENT6])
@pytest.mark.parametrize("end", [close, parties.shut_both_close, parties.kill_myself])
def test_given_up(watched: Watched, silent: Pair, comm: str, target: str, end: Callable[[], None]) -> None:
    """Closed by the program before there was an answer: a SYN there was, a connection never."""
    with party(silent[0], comm) as client:
        flows = client.ask(begin, COUNT, target, PORT)
        if end is parties.kill_myself:
            client.leave(end)
        else:
            client.ask(end)
        watched.expect(failed=client.did(flows))


def test_killed_in_connect(watched: Watched, silent: Pair, comm: str) -> None:
    with party(silent[0], comm) as client:
        client.tell(fail, COUNT, SILENT4, PORT, errno.ETIMEDOUT, LEFT4)
        eventually(lambda: told(watched, COUNT))
        client.child.kill(signal.SIGKILL)
        lines = watched.trio.connector.rows(watched.since[2])
        ports = {row["LPORT"] for row in lines if row["COMM"] == comm}
        assert len(ports) == COUNT
        watched.expect(failed=[Deed(client.pid, comm, flow) for flow in silent_flows(ports)])


def silent_flows(ports: set[str]) -> list[Flow]:
    return [Flow(LEFT4, int(port), SILENT4, PORT) for port in ports]


def test_stopped_in_connect(watched: Watched, pair: Pair, comm: str) -> None:
    """SIGSTOP and SIGCONT restart the system call: still one attempt."""
    left, right = pair
    silence(left, RIGHT4)
    with party(right, comm + ".s") as server, party(left, comm) as client:
        client.tell(dial, 1, RIGHT4, server.ask(serve, ANY4))
        eventually(lambda: told(watched, 1))
        for _ in range(3):
            os.kill(client.pid, signal.SIGSTOP)
            eventually(lambda: expect_stopped(client.pid))
            os.kill(client.pid, signal.SIGCONT)
        reach(left, RIGHT4, right)
        watched.expect(connects=client.did(client.child.hear()))


def expect_stopped(pid: int) -> None:
    with open(f"/proc/{pid}/stat") as stat:
        assert stat.read().rpartition(")")[2].split()[0] == "T"


def test_established_later(watched: Watched, pair: Pair, comm: str) -> None:
    """The answer comes in a softirq, while the program does something else: its name is on the line."""
    left, right = pair
    silence(left, RIGHT4)
    with party(right, comm + ".s") as server, party(left, comm) as client:
        flows = client.ask(begin, COUNT, RIGHT4, server.ask(serve, ANY4))
        deeds = client.did(flows)
        watched.expect(failed=deeds)
        reach(left, RIGHT4, right)
        watched.expect(connects=deeds)
        client.leave(parties.exit_at_once)
        watched.expect(connects=deeds, closes=deeds)


def test_user_of_the_process(watched: Watched, ns: Netns, comm: str) -> None:
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve, IPV4)
        client.ask(os.setresuid, 1001, 1001, 1001)
        flows = client.ask(dial, COUNT, "127.0.0.1", port)
        watched.expect(connects=client.did(flows, uid=1001))


def test_threads_by_their_names(watched: Watched, ns: Netns, comm: str) -> None:
    """A line has the process's pid and the thread's name."""
    names = [f"{comm}.{number}" for number in range(3)]
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial_in_threads, names, server.ask(serve))
        server.ask(take_in_threads, [name + "s" for name in names])
        opens = [
            deed for name, flow in zip(names, flows, strict=True) for deed in client.did([flow], 0, name)
        ]
        takers = [acceptor(watched, flow) for flow in flows]
        assert sorted(takers) == [name + "s" for name in names]
        taken = [Deed(server.pid, taker, flow.mirror()) for taker, flow in zip(takers, flows, strict=True)]
        watched.expect(connects=opens, accepts=taken)
        client.ask(close)
        watched.expect(connects=opens, accepts=taken, closes=client.did(flows))


def acceptor(watched: Watched, flow: Flow) -> str:
    """The name of the thread that got this connection: any of those that waited."""

    def named() -> str:
        names = [
            row["COMM"]
            for row in watched.traced()
            if row["TYPE"] == "accept" and row["DPORT"] == str(flow.local_port)
        ]
        assert names
        return names[0]

    return eventually(named)


def dial_in_threads(names: list[str], port: int) -> list[Flow]:
    flows: dict[str, Flow] = {}

    def one(name: str) -> None:
        flows[name] = dial(1, "127.0.0.1", port)[0]

    parties.in_threads([partial(one, name) for name in names], names)
    return [flows[name] for name in names]


def take_in_threads(names: list[str]) -> None:
    parties.in_threads([lambda: take(1)] * len(names), names)


@pytest.mark.parametrize(
    "name, whole, cut",
    [
        (b"caf\xe9 \xff", "caf\ufffd \ufffd", b"caf\xe9 \xff"),
        (b"a\nb\x1b[2J\x7f", "a?b?[2J?", b"a?b?[2J?"),
        ("日本語日本".encode(), "日本語日本", "日本語日".encode()),
        (b"\0", "", b""),
    ],
    ids=["not utf-8", "control characters", "cut at 12 bytes", "empty"],
)
def test_names_of_all_sorts(
    watched: Watched, ns: Netns, comm: str, name: bytes, whole: str, cut: bytes
) -> None:
    """tcptracer decodes a name and pads characters, the other two pad its bytes, as bcc's do."""
    with party(ns, comm) as both:
        both.ask(rename, name)
        port = both.ask(serve)
        both.ask(dial, 1, "127.0.0.1", port)
        both.ask(take, 1)
        padded = cut.ljust(12).decode(errors="surrogateescape")
        expect_lines(watched.trio.acceptor, watched.since[1], f"{both.pid:<7} {padded} 4  127", 1)
        expect_lines(watched.trio.connector, watched.since[2], f"0     {both.pid:<7} {padded} 4  127", 1)
        both.ask(close)
        expect_lines(watched.trio.tracer, watched.since[0], f" {both.pid:<6} {whole:<16} 4  127", 4)


def expect_lines(tool: Tool, since: int, text: str, count: int) -> None:
    def check() -> None:
        lines = tool.lines(since)
        assert sum(text in line for line in lines) == count, f"{text!r} in {lines}"

    settled(check)
