"""Bugs that others in the field had, each under the project and number where it was told."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from urllib.parse import urlsplit

from harness.blackhole import SILENT4, reach, silence
from harness.daemon import Daemon
from harness.expect import accepted, opened
from harness.helpers import Helpers
from harness.metrics import Counts
from harness.netns import RIGHT4, Netns
from harness.oracle import sockets
from harness.polling import eventually
from harness.traffic import connect, connect_and_close, linger0, listen
from harness.workload import Link, run, spawn
from helpers import b_traffic
from helpers.b_traffic import SYN_SENT, ask, client, fail, hold, release, server, start, states

COUNT = 7
MANY = 499
THREADS = 101


def test_coroot_373_short_connections_are_not_failures(daemon: Daemon, ns: Netns, comm: str) -> None:
    """Established and closed at once, with FIN and with RST."""

    def short_ones(port: int) -> None:
        for _ in range(COUNT):
            connect("127.0.0.1", port).close()
            sock = connect("127.0.0.1", port)
            linger0(sock)
            sock.close()

    with server(ns, comm + ".s") as (_, [port]):
        run(ns, comm, short_ones, port)
        scrape = daemon.expect(opened(2 * COUNT), ns, comm)
        assert scrape.failures(comm=comm, netns=ns.inum) == {}


def test_coroot_266_metrics_answer_under_load(daemon: Daemon, ns: Netns, comm: str) -> None:
    """Scrape after scrape while connections come as fast as they can; none hangs, and nothing is lost."""
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        asking.say((b_traffic.connect, ("127.0.0.1", port), 10 * MANY))
        seen = [
            daemon.scrape(comm).sum("tcpmon_connects_total", comm=comm, netns=ns.inum) for _ in range(COUNT)
        ]
        asking.hear()
        assert seen == sorted(seen)
        daemon.expect(opened(10 * MANY), ns, comm)


def test_coroot_11_195_memory_is_bounded(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """A port scan makes label sets only up to the limit."""
    daemon = start_daemon({"filters": {"netns": [ns.name]}, "metrics": {"max_series": 11}})

    def scan() -> None:
        for port in range(1, MANY + 1):
            fail(("127.0.0.1", port), 1, errno.ECONNREFUSED)

    run(ns, comm, scan)
    scrape = daemon.scrape()
    assert scrape.counts() == Counts(attempts=MANY, failures={"refused": MANY})
    assert scrape.value("tcpmon_series") <= 11
    assert len(scrape.series("tcpmon_connect_attempts_total")) <= 11 + 1


def test_obi_3043_idle_connections_are_not_failures(daemon: Daemon, ns: Netns, comm: str) -> None:
    """Established and silent: open they are, scrape after scrape, and closed in the end."""
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, hold, ("127.0.0.1", port), COUNT)
        for _ in range(3):
            daemon.expect(Counts(attempts=COUNT, connects=COUNT, open_client=COUNT), ns, comm)
        ask(asking, release)
        daemon.expect(opened(COUNT), ns, comm)


def test_obi_not_every_move_to_close_is_a_failure(daemon: Daemon, ns: Netns, comm: str) -> None:
    """Listeners closed, sockets never connected, and connections that end by exit: no failures."""

    def all_sorts(port: int) -> None:
        listen().close()
        socket.socket().close()
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        bound.close()
        b_traffic.hold(("127.0.0.1", port), COUNT)

    with server(ns, comm + ".s") as (_, [port]):
        run(ns, comm, all_sorts, port)
        daemon.expect(opened(COUNT), ns, comm)


def test_inspektor_gadget_3929_a_killed_connect_is_no_success(
    daemon: Daemon, pair: tuple[Netns, Netns], comm: str
) -> None:
    left, _ = pair
    silence(left, SILENT4)
    with spawn(left, comm, lambda _: connect(SILENT4, 80)) as child:
        eventually(lambda: expect_connecting(left))
        child.kill(signal.SIGKILL)
    daemon.expect(Counts(attempts=1, failures={"canceled": 1}), left, comm)


def test_inspektor_gadget_3929_a_stopped_connect_is_one_attempt(
    daemon: Daemon, pair: tuple[Netns, Netns], comm: str
) -> None:
    """SIGSTOP and SIGCONT restart the system call: still one attempt and one connection."""
    left, right = pair
    silence(left, RIGHT4)
    with server(right, comm + ".s", (RIGHT4, 0)) as (_, [port]):
        with spawn(left, comm, lambda _: connect(RIGHT4, port).close()) as child:
            eventually(lambda: expect_connecting(left))
            for _ in range(3):
                os.kill(child.pid, signal.SIGSTOP)
                eventually(lambda: expect_stopped(child.pid))
                os.kill(child.pid, signal.SIGCONT)
            reach(left, RIGHT4, right)
            child.result()
        daemon.expect(opened(1), left, comm)
        daemon.expect(accepted(1), right, comm + ".s")


def expect_connecting(ns: Netns) -> None:
    assert len(sockets(ns, "syn-sent")) == 1


def expect_stopped(pid: int) -> None:
    with open(f"/proc/{pid}/stat") as stat:
        assert stat.read().rpartition(")")[2].split()[0] == "T"


def test_datadog_agent_39472_a_dial_timeout_is_seen(
    daemon: Daemon, pair: tuple[Netns, Netns], comm: str
) -> None:
    """A non-blocking socket closed in SYN_SENT, as Go does when its dial times out."""
    left, _ = pair
    silence(left, SILENT4)
    with client(left, comm) as asking:
        ask(asking, start, (SILENT4, 80), COUNT)
        assert ask(asking, states) == [SYN_SENT] * COUNT
        ask(asking, release)
        daemon.expect(Counts(attempts=COUNT, failures={"canceled": COUNT}), left, comm)


def accept_once(link: Link) -> None:
    listener = listen()
    link.say(listener.getsockname()[1])
    listener.accept()[0].close()


def test_tcptracer_bpf_10_accepts_blocked_since_before_the_start(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    with spawn(ns, comm + ".s", accept_once) as child:
        port = child.hear()
        eventually(lambda: expect_in(child.pid, "inet_csk_accept"))
        daemon = start_daemon()
        run(ns, comm, connect_and_close, 1, "127.0.0.1", port)
        child.result()
        daemon.expect(accepted(1), ns, comm + ".s")
        daemon.expect(opened(1), ns, comm)


def expect_in(pid: int, function: str) -> None:
    with open(f"/proc/{pid}/stack") as stack:
        assert function in stack.read()


def test_tcptracer_bpf_34_more_blocked_accepts_than_a_kretprobe_has_instances(
    daemon: Daemon, ns: Netns, comm: str
) -> None:
    def block_all(link: Link) -> None:
        listener = listen()
        threads = [threading.Thread(target=lambda: listener.accept()[0].close()) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        link.say(listener.getsockname()[1])
        for thread in threads:
            thread.join()

    with spawn(ns, comm + ".s", block_all) as child:
        run(ns, comm, connect_and_close, THREADS, "127.0.0.1", child.hear())
        child.result()
    daemon.expect(accepted(THREADS), ns, comm + ".s")


def test_tcptracer_bpf_19_no_close_without_an_open(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    """Connections that were there before the start are not closed out of nothing."""
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, hold, ("127.0.0.1", port), COUNT)
        eventually(lambda: expect_established(ns, 2 * COUNT))
        daemon = start_daemon()
        ask(asking, release)
        eventually(lambda: expect_established(ns, 0))
        daemon.expect(Counts(), ns, comm)
        daemon.expect(Counts(), ns, comm + ".s")


def expect_established(ns: Netns, count: int) -> None:
    assert len(sockets(ns, "established")) == count


def test_tcptracer_bpf_21_23_refused_connects_leave_nothing(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    daemon = start_daemon({"filters": {"netns": [ns.name]}})
    for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        run(ns, comm, fail, (host, 9), MANY, errno.ECONNREFUSED)
    daemon.expect(Counts(attempts=3 * MANY, failures={"refused": 3 * MANY}), ns, comm)
    eventually(lambda: expect_value(daemon, "tcpmon_tracked_connections", 0))


def expect_value(daemon: Daemon, name: str, want: float) -> None:
    assert daemon.scrape(name).value(name) == want


def test_bcc_2304_no_other_comm_from_softirq(daemon: Daemon, pair: tuple[Netns, Netns], comm: str) -> None:
    """The handshake ends, and the peer's reset arrives, while the owner sleeps: in another's context."""
    left, right = pair

    def resetting(link: Link) -> None:
        listener = socket.create_server((RIGHT4, 0))
        link.say(listener.getsockname()[1])
        kept = [listener.accept()[0] for _ in range(COUNT)]
        link.hear()
        for sock in kept:
            linger0(sock)
            sock.close()

    with spawn(right, comm + ".s", resetting) as serving, client(left, comm) as asking:
        port = serving.hear()
        ask(asking, start, (RIGHT4, port), COUNT)
        daemon.expect(Counts(attempts=COUNT, connects=COUNT, open_client=COUNT), left, comm)
        serving.say()
        serving.result()
        daemon.expect(opened(COUNT), left, comm)
        daemon.expect(accepted(COUNT), right, comm + ".s")
        rows = daemon.scrape(comm).series("tcpmon_connects_total", netns=left.inum, port=str(port))
        assert {row["comm"] for row, value in rows if value} == {comm}


def test_bcc_2781_ipv6_ports_are_whole(daemon: Daemon, ns: Netns, comm: str) -> None:
    """A port whose bytes differ, so that one shifted or swapped would show."""
    with server(ns, comm + ".s", ("::1", 0x1234)) as (_, [port]):
        run(ns, comm, connect_and_close, COUNT, "::1", port)
        daemon.expect(opened(COUNT), ns, comm, port=str(0x1234))
        scrape = daemon.expect(accepted(COUNT), ns, comm + ".s", port=str(0x1234))
    assert scrape.ports("tcpmon_connects_total", netns=ns.inum, comm=comm) == {str(0x1234)}


def test_bcc_3476_what_is_lost_is_told(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """A table that is full says so in the metrics, and to the unit."""
    config = {"filters": {"netns": [ns.name]}, "connections": {"max_tracked": 64}}
    daemon = start_daemon(config, lossy=True)
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, hold, ("127.0.0.1", port), THREADS)

        def told() -> None:
            scrape = daemon.scrape()
            counted = scrape.sum("tcpmon_connect_attempts_total") + scrape.sum("tcpmon_accepts_total")
            assert 0 < scrape.lost() == 2 * THREADS - counted

        eventually(told)


def test_bcc_5316_accepts_are_counted_on_this_kernel(daemon: Daemon, ns: Netns, comm: str) -> None:
    """Whatever this kernel is: the hook for accept is there, says so, and works."""
    assert daemon.scrape("tcpmon_probe").series("tcpmon_probe_info", event="accept")
    with server(ns, comm + ".s") as (_, [port]):
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
        daemon.expect(accepted(COUNT), ns, comm + ".s")


def test_ebpf_exporter_488_515_a_value_on_a_bound(helpers: Helpers, comm: str) -> None:
    """Belongs to the bucket of that bound (`le`), and a nanosecond more to the next."""
    program = helpers.named("b_histogram", comm)
    done = subprocess.run([program, "250000", "250001"], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1 1\n2 2 2\n"


def test_ebpf_exporter_a_client_that_hangs_up_on_the_landing_page(daemon: Daemon) -> None:
    parts = urlsplit(daemon.url)
    for _ in range(COUNT):
        with socket.create_connection((str(parts.hostname), parts.port)) as sock:
            linger0(sock)
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert daemon.scrape("tcpmon_config").value("tcpmon_config_last_reload_successful") == 1
    assert daemon.process.poll() is None
