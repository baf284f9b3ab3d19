"""The traffic: each scene makes its own namespaces, plays, and says exactly what it did."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial

from harness.blackhole import SILENT4, SILENT6, reach
from harness.netns import LEFT4, Netns
from harness.oracle import sockets
from harness.polling import eventually
from harness.traffic import WAYS, connect_errno, finish_connect
from helpers import parties
from helpers.parties import Party, begin, close, dial, exchange, fail, serve, take, take_and_close
from helpers.raw import RST, SYN, send_each

from .stage import Stage

PORTS = (4242, 4343)
CLOSED_PORT = 9
HANDSHAKE_PORTS = 50_000


def short(stage: Stage) -> None:
    """One connection after the other, by each way that two ends can meet."""
    way, port = WAYS[stage.random.choice(sorted(WAYS))], stage.random.choice(PORTS)
    with stage.alone() as ns, stage.party(ns) as server, stage.party(ns) as client:
        server.ask(serve, way, 0, port)
        count = stage.some(40)
        server.tell(take_and_close, count)
        client.ask(exchange, count, way.target, port)
        server.child.hear()
        stage.opened(ns, client.comm, port, count)
        stage.accepted(ns, server.comm, port, count)


def fast(stage: Stage) -> None:
    """A program in C that connects to itself, at hundreds a second."""
    port, comm, count = stage.random.choice(PORTS), stage.comm(), stage.some(250)
    with stage.alone() as ns:
        path = stage.helpers.folder / comm
        command = str(path) if path.exists() else stage.helpers.named("loop", comm)
        with ns.exec(command, str(count), "127.0.0.1", str(port), "200") as loop:
            said, _ = loop.communicate()
        assert loop.returncode == 0
        assert int(said) == count
        stage.opened(ns, comm, port, count)
        stage.accepted(ns, comm, port, count)


def talk(stage: Stage) -> None:
    """Many open at once, with payload both ways, and one of the ways to end them."""
    end = stage.random.choice((close, parties.reset, parties.shut_read_close, parties.shut_both_close))
    with stage.alone() as ns, stage.party(ns) as server, stage.party(ns) as client:
        count = _many_open(stage, ns, server, client)
        client.ask(parties.send, bytes(stage.some(20_000)))
        server.ask(parties.send, bytes(stage.some(2000)))
        server.tell(parties.read_close)
        client.ask(end)
        server.child.hear()
        stage.note(ns, client.comm, PORTS[0], closes_client=count)
        stage.note(ns, server.comm, PORTS[0], closes_server=count)


def _many_open(stage: Stage, ns: Netns, server: Party, client: Party) -> int:
    count = stage.some(20)
    server.ask(serve, WAYS["ipv4"], 0, PORTS[0])
    client.ask(dial, count, "127.0.0.1", PORTS[0])
    server.ask(take, count)
    stage.note(ns, client.comm, PORTS[0], attempts=count, connects=count)
    stage.note(ns, server.comm, PORTS[0], accepts=count)
    return count


def killed(stage: Stage) -> None:
    """The client dies with its connections open."""
    with stage.alone() as ns, stage.party(ns) as server, stage.party(ns) as client:
        count = _many_open(stage, ns, server, client)
        client.leave(parties.kill_myself)
        server.ask(parties.read_close)
        stage.note(ns, client.comm, PORTS[0], closes_client=count)
        stage.note(ns, server.comm, PORTS[0], closes_server=count)


def backlog(stage: Stage) -> None:
    """Some are accepted; the others wait until the listener is closed, and are nobody's."""
    with stage.alone() as ns, stage.party(ns) as server, stage.party(ns) as client:
        count, port = stage.some(20), PORTS[1]
        taken = stage.random.randint(0, count)
        server.ask(serve, WAYS["ipv4"], 0, port)
        client.ask(dial, count, "127.0.0.1", port)
        server.ask(take, taken)
        server.ask(parties.stop_listening)
        server.ask(close)
        client.ask(parties.read_close)
        stage.opened(ns, client.comm, port, count)
        stage.accepted(ns, server.comm, port, taken)


def refused(stage: Stage) -> None:
    target = stage.random.choice(("127.0.0.1", "::1", "::ffff:127.0.0.1"))
    with stage.alone() as ns:
        _fail(stage, ns, "refused", errno.ECONNREFUSED, target, target)


def unreachable(stage: Stage) -> None:
    """Without a SYN."""
    with stage.alone() as ns:
        _fail(stage, ns, "unreachable", errno.ENETUNREACH, "10.99.0.1", "127.0.0.1")


def denied(stage: Stage) -> None:
    with stage.alone() as ns:
        ns.ip("route add prohibit 10.99.0.0/16")
        _fail(stage, ns, "denied", errno.EACCES, "10.99.0.1", "127.0.0.1")


def timeout(stage: Stage) -> None:
    target, source = stage.random.choice(((SILENT4, LEFT4), (SILENT6, "::")))
    with stage.silent() as (left, _right):
        _fail(stage, left, "timeout", errno.ETIMEDOUT, target, source)


def _fail(stage: Stage, ns: Netns, reason: str, code: int, target: str, source: str) -> None:
    with stage.party(ns) as client:
        count = stage.some(10)
        client.ask(fail, count, target, CLOSED_PORT, code, source, stage.random.random() < 0.5)
        stage.failed(ns, client.comm, CLOSED_PORT, reason, count)


def canceled(stage: Stage) -> None:
    with stage.silent() as (left, _right), stage.party(left) as client:
        count = stage.some(20)
        client.ask(begin, count, SILENT4, PORTS[0])
        client.ask(close)
        stage.failed(left, client.comm, PORTS[0], "canceled", count)


def no_port(stage: Stage) -> None:
    """Two ephemeral ports, both in use."""
    with stage.alone() as ns, stage.party(ns) as server, stage.party(ns) as client:
        ns.sysctl("net.ipv4.ip_local_port_range", "40000 40001")
        server.ask(serve, WAYS["ipv4"], 0, PORTS[0])
        client.ask(dial, 2, "127.0.0.1", PORTS[0])
        server.ask(take, 2)
        count = stage.some(10)
        client.ask(_find_no_port, count)
        server.tell(parties.read_close)
        client.ask(close)
        server.child.hear()
        stage.opened(ns, client.comm, PORTS[0], 2)
        stage.accepted(ns, server.comm, PORTS[0], 2)
        stage.failed(ns, client.comm, PORTS[0], "no_port", count)


def _find_no_port(count: int) -> None:
    for number in range(count):
        with socket.socket() as sock:
            code = connect_errno(sock, ("127.0.0.1", PORTS[0]), bool(number % 2))
            assert code == errno.EADDRNOTAVAIL, os.strerror(code)


def reset(stage: Stage) -> None:
    """A peer that answers a SYN with one of its own, and then with a reset."""
    with stage.silent() as (left, right), stage.party(left) as client, stage.party(right) as peer:
        reach(left, SILENT4, right)
        ports = range(HANDSHAKE_PORTS, HANDSHAKE_PORTS + stage.some(10))
        client.ask(_begin_from, ports)
        peer.ask(send_each, SYN, 1000, SILENT4, PORTS[0], LEFT4, ports)
        eventually(partial(_in_handshake, left, len(ports)))
        peer.ask(send_each, RST, 1001, SILENT4, PORTS[0], LEFT4, ports)
        client.ask(_finish_all, errno.ECONNRESET)
        stage.failed(left, client.comm, PORTS[0], "reset", len(ports))


def _begin_from(ports: range) -> None:
    for port in ports:
        sock = socket.socket()
        sock.bind((LEFT4, port))
        sock.setblocking(False)
        assert sock.connect_ex((SILENT4, PORTS[0])) == errno.EINPROGRESS
        parties.held.append(sock)


def _in_handshake(ns: Netns, count: int) -> None:
    assert len(sockets(ns, "syn-recv")) == count


def _finish_all(code: int) -> None:
    assert [finish_connect(sock) for sock in parties.held] == [code] * len(parties.held)
    close()


# How often each, against the others
SCENES: Mapping[Callable[[Stage], None], int] = {
    short: 6,
    fast: 6,
    talk: 4,
    killed: 2,
    backlog: 2,
    refused: 2,
    unreachable: 1,
    denied: 1,
    timeout: 2,
    canceled: 1,
    no_port: 1,
    reset: 1,
}
