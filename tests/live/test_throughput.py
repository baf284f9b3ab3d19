"""Full speed: every count exact, nothing lost, nothing counted twice."""

from __future__ import annotations

import errno
import resource
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.blackhole import reach, silence
from harness.daemon import MECHANISM, Daemon
from harness.expect import Who, expect_pairs
from harness.helpers import Helpers
from harness.metrics import Counts
from harness.netns import RIGHT4, Netns
from harness.oracle import snmp
from harness.polling import PATIENCE
from harness.traffic import Way, accept4, drain, finish_connect, listen
from harness.workload import Link, spawn

PREEMPTION = Path("/sys/kernel/debug/sched/preempt")
PER_PROCESS = 20_000
PROCESSES = 4
CROWD = 12
UNTIL_SIGTERM = 0
PORT = 4242


def start_loop(ns: Netns, helpers: Helpers, comm: str, count: int, number: int) -> subprocess.Popen[str]:
    """A process that connects to itself `count` times, on an address of its own, and then says how often."""
    return ns.exec(helpers.named("loop", comm), str(count), f"127.0.0.{1 + number}", str(PORT))


def both_ends(count: int) -> Counts:
    """The story of a process that was both ends of `count` connections."""
    return Counts(attempts=count, connects=count, accepts=count, closes_client=count, closes_server=count)


def test_four_processes_at_full_speed(daemon: Daemon, ns: Netns, helpers: Helpers, comm: str) -> None:
    ns.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
    names = [f"{comm}.{number}" for number in range(PROCESSES)]
    loops = [start_loop(ns, helpers, name, PER_PROCESS, number) for number, name in enumerate(names)]
    for loop in loops:
        with loop:
            assert loop.wait(120) == 0
    for name in names:
        daemon.expect(both_ends(PER_PROCESS), ns, name, port=str(PORT))
    kernel = snmp(ns)
    assert (kernel.active_opens, kernel.passive_opens) == (PROCESSES * PER_PROCESS,) * 2


def test_a_crowd(daemon: Daemon, ns: Netns, helpers: Helpers, comm: str) -> None:
    """More processes than CPUs, so that some wait in the middle of a step while others take it."""
    ns.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
    count, names = 307, [f"{comm}.{number}" for number in range(CROWD)]
    loops = [start_loop(ns, helpers, name, count, number) for number, name in enumerate(names)]
    for loop in loops:
        with loop:
            assert loop.wait(120 * PATIENCE) == 0
    for name in names:
        daemon.expect(both_ends(count), ns, name, port=str(PORT))


@pytest.fixture
def unskipped() -> None:
    """Only by fprobe on a kernel that preempts itself: the others' limit (README, Kernels)."""
    preempts = PREEMPTION.exists() and any(f"({how})" in PREEMPTION.read_text() for how in ("full", "lazy"))
    if MECHANISM in ("fexit", "kretprobe", "tracepoint") and preempts:
        pytest.skip(
            "this kernel skips such programs for as long as a process is preempted inside one, or in bpf()"
        )


def raise_file_limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect_late(link: Link, port: int, count: int) -> None:
    """Connects whose SYN-ACK comes a second later, in a timer's interrupt, whatever the CPU is doing then."""
    raise_file_limit()
    socks = [socket.socket() for _ in range(count)]
    for sock in socks:
        sock.setblocking(False)
        assert sock.connect_ex((RIGHT4, port)) == errno.EINPROGRESS
    link.say("connecting")
    for sock in socks:
        assert finish_connect(sock) == 0
    for sock in socks:
        sock.close()


def serve_many(link: Link, count: int) -> None:
    raise_file_limit()
    listener = listen(Way(socket.AF_INET, socket.AF_INET, RIGHT4, "0.0.0.0"))
    link.say(listener.getsockname()[1])
    link.hear()
    held = [accept4(listener) for _ in range(count)]
    for sock in held:
        drain(sock)
        sock.close()


@pytest.mark.usefixtures("unskipped")
def test_interrupted_in_the_middle_of_counting(
    daemon: Daemon, pair: tuple[Netns, Netns], ns: Netns, helpers: Helpers, comm: str
) -> None:
    """Handshakes that end in interrupts while both CPUs count others: a step is easily skipped there."""
    left, right = pair
    count, server = 1999, comm + ".s"
    right.sysctl("net.core.somaxconn", 4096)
    ns.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
    silence(left, RIGHT4)
    busy = [start_loop(ns, helpers, f"{comm}.{number}", UNTIL_SIGTERM, number) for number in range(2)]
    with spawn(right, server, serve_many, count) as child:
        port = child.hear()
        with spawn(left, comm, connect_late, port, count) as client:
            client.hear()
            reach(left, RIGHT4, right)
            child.say()
            client.result()
        child.result()
    for number, loop in enumerate(busy):
        loop.terminate()
        done, _ = loop.communicate(timeout=60)
        daemon.expect(both_ends(int(done)), ns, f"{comm}.{number}")
    expect_pairs(daemon, count, port, Who(left, comm), Who(right, server))


def connect_in_vain(_link: Link, count: int) -> None:
    for _ in range(count):
        with socket.socket() as sock:
            assert sock.connect_ex(("10.99.0.1", PORT)) == errno.EACCES


@pytest.mark.usefixtures("unskipped")
def test_preempted_in_the_middle_of_counting(daemon: Daemon, ns: Netns, comm: str) -> None:
    """More processes than CPUs in connect(), which fails without a SYN: nobody sees it but its two ends."""
    ns.ip("route add prohibit 10.99.0.0/16")
    count, names = 2003, [f"{comm}.{number}" for number in range(PROCESSES)]
    with ExitStack() as stack:
        for child in [stack.enter_context(spawn(ns, name, connect_in_vain, count)) for name in names]:
            child.result()
    for name in names:
        daemon.expect(Counts(attempts=count, failures={"denied": count}), ns, name, port=str(PORT))
