"""What is not a plain three-way handshake between two system calls: Fast Open, MPTCP, io_uring."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest
from harness.blackhole import reach, silence
from harness.daemon import Daemon
from harness.expect import Who, accepted, expect_opened, expect_pairs, kernel_agrees
from harness.helpers import Helpers
from harness.metrics import Counts
from harness.netns import LEFT4, RIGHT4, Netns, sh
from harness.traffic import (
    Accept,
    accept4,
    connect_and_close,
    connect_errno,
    drain,
    finish_connect,
    plain_accept,
    serve,
)
from harness.workload import Link, run, spawn

COUNT = 7
PAYLOAD = b"tcpmon!"
MPTCP = 262  # IPPROTO_MPTCP
TCP_FASTOPEN_CONNECT = 30
MPTCP_ENDS = {"both": (MPTCP, MPTCP), "client": (MPTCP, 0), "server": (0, MPTCP)}


def tcp_ext(ns: Netns, field: str) -> int:
    """One of the kernel's TcpExt counters of a namespace."""
    table = sh(f"ip netns exec {ns.name} cat /proc/net/netstat").splitlines()
    names, values = (line.split() for line in table if line.startswith("TcpExt:"))
    return int(dict(zip(names, values, strict=True))[field])


@pytest.fixture
def fastopen(ns: Netns) -> Netns:
    """A namespace where both sides of Fast Open are on."""
    ns.sysctl("net.ipv4.tcp_fastopen", 3)
    return ns


def listen_fastopen(host: str) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 128)
    listener.bind((host, 0))
    listener.listen(128)
    return listener


def serve_fastopen(link: Link, count: int) -> int:
    """Like `serve`, with Fast Open; how many bytes came."""
    listener = listen_fastopen("127.0.0.1")
    link.say(listener.getsockname()[1])
    total = 0
    for _ in range(count):
        with accept4(listener) as sock:
            total += drain(sock)
    return total


def send_fastopen(port: int, host: str = "127.0.0.1") -> None:
    """Connect by sendto(2): there is no connect(2)."""
    with socket.socket() as sock:
        sock.sendto(PAYLOAD, socket.MSG_FASTOPEN, (host, port))


def connect_fastopen(port: int) -> None:
    """A connect(2) that only notes the address: the SYN leaves with the first write."""
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.connect(("127.0.0.1", port))
        sock.sendall(PAYLOAD)


@pytest.mark.parametrize("client", [send_fastopen, connect_fastopen])
def test_fastopen(daemon: Daemon, fastopen: Netns, comm: str, client: Callable[[int], None]) -> None:
    """The first connection fetches a cookie, the others carry their data in the SYN."""
    ns, server = fastopen, comm + ".s"
    with spawn(ns, server, serve_fastopen, COUNT) as child:
        port = child.hear()
        run(ns, comm, lambda: [client(port) for _ in range(COUNT)])
        assert child.result() == COUNT * len(PAYLOAD)
    assert tcp_ext(ns, "TCPFastOpenPassive") == COUNT - 1, "the workload did not use Fast Open"
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, server))
    scrape = daemon.scrape()
    total = COUNT * len(PAYLOAD)
    assert scrape.sum("tcpmon_sent_bytes_total", netns=ns.inum, comm=comm, role="client") == total
    assert scrape.sum("tcpmon_received_bytes_total", netns=ns.inum, comm=server, role="server") == total


def test_fastopen_accepted_during_the_handshake(daemon: Daemon, pair: tuple[Netns, Netns], comm: str) -> None:
    """The SYN-ACK is lost at first: the server's program has the connection before the client's ACK."""
    left, right = pair
    server = comm + ".s"
    for side in pair:
        side.sysctl("net.ipv4.tcp_fastopen", 3)
    with (
        spawn(right, server, accept_early) as child,
        spawn(left, comm, send_early, port := child.hear()) as client,
    ):
        client.hear()
        silence(right, LEFT4)
        client.say("the server's packets are lost")
        child.hear()
        daemon.expect(Counts(accepts=1 + COUNT, closes_server=1, open_server=COUNT), right, server)
        reach(right, LEFT4, left)
        client.result()
        child.result()
    expect_pairs(daemon, 1 + COUNT, port, Who(left, comm), Who(right, server))


def accept_early(link: Link) -> None:
    listener = listen_fastopen(RIGHT4)
    link.say(listener.getsockname()[1])
    drain(accept4(listener))
    early = [accept4(listener) for _ in range(COUNT)]
    link.say("all accepted")
    for sock in early:
        drain(sock)
        sock.close()


def send_early(link: Link, port: int) -> None:
    send_fastopen(port, RIGHT4)
    link.say("got a cookie")
    link.hear()
    early = [socket.socket() for _ in range(COUNT)]
    for sock in early:
        sock.setblocking(False)
        sock.sendto(PAYLOAD, socket.MSG_FASTOPEN, (RIGHT4, port))
    for sock in early:
        assert finish_connect(sock) == 0
        sock.close()


@pytest.mark.parametrize("client", [send_fastopen, connect_fastopen])
def test_fastopen_refused(daemon: Daemon, fastopen: Netns, comm: str, client: Callable[[int], None]) -> None:
    def refused() -> None:
        for _ in range(COUNT):
            with pytest.raises(ConnectionRefusedError):
                client(9)

    run(fastopen, comm, refused)
    daemon.expect(Counts(attempts=COUNT, failures={"refused": COUNT}), fastopen, comm, port="9")


def test_fastopen_unreachable(daemon: Daemon, fastopen: Netns, comm: str) -> None:
    """No route: the failure comes before any SYN, and from sendto(2), which the tracepoints do not watch."""

    def nowhere() -> None:
        for _ in range(COUNT):
            with socket.socket() as sock, pytest.raises(OSError) as caught:
                sock.sendto(PAYLOAD, socket.MSG_FASTOPEN, ("10.99.0.1", 9))
            assert caught.value.errno == errno.ENETUNREACH

    run(fastopen, comm, nowhere)
    seen = COUNT if "tcp_v4_connect" in daemon.get() else 0  # fexit and kretprobe do; README, Kernels
    failures = {"unreachable": seen} if seen else {}
    daemon.expect(Counts(attempts=seen, failures=failures), fastopen, comm, port="9")


def test_fastopen_given_up_before_the_syn(daemon: Daemon, fastopen: Netns, comm: str) -> None:
    """With a cookie connect(2) returns 0 without a SYN; without a write it never becomes a connection."""
    ns, server = fastopen, comm + ".s"

    def give_up(port: int) -> None:
        connect_fastopen(port)
        for _ in range(COUNT):
            with socket.socket() as sock:
                sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
                sock.connect(("127.0.0.1", port))

    with spawn(ns, server, serve_fastopen, 1) as child:
        port = child.hear()
        run(ns, comm, give_up, port)
        child.result()
    want = Counts(attempts=1 + COUNT, connects=1, failures={"canceled": COUNT}, closes_client=1)
    daemon.expect(want, ns, comm, port=str(port))
    kernel_agrees(ns, ns, 1)


@pytest.mark.parametrize("accept", [plain_accept, accept4])
@pytest.mark.parametrize("client, server", MPTCP_ENDS.values(), ids=MPTCP_ENDS)
def test_mptcp(
    daemon: Daemon,
    ns: Netns,
    comm: str,
    client: int,
    server: int,
    accept: Accept,
) -> None:
    name = comm + ".s"
    with spawn(ns, name, lambda link: serve(link, COUNT, accept=accept, protocol=server)) as child:
        port = child.hear()
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port, True, client)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, name))


@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "nonblocking"])
def test_mptcp_refused(daemon: Daemon, ns: Netns, comm: str, blocking: bool) -> None:
    def refused() -> None:
        for _ in range(COUNT):
            with socket.socket(proto=MPTCP) as sock:
                assert connect_errno(sock, ("127.0.0.1", 9), blocking) == errno.ECONNREFUSED

    run(ns, comm, refused)
    daemon.expect(Counts(attempts=COUNT, failures={"refused": COUNT}), ns, comm, port="9")


def test_mptcp_unreachable(daemon: Daemon, ns: Netns, comm: str) -> None:
    def nowhere() -> None:
        for _ in range(COUNT):
            with socket.socket(proto=MPTCP) as sock:
                assert connect_errno(sock, ("10.99.0.1", 9)) == errno.ENETUNREACH

    run(ns, comm, nowhere)
    daemon.expect(Counts(attempts=COUNT, failures={"unreachable": COUNT}), ns, comm, port="9")


def test_io_uring_accept(daemon: Daemon, ns: Netns, helpers: Helpers, comm: str) -> None:
    """No system call accepts here: who did is known by the close at the latest."""
    server = comm + ".s"
    with ns.exec(helpers.named("uring_accept", server), str(COUNT)) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
        assert child.wait(20) == 0
    expect_opened(daemon, COUNT, port, Who(ns, comm))
    daemon.expect(accepted(COUNT), ns, server, port=str(port))
    kernel_agrees(ns, ns, COUNT)
