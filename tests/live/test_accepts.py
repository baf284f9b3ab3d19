"""Accepts in the ways real servers do them: blocked for long, in threads, in workers, late or never."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

import pytest
from harness.daemon import Daemon
from harness.expect import Who, accepted, expect_accepted, expect_opened, expect_pairs, kernel_agrees
from harness.metrics import Counts
from harness.netns import Netns
from harness.oracle import snmp, sockets
from harness.polling import eventually
from harness.traffic import (
    MAPPED,
    accept4,
    connect,
    connect_and_close,
    drain,
    linger0,
    listen,
    plain_accept,
    serve,
)
from harness.workload import Child, Link, run, spawn

COUNT = 7
StartDaemon = Callable[..., Daemon]


def threads_accept(link: Link, threads: int) -> None:
    """`threads` threads blocked in accept on one listener, each good for one connection."""
    listener = listen()

    def one(number: int) -> None:
        accept = plain_accept if number % 2 else accept4
        with accept(listener) as sock:
            drain(sock)

    crew = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
    for thread in crew:
        thread.start()
    link.say(listener.getsockname()[1])
    for thread in crew:
        thread.join()


def blocked_in_accept(pid: int) -> int:
    """How many threads of `pid` sleep in the kernel's accept."""
    tasks = f"/proc/{pid}/task"
    return sum("accept" in wchan(f"{tasks}/{task}") for task in os.listdir(tasks))


def wchan(task: str) -> str:
    with open(f"{task}/stack") as stack:
        return stack.read()


def wait_until_blocked(child: Child, threads: int) -> None:
    def check() -> None:
        assert blocked_in_accept(child.pid) == threads

    eventually(check)


def test_blocked_since_before_the_daemon(start_daemon: StartDaemon, ns: Netns, comm: str) -> None:
    server = comm + ".s"
    with spawn(ns, server, threads_accept, COUNT) as child:
        port = child.hear()
        wait_until_blocked(child, COUNT)
        daemon = start_daemon()
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
        child.result()
    # How long they waited is known only where the return of a call that began before is seen: not by fexit
    expect_opened(daemon, COUNT, port, Who(ns, comm))
    daemon.expect(accepted(COUNT), ns, server, port=str(port))
    kernel_agrees(ns, ns, COUNT)


def test_a_hundred_threads_blocked_in_accept(daemon: Daemon, ns: Netns, comm: str) -> None:
    server, count = comm + ".s", 101
    with spawn(ns, server, threads_accept, count) as child:
        port = child.hear()
        wait_until_blocked(child, count)
        run(ns, comm, connect_and_close, count, "127.0.0.1", port)
        child.result()
    expect_pairs(daemon, count, port, Who(ns, comm), Who(ns, server))


def reset_connections(count: int, port: int) -> None:
    for _ in range(count):
        sock = connect("127.0.0.1", port)
        linger0(sock)
        sock.close()


def test_reset_before_it_was_accepted(daemon: Daemon, ns: Netns, comm: str) -> None:
    server = comm + ".s"

    def late(link: Link) -> None:
        listener = listen()
        link.say(listener.getsockname()[1])
        link.hear()
        for _ in range(COUNT):
            accept4(listener).close()

    with spawn(ns, server, late) as child:
        port = child.hear()
        run(ns, comm, reset_connections, COUNT, port)
        child.say("they are all reset")
        child.result()
    assert snmp(ns).estab_resets == 2 * COUNT
    expect_opened(daemon, COUNT, port, Who(ns, comm))
    expect_accepted(daemon, COUNT, port, Who(ns, server))


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_never_accepted(start_daemon: StartDaemon, ns: Netns, comm: str, killed: bool) -> None:
    server = comm + ".s"
    daemon = start_daemon({"filters": {"netns": [int(ns.inum)]}})

    def deaf(link: Link) -> None:
        listener = listen()
        link.say(listener.getsockname()[1])
        link.hear()
        listener.close()

    def hold(link: Link, port: int) -> None:
        held = [connect("127.0.0.1", port) for _ in range(COUNT)]
        link.say()
        link.hear()
        del held

    with spawn(ns, server, deaf) as child, spawn(ns, comm, hold, port := child.hear()) as client:
        client.hear()
        daemon.expect(Counts(attempts=COUNT, connects=COUNT, open_client=COUNT), ns, comm)
        if killed:
            child.kill()
        else:
            child.say()
            child.result()
        client.say()
        client.result()
    expect_opened(daemon, COUNT, port, Who(ns, comm))
    daemon.expect(Counts(), ns, server)
    assert snmp(ns).passive_opens == COUNT
    nothing_left(daemon)


def nothing_left(daemon: Daemon) -> None:
    def check() -> None:
        assert daemon.scrape().value("tcpmon_tracked_connections") == 0

    eventually(check)


def test_in_the_backlog_and_accepted_later(start_daemon: StartDaemon, ns: Netns, comm: str) -> None:
    """Half of the connections were queued before the daemon started; all are accepted and closed under it."""
    server = comm + ".s"
    with spawn(ns, server, accept_when_told, 2 * COUNT) as child:
        port = child.hear()
        with spawn(ns, comm, connect_when_told, port) as client:
            client.say(COUNT)
            client.hear()
            daemon = start_daemon({"filters": {"netns": [int(ns.inum)]}})
            client.say(COUNT)
            client.hear()
            child.say()
            child.hear()
            daemon.expect(Counts(accepts=2 * COUNT, open_server=2 * COUNT), ns, server)
            client.say(0)
            client.result()
        child.result()
    expect_opened(daemon, COUNT, port, Who(ns, comm))
    scrape = daemon.expect(accepted(2 * COUNT), ns, server)
    assert scrape.sum("tcpmon_accept_wait_seconds_count", comm=server) == COUNT, (
        "a wait that nobody saw begin"
    )
    nothing_left(daemon)


def accept_when_told(link: Link, count: int) -> None:
    listener = listen()
    link.say(listener.getsockname()[1])
    link.hear()
    held = [accept4(listener) for _ in range(count)]
    link.say()
    for sock in held:
        drain(sock)
        sock.close()


def connect_when_told(link: Link, port: int) -> None:
    held: list[socket.socket] = []
    while count := link.hear():
        held += [connect("127.0.0.1", port) for _ in range(count)]
        link.say()


def test_prefork_workers(daemon: Daemon, ns: Netns, comm: str) -> None:
    server, count = comm + ".s", 31

    def prefork(link: Link) -> None:
        listener = listen()
        workers = [fork(lambda share=share: accept_some(listener, share)) for share in (7, 11, 13)]
        link.say(listener.getsockname()[1])
        for pid in workers:
            assert os.waitpid(pid, 0)[1] == 0

    with spawn(ns, server, prefork) as child:
        port = child.hear()
        run(ns, comm, connect_and_close, count, "127.0.0.1", port)
        child.result()
    expect_pairs(daemon, count, port, Who(ns, comm), Who(ns, server))


def accept_some(listener: socket.socket, count: int) -> None:
    for _ in range(count):
        with accept4(listener) as sock:
            drain(sock)


def fork(body: Callable[[], None]) -> int:
    """The pid of a fork that runs `body` and exits with 0, or with 1 if it failed."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        body()
        status = 0
    finally:
        os._exit(status)


def test_reuseport(daemon: Daemon, ns: Netns, comm: str) -> None:
    """Three listeners share a port; the kernel deals the connections out as it likes."""
    count = 61

    def until_told(link: Link, port: int) -> int:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
        link.say(listener.getsockname()[1])
        link.hear()
        listener.setblocking(False)
        return sum(1 for _ in iter(lambda: take(listener), None))

    with (
        spawn(ns, comm + ".1", until_told, 0) as first,
        spawn(ns, comm + ".2", until_told, port := first.hear()) as second,
        spawn(ns, comm + ".3", until_told, port) as third,
    ):
        workers = {comm + ".1": first, comm + ".2": second, comm + ".3": third}
        second.hear(), third.hear()
        run(ns, comm, connect_and_close, count, "127.0.0.1", port)
        for child in workers.values():
            child.say()
        shares = {name: child.result() for name, child in workers.items()}
    assert sum(shares.values()) == count
    assert min(shares.values()) > 0
    expect_opened(daemon, count, port, Who(ns, comm))
    for name, share in shares.items():
        daemon.expect(accepted(share), ns, name)


def take(listener: socket.socket) -> int | None:
    """Accept and close one connection; None when the queue is empty."""
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return None
    return 1


def test_failed_accepts_count_nothing(daemon: Daemon, ns: Netns, comm: str) -> None:
    """EAGAIN, EINVAL, EBADF, ENOTSOCK: an accept that hands nothing over is no accept."""

    def fail() -> None:
        listener = listen()
        listener.setblocking(False)
        broken = [listener, socket.socket(), socket.socket(type=socket.SOCK_DGRAM)]
        for sock in broken * COUNT:
            for accept in (accept4, plain_accept):
                with pytest.raises(OSError):
                    accept(sock)

    run(ns, comm, fail)
    daemon.expect(Counts(), ns, comm)


def test_unix_sockets_count_nothing(daemon: Daemon, ns: Netns, comm: str) -> None:
    def chat() -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\0" + comm)
        listener.listen()
        for _ in range(COUNT):
            client = socket.socket(socket.AF_UNIX)
            client.connect("\0" + comm)
            listener.accept()[0].close()
            client.close()

    run(ns, comm, chat)
    daemon.expect(Counts(), ns, comm)


def test_accepted_but_descriptor_passed_on(daemon: Daemon, ns: Netns, comm: str) -> None:
    """An accepted socket handed to another process by SCM_RIGHTS stays its acceptor's."""
    server, heir = comm + ".s", comm + ".h"
    ours, theirs = socket.socketpair()

    def hand_over(link: Link) -> None:
        listener = listen()
        link.say(listener.getsockname()[1])
        for _ in range(COUNT):
            with accept4(listener) as sock:
                socket.send_fds(ours, [b"x"], [sock.fileno()])

    def inherit(link: Link) -> None:
        for _ in range(COUNT):
            fd = socket.recv_fds(theirs, 1, 1)[1][0]
            with socket.socket(fileno=fd) as sock:
                drain(sock)

    with ours, theirs, spawn(ns, server, hand_over) as child, spawn(ns, heir, inherit) as taker:
        port = child.hear()
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
        child.result(), taker.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, server))
    daemon.expect(Counts(), ns, heir)


def test_one_listener_serves_both_families(daemon: Daemon, ns: Netns, comm: str) -> None:
    server = comm + ".s"

    def mixed(port: int) -> None:
        connect_and_close(3, "127.0.0.1", port)
        connect_and_close(2, "::1", port)
        connect_and_close(2, "::ffff:127.0.0.1", port)

    with spawn(ns, server, serve, COUNT, MAPPED) as child:
        port = child.hear()
        run(ns, comm, mixed, port)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, server))
    assert not sockets(ns, "established")
