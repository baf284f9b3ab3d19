"""Every way for a connection to end: counted once, for the process that it was born to, with its payload."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress

import pytest
from harness.blackhole import reach, silence
from harness.daemon import Daemon
from harness.expect import Who, accepted, expect_accepted, expect_opened, expect_pairs, opened
from harness.metrics import Counts
from harness.netns import LEFT4, RIGHT4, Netns
from harness.oracle import snmp, sockets, time_waits
from harness.polling import eventually
from harness.traffic import (
    Way,
    accept4,
    connect,
    connect_and_close,
    drain,
    finish_connect,
    linger0,
    listen,
    serve,
)
from harness.workload import Link, rename, run, spawn

COUNT = 7
ANY = Way(socket.AF_INET, socket.AF_INET, RIGHT4, "0.0.0.0")
Ending = Callable[[list[socket.socket]], None]


def close(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def shut_write(socks: list[socket.socket]) -> None:
    """The polite way: no more from us, the rest from them, goodbye."""
    for sock in socks:
        sock.shutdown(socket.SHUT_WR)
    for sock in socks:
        drain(sock)
        sock.close()


def shut_both(socks: list[socket.socket]) -> None:
    for sock in socks:
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()


def reset(socks: list[socket.socket]) -> None:
    for sock in socks:
        linger0(sock)
        sock.close()


def exit_at_once(_socks: list[socket.socket]) -> None:
    os._exit(0)


def kill_myself(_socks: list[socket.socket]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ENDINGS = [close, shut_write, shut_both, reset, exit_at_once, kill_myself]


def client(link: Link, port: int, end: Ending) -> None:
    """Connect, and end when told to."""
    held = [connect("127.0.0.1", port) for _ in range(COUNT)]
    link.say("connected")
    link.hear()
    end(held)


def server(link: Link, end: Ending) -> None:
    """Accept, and end when told to."""
    listener = listen()
    link.say(listener.getsockname()[1])
    held = [accept4(listener) for _ in range(COUNT)]
    link.say("accepted")
    link.hear()
    end(held)


def read_to_the_end(socks: list[socket.socket]) -> None:
    """Wait for the other end to go, however it does, and close."""
    for sock in socks:
        with suppress(ConnectionResetError):  # one of the ways to go
            drain(sock)
        sock.close()


@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("first", ["client", "server"])
def test_one_end_goes_first(daemon: Daemon, ns: Netns, comm: str, first: str, end: Ending) -> None:
    """`first` ends the connections by `end`; the other end reads, sees it, and closes."""
    name = comm + ".s"
    ends = {"client": read_to_the_end, "server": read_to_the_end, first: end}
    with spawn(ns, name, server, ends["server"]) as serving:
        port = serving.hear()
        with spawn(ns, comm, client, port, ends["client"]) as connecting:
            connecting.hear(), serving.hear()
            daemon.expect(Counts(attempts=COUNT, connects=COUNT, open_client=COUNT), ns, comm)
            daemon.expect(Counts(accepts=COUNT, open_server=COUNT), ns, name)
            for child in (connecting, serving):
                child.say("go")
            for child in (connecting, serving):
                child.join()
    expect_pairs_gone(daemon, port, Who(ns, comm), Who(ns, name))


def expect_pairs_gone(daemon: Daemon, port: int, client: Who, server: Who) -> None:
    expect_opened(daemon, COUNT, port, client)
    expect_accepted(daemon, COUNT, port, server)
    assert not sockets(client.ns, "established")


def test_shut_down_but_not_closed(daemon: Daemon, ns: Netns, comm: str) -> None:
    """A half-closed connection is open still, on both ends; with both halves shut it is over."""
    name = comm + ".s"

    def half_close(link: Link, port: int) -> None:
        held = [connect("127.0.0.1", port) for _ in range(COUNT)]
        for sock in held:
            sock.shutdown(socket.SHUT_WR)
        link.say("half closed")
        assert link.hear() == "close"

    def half_server(link: Link) -> None:
        listener = listen()
        link.say(listener.getsockname()[1])
        held = [accept4(listener) for _ in range(COUNT)]
        for sock in held:
            assert drain(sock) == 0
        link.say("read their end")
        link.hear()
        for sock in held:
            sock.sendall(b"still here")
            sock.shutdown(socket.SHUT_WR)
        link.say("shut ours")
        link.hear()

    with spawn(ns, name, half_server) as serving:
        port = serving.hear()
        with spawn(ns, comm, half_close, port) as connecting:
            connecting.hear(), serving.hear()
            daemon.expect(Counts(attempts=COUNT, connects=COUNT, open_client=COUNT), ns, comm)
            daemon.expect(Counts(accepts=COUNT, open_server=COUNT), ns, name)
            serving.say("shut yours")
            serving.hear()
            expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, name))
            connecting.say("close"), serving.say("close")
            connecting.result(), serving.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, name))


def test_closed_by_an_heir(daemon: Daemon, ns: Netns, comm: str) -> None:
    """A forked child keeps the sockets that its parent closed: their close is the parent's."""
    heir = comm + ".h"

    def bequeath(link: Link, port: int) -> None:
        held = [connect("127.0.0.1", port) for _ in range(COUNT)]
        pid = os.fork()
        if not pid:
            rename(heir)
            link.say("inherited")
            signal.pause()
        close(held)
        link.say("closed ours")
        link.hear()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    with (
        spawn(ns, comm + ".s", serve, COUNT) as serving,
        spawn(ns, comm, bequeath, port := serving.hear()) as testator,
    ):
        testator.hear(), testator.hear()
        daemon.expect(Counts(attempts=COUNT, connects=COUNT, open_client=COUNT), ns, comm)
        testator.say("let the heir die")
        testator.result()
        serving.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, comm + ".s"))
    daemon.expect(Counts(), ns, heir)


def test_a_worker_closes_what_its_parent_accepted(daemon: Daemon, ns: Netns, comm: str) -> None:
    """inetd's way: accept, fork, and let the child serve and close."""
    name, worker = comm + ".s", comm + ".w"

    def inetd(link: Link) -> None:
        listener = listen()
        link.say(listener.getsockname()[1])
        for _ in range(COUNT):
            sock = accept4(listener)
            if not os.fork():
                rename(worker)
                drain(sock)
                sock.close()
                os._exit(0)
            sock.close()
        for _ in range(COUNT):
            os.wait()

    with spawn(ns, name, inetd) as child:
        port = child.hear()
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, name))
    daemon.expect(Counts(), ns, worker)


def test_owner_renames_itself_before_the_close(daemon: Daemon, ns: Netns, comm: str) -> None:
    def rename_and_close(port: int) -> None:
        held = [connect("127.0.0.1", port) for _ in range(COUNT)]
        rename(comm + ".n")
        close(held)

    with spawn(ns, comm + ".s", serve, COUNT) as child:
        port = child.hear()
        run(ns, comm, rename_and_close, port)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, comm + ".s"))
    daemon.expect(Counts(), ns, comm + ".n")


def test_thousands_in_time_wait(daemon: Daemon, ns: Netns, comm: str) -> None:
    """TIME_WAIT is the kernel's affair: to the programs these are closed."""
    count, name = 2003, comm + ".s"
    ns.sysctl("net.ipv4.tcp_tw_reuse", 0)
    with spawn(ns, name, serve, count) as child:
        port = child.hear()
        run(ns, comm, connect_and_close, count, "127.0.0.1", port)
        child.result()
    expect_pairs(daemon, count, port, Who(ns, comm), Who(ns, name))

    def check() -> None:
        assert time_waits(ns) == count

    eventually(check)


def bound(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(address)
    sock.setblocking(False)
    return sock


def test_simultaneous_open(daemon: Daemon, pair: tuple[Netns, Netns], comm: str) -> None:
    """Both ends connect, nobody listens: each is a client of the other's port."""
    left, right = pair
    ports = range(4001, 4001 + COUNT)
    silence(left, RIGHT4), silence(right, LEFT4)

    def dial(link: Link, here: str, there: str) -> None:
        socks = []
        for port in ports:
            sock = bound((here, port))
            assert sock.connect_ex((there, port)) == errno.EINPROGRESS
            socks.append(sock)
        link.say("dialled")
        link.hear()
        assert [finish_connect(sock) for sock in socks] == [0] * COUNT
        link.say("established")
        link.hear()
        close(socks)

    with spawn(left, comm, dial, LEFT4, RIGHT4) as one, spawn(right, comm, dial, RIGHT4, LEFT4) as other:
        one.hear(), other.hear()
        reach(left, RIGHT4, right), reach(right, LEFT4, left)
        for answer in ("connect", "close"):
            for child in (one, other):
                child.say(answer)
            if answer == "connect":
                one.hear(), other.hear()
        one.result(), other.result()
    for side in pair:
        scrape = daemon.expect(opened(COUNT), side, comm)
        assert scrape.ports("tcpmon_connects_total", netns=side.inum, comm=comm) == {
            str(port) for port in ports
        }


def test_connected_to_itself(daemon: Daemon, ns: Netns, comm: str) -> None:
    """A socket that connects to its own address: simultaneous open with itself; one connect, one close."""

    def alone() -> None:
        for port in range(4001, 4001 + COUNT):
            with bound(("127.0.0.1", port)) as sock:
                sock.setblocking(True)
                sock.connect(("127.0.0.1", port))
                sock.sendall(b"echo")
                assert sock.recv(4) == b"echo"

    run(ns, comm, alone)
    scrape = daemon.expect(opened(COUNT), ns, comm)
    assert scrape.sum("tcpmon_sent_bytes_total", netns=ns.inum, comm=comm) == COUNT * len(b"echo")


def exchange(sock: socket.socket, send: int, receive: int) -> None:
    """Send and receive that many bytes, the sending half first shut when all is sent."""
    pid = os.fork()  # so that neither end waits for the other's buffer
    if not pid:
        sock.sendall(bytes(send))
        sock.shutdown(socket.SHUT_WR)
        os._exit(0)
    assert drain(sock) == receive
    assert os.waitpid(pid, 0)[1] == 0
    sock.close()


@pytest.mark.parametrize("way", ["127.0.0.1", "veth"])
@pytest.mark.parametrize("up, down", [(0, 0), (1, 0), (0, 1), (1, 1), (3_000_017, 7), (11, 5_000_011)])
def test_payload(daemon: Daemon, pair: tuple[Netns, Netns], comm: str, up: int, down: int, way: str) -> None:
    """Sent and received bytes are the payload's, to the byte: no SYN, no FIN, nothing twice.

    A busy machine may retransmit even here; the kernel's own count says how often.
    """
    count, name = 3, comm + ".s"
    here = pair[0]
    there, target = (pair[0], "127.0.0.1") if way == "127.0.0.1" else (pair[1], RIGHT4)

    def answer(link: Link) -> None:
        listener = listen(ANY)
        link.say(listener.getsockname()[1])
        for _ in range(count):
            exchange(accept4(listener), down, up)

    with spawn(there, name, answer) as child:
        port = child.hear()
        run(here, comm, lambda: [exchange(connect(target, port), up, down) for _ in range(count)])
        child.result()
    expect_pairs(daemon, count, port, Who(here, comm), Who(there, name))
    expect_bytes(daemon, Who(here, comm), "client", count * up, count * down)
    expect_bytes(daemon, Who(there, name), "server", count * down, count * up)
    counted = retransmitted(daemon, Who(here, comm)) + retransmitted(daemon, Who(there, name))
    assert counted == sum(snmp(ns).retransmitted for ns in {here, there})


def expect_bytes(daemon: Daemon, who: Who, role: str, sent: int, received: int) -> None:
    scrape = daemon.scrape(f'netns="{who.ns.inum}"')
    names = ("tcpmon_sent_bytes_total", "tcpmon_received_bytes_total")
    got = tuple(int(scrape.sum(name, role=role, **who.labels)) for name in names)
    assert got == (sent, received), f"{who} {role}: want {sent} sent, {received} received, got {got}"


def retransmitted(daemon: Daemon, who: Who) -> int:
    scrape = daemon.scrape(f'netns="{who.ns.inum}"')
    return int(scrape.sum("tcpmon_retransmitted_segments_total", **who.labels))


def test_closed_with_data_unread(daemon: Daemon, ns: Netns, comm: str) -> None:
    """close() with data unread sends a reset: what was received counts, and nothing fails."""
    name, size = comm + ".s", 10_007

    def rude(link: Link) -> None:
        listener = listen()
        link.say(listener.getsockname()[1])
        held = [accept4(listener) for _ in range(COUNT)]
        for sock in held:
            eventually(lambda sock=sock: arrived(sock, size))
        close(held)

    def send(port: int) -> None:
        held = [connect("127.0.0.1", port) for _ in range(COUNT)]
        for sock in held:
            sock.sendall(bytes(size))
        for sock in held:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            sock.close()

    with spawn(ns, name, rude) as child:
        port = child.hear()
        run(ns, comm, send, port)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, name))
    expect_bytes(daemon, Who(ns, name), "server", 0, COUNT * size)


def arrived(sock: socket.socket, size: int) -> None:
    """Assert that `size` bytes wait to be read."""
    waiting = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0]
    assert waiting == size


def test_peer_vanishes(daemon: Daemon, pair: tuple[Netns, Netns], comm: str) -> None:
    """No packet comes any more: TCP_USER_TIMEOUT gives the connection up, and its data was retransmitted."""
    left, right = pair

    def give_up(link: Link, port: int) -> None:
        held = [connect(RIGHT4, port) for _ in range(COUNT)]
        link.say("connected")
        link.hear()
        for sock in held:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 500)
            sock.sendall(b"anybody?")
        for sock in held:
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.close()

    def hold(link: Link) -> None:
        listener = listen(ANY)
        link.say(listener.getsockname()[1])
        held = [accept4(listener) for _ in range(COUNT)]
        link.hear()
        reset(held)

    with spawn(right, comm + ".s", hold) as child, spawn(left, comm, give_up, child.hear()) as dying:
        dying.hear()
        silence(left, RIGHT4)
        dying.say("it is gone")
        dying.result()
        scrape = daemon.expect(opened(COUNT), left, comm)
        assert scrape.sum("tcpmon_sent_bytes_total", netns=left.inum, comm=comm) == 0
        assert retransmitted(daemon, Who(left, comm)) == snmp(left).retransmitted >= COUNT
        child.say("reset them")
        child.result()
    daemon.expect(accepted(COUNT), right, comm + ".s")
