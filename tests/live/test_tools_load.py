"""Tools under load, behind pipes, and side by side: what was is printed, or told to be lost."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from harness.daemon import Daemon
from harness.helpers import Helpers
from harness.metrics import Counts
from harness.netns import Netns
from harness.polling import eventually
from harness.tool import Tool, command
from helpers.parties import Party, exchange, party, serve

PORT = 4242
COUNT = 7
PATIENCE_S = 20.0
StartTool = Callable[..., Tool]
StartDaemon = Callable[..., Daemon]


def start_loops(ns: Netns, helpers: Helpers, names: list[str], count: int) -> list[subprocess.Popen[str]]:
    """Processes that connect to themselves `count` times each, at full speed."""
    ns.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
    ns.sysctl("net.ipv4.tcp_tw_reuse", "0")  # on loopback a second is enough, and then two lines are the same
    return [
        ns.exec(helpers.named("loop", name), str(count), f"127.0.0.{number}", str(PORT))
        for number, name in enumerate(names, start=1)
    ]


def finish(loops: list[subprocess.Popen[str]]) -> None:
    for loop in loops:
        with loop:
            assert loop.wait(60) == 0


def expect_told(tool: Tool, ns: Netns, names: list[str], count: int) -> None:
    """Of each process: its connects, accepts and closes, all of them printed or said to be lost."""
    rows = [row for row in tool.rows() if row["NETNS"] == ns.inum]
    lost = tool.lost()
    assert len(rows) + lost == 4 * count * len(names), f"{len(rows)} lines, {lost} lost"
    per_kind = Counter((row["COMM"], row["TYPE"]) for row in rows)
    for name in names:
        assert per_kind[name, "connect"] <= count
        assert per_kind[name, "accept"] <= count
        assert per_kind[name, "close"] <= 2 * count
    assert not max(Counter(tuple(row.values()) for row in rows).values()) > 1, "a line twice"


def test_full_speed(start_tool: StartTool, ns: Netns, helpers: Helpers, comm: str) -> None:
    tool = start_tool("tcptracer", "-v", lossy=True)
    names = [f"{comm}.{number}" for number in range(4)]
    finish(start_loops(ns, helpers, names, 5003))
    eventually(lambda: expect_told(tool, ns, names, 5003))


def test_what_is_lost_is_told(start_tool: StartTool, ns: Netns, helpers: Helpers, comm: str) -> None:
    """A tool that cannot keep up: what found no room in the ring is counted."""
    tool, count = start_tool("tcptracer", "-v", lossy=True), 20_011
    tool.process.send_signal(signal.SIGSTOP)
    finish(start_loops(ns, helpers, [comm], count))
    tool.process.send_signal(signal.SIGCONT)
    eventually(lambda: expect_told(tool, ns, [comm], count))
    assert tool.lost()


def test_side_by_side_with_the_daemon(
    start_daemon: StartDaemon, start_tool: StartTool, ns: Netns, helpers: Helpers, comm: str
) -> None:
    """Nobody disturbs another: two tracers with filters of their own, the two others, and the daemon."""
    daemon = start_daemon({"filters": {"netns": {"exclude": ["self"]}}})
    options = [
        ("tcptracer", "-v"),
        ("tcptracer", "-v", "-6"),
        ("tcpaccept", "-P", str(PORT)),
        ("tcpconnect",),
    ]
    tools = [start_tool(*each, wait=False) for each in options]
    for tool in tools:
        tool.ready()
    count, names = 1009, [comm + ".1", comm + ".2"]
    finish(start_loops(ns, helpers, names, count))
    story = Counts(attempts=count, connects=count, accepts=count, closes_client=count, closes_server=count)
    for each in names:
        daemon.expect(story, ns, each)
    eventually(lambda: expect_told(tools[0], ns, names, count))
    for tool in tools[2:]:
        comms = Counter(row["COMM"] for row in tool.rows())
        assert [comms[each[:12]] for each in names] == [count, count]
    assert not tools[1].lines()


def read_line(pipe: int) -> bytes:
    """A line from a pipe, which must come without another behind it."""
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([pipe], [], [], PATIENCE_S)[0], f"nothing more after {line!r}"
        line += os.read(pipe, 1)
    return line


@contextmanager
def piped(*args: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A tool that writes to a pipe, and the pipe."""
    process = subprocess.Popen(command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield process, process.stdout.fileno()
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def test_each_event_at_once_through_a_pipe(ns: Netns, comm: str) -> None:
    with party(ns, comm) as client, piped("tcpconnect", "-p", str(client.pid)) as (process, pipe):
        assert read_line(pipe) == b"Tracing connect ... Hit Ctrl-C to end\n"
        assert read_line(pipe).startswith(b"PID ")
        port = client.ask(serve)
        for _ in range(COUNT):
            client.ask(exchange, 1, "127.0.0.1", port)
            assert read_line(pipe).startswith(str(client.pid).encode())
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE_S) == (b"", b"")
        assert process.returncode == 0


def run_until(ended: Callable[[], bool], client: Party) -> None:
    """Has the client connect and close, again and again."""
    port = client.ask(serve)

    def once() -> None:
        client.ask(exchange, COUNT, "127.0.0.1", port)
        assert ended()

    eventually(once, PATIENCE_S)


@pytest.mark.parametrize("lines", [2, 3], ids=["quiet", "busy"])
def test_a_reader_that_has_had_enough(ns: Netns, comm: str, lines: int) -> None:
    """`| head -3`: a quiet end, exit status 0; also where nothing happens that could be written."""
    with party(ns, comm) as client, piped("tcptracer", "-p", str(client.pid)) as (process, pipe):
        with subprocess.Popen(["head", f"-{lines}"], stdin=pipe, stdout=subprocess.PIPE) as head:
            assert process.stdout is not None
            process.stdout.close()  # from now on the pipe's end is head's alone
            if lines > 2:
                run_until(lambda: head.poll() is not None, client)
            assert len(head.communicate(timeout=PATIENCE_S)[0].splitlines()) == lines
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
