"""Connects and accepts that succeed: over each family, each system call, and between namespaces."""

from __future__ import annotations

import socket

import pytest
from harness.daemon import Daemon
from harness.expect import Who, expect_pairs
from harness.netns import RIGHT4, RIGHT6, Netns
from harness.traffic import (
    IPV4,
    WAYS,
    Accept,
    Way,
    accept4,
    connect_and_close,
    drain,
    listen,
    plain_accept,
    serve,
)
from harness.workload import Link, enter, run, spawn

COUNT = 7
ANY4 = Way(socket.AF_INET, socket.AF_INET, RIGHT4, "0.0.0.0")
ANY6 = Way(socket.AF_INET6, socket.AF_INET6, RIGHT6, "::")


@pytest.mark.parametrize("accept", [plain_accept, accept4])
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "nonblocking"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_both_ends(daemon: Daemon, ns: Netns, comm: str, way: Way, blocking: bool, accept: Accept) -> None:
    server = comm + ".s"
    with spawn(ns, server, serve, COUNT, way, accept) as child:
        port = child.hear()
        run(ns, comm, connect_and_close, COUNT, way.target, port, blocking)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(ns, comm), Who(ns, server))


@pytest.mark.parametrize("way", [ANY4, ANY6], ids=["ipv4", "ipv6"])
def test_two_namespaces(daemon: Daemon, pair: tuple[Netns, Netns], comm: str, way: Way) -> None:
    left, right = pair
    server = comm + ".s"
    with spawn(right, server, serve, COUNT, way) as child:
        port = child.hear()
        run(left, comm, connect_and_close, COUNT, way.target, port)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(left, comm), Who(right, server))


def test_one_process_is_both_ends(daemon: Daemon, ns: Netns, comm: str) -> None:
    def both() -> int:
        listener = listen()
        address = listener.getsockname()
        for _ in range(COUNT):
            with socket.create_connection(address), accept4(listener):
                pass
        return int(address[1])

    port = run(ns, comm, both)
    scrape = daemon.scrape()
    where = {"netns": ns.inum, "comm": comm}
    assert scrape.ports("tcpmon_connects_total", **where) == {str(port)}
    assert scrape.ports("tcpmon_accepts_total", **where) == {str(port)}
    assert scrape.sum("tcpmon_connects_total", **where) == COUNT
    assert scrape.sum("tcpmon_accepts_total", **where) == COUNT


def test_client_socket_keeps_its_namespace(daemon: Daemon, pair: tuple[Netns, Netns], comm: str) -> None:
    left, right = pair
    server = comm + ".s"

    def moved_client(port: int) -> None:
        sockets = [socket.socket() for _ in range(COUNT)]
        enter(right)
        for sock in sockets:
            sock.connect((RIGHT4, port))
            sock.close()

    with spawn(right, server, serve, COUNT, ANY4) as child:
        port = child.hear()
        run(left, comm, moved_client, port)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(left, comm), Who(right, server))
    assert daemon.scrape().sum("tcpmon_connect_attempts_total", netns=right.inum, comm=comm) == 0


def test_listener_keeps_its_namespace(daemon: Daemon, pair: tuple[Netns, Netns], comm: str) -> None:
    left, right = pair
    server = comm + ".s"

    def moved_server(link: Link) -> None:
        listener = listen(ANY4)
        enter(left)
        link.say(listener.getsockname()[1])
        for _ in range(COUNT):
            with accept4(listener) as sock:
                drain(sock)

    with spawn(right, server, moved_server) as child:
        port = child.hear()
        run(left, comm, connect_and_close, COUNT, RIGHT4, port)
        child.result()
    expect_pairs(daemon, COUNT, port, Who(left, comm), Who(right, server))
    assert daemon.scrape().sum("tcpmon_accepts_total", netns=left.inum, comm=server) == 0


def test_service_ports_are_told_apart(daemon: Daemon, ns: Netns, comm: str) -> None:
    counts = {2: "two", 3: "three", 5: "five"}

    def serve_ports(link: Link) -> None:
        listeners = {count: listen(IPV4) for count in counts}
        link.say({count: listener.getsockname()[1] for count, listener in listeners.items()})
        for count, listener in listeners.items():
            for _ in range(count):
                accept4(listener).close()

    with spawn(ns, comm + ".s", serve_ports) as child:
        ports = child.hear()
        run(ns, comm, lambda: [connect_and_close(count, "127.0.0.1", port) for count, port in ports.items()])
        child.result()
    scrape = daemon.scrape()
    for count, port in ports.items():
        where = {"netns": ns.inum, "port": str(port)}
        assert scrape.value("tcpmon_connects_total", comm=comm, **where) == count
        assert scrape.value("tcpmon_accepts_total", comm=comm + ".s", **where) == count
