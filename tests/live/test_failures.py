"""Connects that fail: each with its reason, never as a success, and none of them twice."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable

import pytest
from harness.blackhole import SILENT4, SILENT6, reach, silence
from harness.daemon import Daemon
from harness.expect import Who, expect_accepted, expect_opened, expect_pairs
from harness.metrics import Counts
from harness.netns import LEFT4, RIGHT4, Netns
from harness.oracle import snmp, sockets
from harness.polling import eventually, settled
from harness.traffic import Way, connect, connect_errno, finish_connect, linger0, listen, serve
from harness.workload import Link, run, spawn
from helpers import denied
from helpers.b_pinned import cgroup
from helpers.raw import RST, SYN, send_each

COUNT = 7
PORT = 4242
CLOSED_PORT = 9
Pair = tuple[Netns, Netns]
ANY4 = Way(socket.AF_INET, socket.AF_INET, RIGHT4, "0.0.0.0")

blocking_or_not = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "nonblocking"])


def failed(reason: str, count: int = COUNT) -> Counts:
    return Counts(attempts=count, failures={reason: count})


def new_socket(target: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET)


def fail_with(code: int, target: str, port: int, blocking: bool, count: int = COUNT) -> None:
    """`count` connects at once, each of which must end with errno `code`."""
    codes: list[int] = []

    def one() -> None:
        with new_socket(target) as sock:
            codes.append(connect_errno(sock, (target, port), blocking))

    crew = [threading.Thread(target=one) for _ in range(count)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    assert codes == [code] * count


def connecting(target: str, port: int = PORT) -> socket.socket:
    """A non-blocking socket whose SYN is on its way."""
    sock = new_socket(target)
    sock.setblocking(False)
    assert sock.connect_ex((target, port)) == errno.EINPROGRESS
    return sock


@blocking_or_not
@pytest.mark.parametrize("target", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_refused(daemon: Daemon, ns: Netns, comm: str, target: str, blocking: bool) -> None:
    run(ns, comm, fail_with, errno.ECONNREFUSED, target, CLOSED_PORT, blocking)
    daemon.expect(failed("refused"), ns, comm, port=str(CLOSED_PORT))
    assert (snmp(ns).active_opens, snmp(ns).attempt_fails) == (COUNT, COUNT)


@blocking_or_not
@pytest.mark.parametrize("target", [SILENT4, SILENT6])
def test_timeout(daemon: Daemon, silent: Pair, comm: str, target: str, blocking: bool) -> None:
    left, _ = silent
    run(left, comm, fail_with, errno.ETIMEDOUT, target, PORT, blocking)
    daemon.expect(failed("timeout"), left, comm, port=str(PORT))
    assert (snmp(left).active_opens, snmp(left).attempt_fails) == (COUNT, COUNT)


@blocking_or_not
@pytest.mark.parametrize(
    "reason, code, route, target",
    [
        ("unreachable", errno.ENETUNREACH, None, "10.99.0.1"),
        ("unreachable", errno.ENETUNREACH, None, "fd00:99::1"),
        ("unreachable", errno.ENETUNREACH, None, "::ffff:10.99.0.1"),
        ("unreachable", errno.EHOSTUNREACH, "unreachable 10.99.0.0/16", "10.99.0.1"),
        ("unreachable", errno.EHOSTUNREACH, "unreachable fd00:99::/64", "fd00:99::1"),
        ("denied", errno.EACCES, "prohibit 10.99.0.0/16", "10.99.0.1"),
        ("denied", errno.EACCES, "prohibit fd00:99::/64", "fd00:99::1"),
        ("denied", errno.EACCES, "prohibit 10.99.0.0/16", "::ffff:10.99.0.1"),
    ],
)
def test_before_any_syn(
    daemon: Daemon,
    ns: Netns,
    comm: str,
    reason: str,
    code: int,
    route: str | None,
    target: str,
    blocking: bool,
) -> None:
    """The routing table says no: connect(2) fails at once, and no packet ever leaves."""
    if route:
        ns.ip(f"{'-6 ' if '::/' in route else ''}route add {route}")
    run(ns, comm, fail_with, code, target, PORT, blocking)
    daemon.expect(failed(reason), ns, comm, port=str(PORT))
    assert snmp(ns).active_opens == 0


def fail_in_a_cgroup(link: Link, target: str, blocking: bool) -> None:
    link.hear()
    fail_with(errno.EPERM, target, PORT, blocking)


@blocking_or_not
@pytest.mark.parametrize("target", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_denied_by_a_cgroup(daemon: Daemon, ns: Netns, comm: str, target: str, blocking: bool) -> None:
    with cgroup(comm) as group, spawn(ns, comm, fail_in_a_cgroup, target, blocking) as child:
        denied.by_cgroup(group)
        (group / "cgroup.procs").write_text(str(child.pid))
        child.say("try it")
        child.result()
    daemon.expect(failed("denied"), ns, comm, port=str(PORT))
    assert snmp(ns).active_opens == 0


@blocking_or_not
@pytest.mark.parametrize("target", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_denied_by_a_security_module(
    daemon: Daemon, ns: Netns, comm: str, target: str, blocking: bool
) -> None:
    def fail(target: str) -> None:
        denied.by_landlock()
        with socket.socket(socket.AF_UNIX) as other:  # is asked for, too, and no connection of ours
            assert other.connect_ex("\0tcpmon nobody") == errno.ECONNREFUSED
        fail_with(errno.EACCES, target, PORT, blocking)

    run(ns, comm, fail, target)
    daemon.expect(failed("denied"), ns, comm, port=str(PORT))
    assert snmp(ns).active_opens == 0


@blocking_or_not
def test_no_neighbour(daemon: Daemon, pair: Pair, comm: str, blocking: bool) -> None:
    """The SYN is out, as far as TCP knows, and ARP finds nobody."""
    left, _ = pair
    for key, value in (("mcast_solicit", 1), ("retrans_time_ms", 100)):
        left.sysctl(f"net.ipv4.neigh.eth0.{key}", value)
    run(left, comm, fail_with, errno.EHOSTUNREACH, "10.83.0.77", PORT, blocking)
    daemon.expect(failed("unreachable"), left, comm, port=str(PORT))
    assert snmp(left).active_opens == COUNT


def ask_all_the_time(code: int, target: str, count: int) -> None:
    """Reads each socket's error, and so takes it away, as soon as it is there; not on its timer's CPU."""
    here, *elsewhere = os.sched_getaffinity(0)
    for _ in range(count):
        os.sched_setaffinity(0, {here})
        with connecting(target) as sock:
            os.sched_setaffinity(0, elsewhere or {here})
            while not (found := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                pass
            assert found == code


def test_no_neighbour_and_a_program_that_takes_the_error_away(daemon: Daemon, pair: Pair, comm: str) -> None:
    left, _ = pair
    count = 101
    for key, value in (("mcast_solicit", 1), ("retrans_time_ms", 20)):
        left.sysctl(f"net.ipv4.neigh.eth0.{key}", value)
    run(left, comm, ask_all_the_time, errno.EHOSTUNREACH, "10.83.0.77", count)
    daemon.expect(failed("unreachable", count), left, comm, port=str(PORT))


@pytest.fixture
def routed(pair: Pair) -> Pair:
    """The right end is the left's router to 10.99.0.0/16, and has no way there: it sends ICMP messages."""
    left, right = pair
    left.ip(f"route add 10.99.0.0/16 via {RIGHT4}")
    right.sysctl("net.ipv4.ip_forward", 1)
    right.sysctl("net.ipv4.icmp_ratelimit", 0)
    right.ip("route add unreachable 10.99.0.0/16")
    return pair


ICMP_COUNT = 3  # the kernel sends at most five such messages at once


def test_router_says_unreachable(daemon: Daemon, routed: Pair, comm: str) -> None:
    """The SYN is out, and a message comes back while connect(2) waits."""
    left, _ = routed
    run(left, comm, fail_with, errno.EHOSTUNREACH, "10.99.0.1", PORT, True, ICMP_COUNT)
    daemon.expect(failed("unreachable", ICMP_COUNT), left, comm, port=str(PORT))
    assert (snmp(left).active_opens, snmp(left).attempt_fails) == (ICMP_COUNT, ICMP_COUNT)


def test_router_says_unreachable_later(daemon: Daemon, routed: Pair, comm: str) -> None:
    """The message comes long after the non-blocking connect(2): in answer to the SYN's retransmission."""
    left, right = routed
    silence(left, RIGHT4)

    def body(link: Link) -> None:
        socks = [connecting("10.99.0.1") for _ in range(ICMP_COUNT)]
        link.say("connecting")
        assert [finish_connect(sock) for sock in socks] == [errno.EHOSTUNREACH] * ICMP_COUNT

    with spawn(left, comm, body) as child:
        child.hear()
        reach(left, RIGHT4, right)
        child.result()
    daemon.expect(failed("unreachable", ICMP_COUNT), left, comm, port=str(PORT))
    assert (snmp(left).active_opens, snmp(left).attempt_fails) == (ICMP_COUNT, ICMP_COUNT)


def test_router_says_unreachable_within_connect(daemon: Daemon, routed: Pair, comm: str) -> None:
    """The message comes while connect(2) has the socket: a soft error; the kernel goes on.

    A non-blocking program is told all the same, and closes the socket: a failure, whichever of the
    two reasons the kernel lets us see.
    """
    left, _ = routed
    run(left, comm, fail_with, errno.EHOSTUNREACH, "10.99.0.1", PORT, False, ICMP_COUNT)

    def check() -> None:
        got = daemon.scrape().counts(netns=left.inum, comm=comm)
        assert (got.attempts, got.connects, sum(got.failures.values())) == (ICMP_COUNT, 0, ICMP_COUNT)
        assert set(got.failures) <= {"unreachable", "canceled"}

    settled(check)


@blocking_or_not
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_no_port(daemon: Daemon, ns: Netns, comm: str, host: str, blocking: bool) -> None:
    """Two ephemeral ports, all in use."""
    ns.sysctl("net.ipv4.ip_local_port_range", "40000 40001")
    family = socket.AF_INET6 if host == "::1" else socket.AF_INET
    way = Way(family, family, host, host.removeprefix("::ffff:"))

    def body() -> None:
        listener = listen(way, PORT)
        held = [connect(host, PORT, blocking) for _ in range(2)]
        fail_with(errno.EADDRNOTAVAIL, host, PORT, blocking)
        del listener, held

    run(ns, comm, body)
    want = Counts(attempts=2 + COUNT, connects=2, failures={"no_port": COUNT}, closes_client=2)
    daemon.expect(want, ns, comm, port=str(PORT))
    assert snmp(ns).active_opens == 2


@pytest.mark.parametrize("target", [SILENT4, SILENT6])
def test_closed_while_connecting(daemon: Daemon, silent: Pair, comm: str, target: str) -> None:
    left, _ = silent
    run(left, comm, lambda: [connecting(target).close() for _ in range(COUNT)])
    daemon.expect(failed("canceled"), left, comm, port=str(PORT))
    assert (snmp(left).active_opens, snmp(left).attempt_fails) == (COUNT, 0)


def test_shut_down_while_connecting(daemon: Daemon, silent: Pair, comm: str) -> None:
    left, _ = silent

    def body() -> None:
        socks = [connecting(SILENT4) for _ in range(COUNT)]
        for sock in socks:
            sock.shutdown(socket.SHUT_RDWR)

    run(left, comm, body)
    daemon.expect(failed("canceled"), left, comm, port=str(PORT))


def connect_unspec(sock: socket.socket) -> None:
    """connect(2) to AF_UNSPEC, which takes a socket back to where it began."""
    address = struct.pack("=H14x", socket.AF_UNSPEC)
    assert ctypes.CDLL(None).connect(sock.fileno(), address, len(address)) == 0


def test_disconnected_while_connecting(daemon: Daemon, silent: Pair, comm: str) -> None:
    """connect(AF_UNSPEC) gives the attempt up; the same socket then connects to somebody else."""
    left, right = silent

    def body(port: int) -> None:
        for _ in range(COUNT):
            with connecting(SILENT4, port) as sock:
                connect_unspec(sock)
                assert connect_errno(sock, (RIGHT4, port)) == 0

    with spawn(right, comm + ".s", serve, COUNT, ANY4) as child:
        port = child.hear()
        run(left, comm, body, port)
        child.result()
    want = Counts(attempts=2 * COUNT, connects=COUNT, failures={"canceled": COUNT}, closes_client=COUNT)
    daemon.expect(want, left, comm, port=str(port))
    expect_accepted(daemon, COUNT, port, Who(right, comm + ".s"))


def test_disconnected_after_it_was_connected(daemon: Daemon, ns: Netns, comm: str) -> None:
    """connect(AF_UNSPEC) on an established connection is a close; the same socket then lives again."""

    def body(port: int) -> None:
        with socket.socket() as sock:
            for _ in range(COUNT):
                assert connect_errno(sock, ("127.0.0.1", port)) == 0
                connect_unspec(sock)

    def accept_all(link: Link) -> None:
        listener = listen()
        link.say(listener.getsockname()[1])
        for _ in range(COUNT):
            listener.accept()[0].close()

    with spawn(ns, comm + ".s", accept_all) as child:
        port = child.hear()
        run(ns, comm, body, port)
        child.result()
    expect_opened(daemon, COUNT, port, Who(ns, comm))
    expect_accepted(daemon, COUNT, port, Who(ns, comm + ".s"))


@blocking_or_not
def test_second_connect_on_the_same_socket(daemon: Daemon, ns: Netns, comm: str, blocking: bool) -> None:
    """Refused at first, then tried again, as poor man's retry loops do."""

    def body(port: int) -> None:
        for _ in range(COUNT):
            with socket.socket() as sock:
                assert connect_errno(sock, ("127.0.0.1", CLOSED_PORT), blocking) == errno.ECONNREFUSED
                if not blocking:  # the next call only tells once more that the first attempt is over
                    assert sock.connect_ex(("127.0.0.1", port)) == errno.ECONNABORTED
                assert connect_errno(sock, ("127.0.0.1", port), blocking) == 0

    with spawn(ns, comm + ".s", serve, COUNT) as child:
        port = child.hear()
        run(ns, comm, body, port)
        child.result()
    daemon.expect(failed("refused"), ns, comm, port=str(CLOSED_PORT))
    want = Counts(attempts=COUNT, connects=COUNT, closes_client=COUNT)
    daemon.expect(want, ns, comm, port=str(port))
    assert (snmp(ns).active_opens, snmp(ns).attempt_fails) == (2 * COUNT, COUNT)


def delayed(body: Callable[[Link, int], None]) -> Callable[..., None]:
    """A test in which `body(link, port)` starts while RIGHT4 does not answer, and hears when it does.

    Whatever it does to its one attempt a connection, all are established in the end.
    """

    def test(daemon: Daemon, pair: Pair, comm: str) -> None:
        left, right = pair
        silence(left, RIGHT4)
        with (
            spawn(right, comm + ".s", serve, COUNT, ANY4) as child,
            spawn(left, comm, body, port := child.hear()) as client,
        ):
            client.hear()
            daemon.expect(Counts(), right, comm + ".s")
            reach(left, RIGHT4, right)
            client.say("it answers now")
            client.result()
            child.result()
        expect_pairs(daemon, COUNT, port, Who(left, comm), Who(right, comm + ".s"))

    return test


def finish_all(link: Link, socks: list[socket.socket]) -> None:
    link.say("connecting")
    link.hear()
    for sock in socks:
        assert finish_connect(sock) == 0
        sock.close()


def send_timeout_expires(link: Link, port: int) -> None:
    """SO_SNDTIMEO: connect(2) returns EINPROGRESS after 50 ms, and the attempt goes on."""
    socks = [socket.socket() for _ in range(COUNT)]
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 50_000))
        assert sock.connect_ex((RIGHT4, port)) == errno.EINPROGRESS
    finish_all(link, socks)


def signal_interrupts(link: Link, port: int) -> None:
    """A signal with a handler: connect(2) returns EINTR, and the attempt goes on."""
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    address = (
        struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(RIGHT4) + bytes(8)
    )
    socks = [socket.socket() for _ in range(COUNT)]
    for sock in socks:
        signal.setitimer(signal.ITIMER_REAL, 0.03)
        assert libc.connect(sock.fileno(), address, len(address)) == -1
        assert ctypes.get_errno() == errno.EINTR
    finish_all(link, socks)


def asks_again(link: Link, port: int) -> None:
    """EALREADY while connecting, 0 or EISCONN after: no attempts of their own."""
    socks = [connecting(RIGHT4, port) for _ in range(COUNT)]
    for sock in socks * 3:
        assert sock.connect_ex((RIGHT4, port)) == errno.EALREADY
    link.say("connecting")
    link.hear()
    for sock in socks:
        assert finish_connect(sock) == 0
        assert [sock.connect_ex((RIGHT4, port)) for _ in range(3)] == [0, errno.EISCONN, errno.EISCONN]
        sock.close()


test_send_timeout_while_connecting = delayed(send_timeout_expires)
test_signal_while_connecting = delayed(signal_interrupts)
test_connect_while_connecting = delayed(asks_again)


def test_killed_while_connecting(daemon: Daemon, silent: Pair, comm: str) -> None:
    """Threads that sleep in connect(2) when SIGKILL comes: given up, not established."""
    left, _ = silent
    left.sysctl("net.ipv4.tcp_syn_retries", 6)

    def body(_link: Link) -> None:
        fail_with(errno.ETIMEDOUT, SILENT4, PORT, True)

    with spawn(left, comm, body) as child:
        eventually(lambda: assert_equal(len(sockets(left, "syn-sent")), COUNT))
        child.kill()
    daemon.expect(failed("canceled"), left, comm, port=str(PORT))
    assert snmp(left).active_opens == COUNT


def assert_equal(got: object, want: object) -> None:
    assert got == want


def test_reset_after_establishment_is_no_failure(daemon: Daemon, ns: Netns, comm: str) -> None:
    def reset(link: Link) -> None:
        listener = listen()
        link.say(listener.getsockname()[1])
        for _ in range(COUNT):
            sock, _ = listener.accept()
            assert sock.recv(1)  # connect() has returned: it may return a reset, too
            linger0(sock)
            sock.close()

    def body(port: int) -> None:
        for _ in range(COUNT):
            with connect("127.0.0.1", port) as sock:
                sock.sendall(b"x")
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)

    with spawn(ns, comm + ".s", reset) as child:
        port = child.hear()
        run(ns, comm, body, port)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, comm + ".s"))
    assert snmp(ns).estab_resets == 2 * COUNT


def test_reset_in_the_handshake(daemon: Daemon, pair: Pair, comm: str) -> None:
    """A peer that answers our SYN with one of its own, and then with a reset: ECONNRESET."""
    left, right = pair
    source_ports = range(50_000, 50_000 + COUNT)
    reach(left, SILENT4, right)
    target = LEFT4

    def body(link: Link) -> None:
        socks = []
        for port in source_ports:
            sock = socket.socket()
            sock.bind((target, port))
            sock.setblocking(False)
            assert sock.connect_ex((SILENT4, PORT)) == errno.EINPROGRESS
            socks.append(sock)
        link.say("connecting")
        assert [finish_connect(sock) for sock in socks] == [errno.ECONNRESET] * COUNT

    with spawn(left, comm, body) as child:
        child.hear()
        run(right, comm + ".x", send_each, SYN, 1000, SILENT4, PORT, LEFT4, source_ports)
        eventually(lambda: assert_equal(len(sockets(left, "syn-recv")), COUNT))
        run(right, comm + ".x", send_each, RST, 1001, SILENT4, PORT, LEFT4, source_ports)
        child.result()
    daemon.expect(failed("reset"), left, comm, port=str(PORT))
    assert (snmp(left).active_opens, snmp(left).attempt_fails) == (COUNT, COUNT)
