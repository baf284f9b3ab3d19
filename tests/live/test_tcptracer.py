"""tcptracer's own: connections older than it is, its columns, its filters."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.netns import RIGHT4, Netns
from harness.oracle import sockets
from harness.polling import eventually
from harness.tool import Tool
from harness.traffic import Way
from harness.watched import Deed, mirrors, same, traced
from helpers import parties
from helpers.parties import Party, close, dial, exchange, party, read_close, serve, take, take_and_close

COUNT = 7
StartTool = Callable[..., Tool]
ANY4 = Way(socket.AF_INET, socket.AF_INET, RIGHT4, "0.0.0.0")


def expect(tool: Tool, **deeds: list[Deed]) -> None:
    """A tool that only sees the test's namespace printed exactly these, by type."""
    same(tool, [traced(kind, deed) for kind, each in deeds.items() for deed in each])


def test_older_than_the_tool(start_tool: StartTool, ns: Netns, comm: str) -> None:
    """Of connections that were there before: an A if accept() comes after the start, and the X."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        accepted = client.ask(dial, COUNT, "127.0.0.1", port)
        server.ask(take, COUNT)
        queued = client.ask(dial, COUNT, "127.0.0.1", port)
        assert len(sockets(ns, "established")) == 4 * COUNT
        tool = start_tool("tcptracer", "-v", "-N", ns.inum)
        expect(tool)
        server.ask(take, COUNT)
        late = server.did(mirrors(queued))
        expect(tool, accept=late)
        client.ask(close)
        server.ask(read_close)
        both = client.did(accepted + queued) + server.did(mirrors(accepted)) + late
        expect(tool, accept=late, close=both)


def test_accepts_blocked_since_before_the_tool(start_tool: StartTool, ns: Netns, comm: str) -> None:
    count = 101
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        server.tell(take_in_threads, count)
        eventually(lambda: asleep_in_accept(server, count))
        tool = start_tool("tcptracer", "-v", "-N", ns.inum)
        flows = client.ask(exchange, count, "127.0.0.1", port)
        server.child.hear()
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        expect(tool, connect=opens, accept=accepts, close=opens + accepts)


def take_in_threads(count: int) -> None:
    def one() -> None:
        with parties.listeners[-1].accept()[0] as sock:
            sock.recv(1)

    parties.in_threads([one] * count)


def asleep_in_accept(server: Party, count: int) -> None:
    tasks = Path(f"/proc/{server.pid}/task")
    stacks = [(task / "stack").read_text() for task in tasks.iterdir()]
    assert sum("inet_csk_accept" in stack for stack in stacks) == count


def test_one_namespace(start_tool: StartTool, pair: tuple[Netns, Netns], comm: str) -> None:
    """-N: the socket's namespace, and no column for it."""
    left, right = pair
    tool = start_tool("tcptracer", "-v", "-N", right.inum)
    assert tool.header().split()[-1] == "DPORT"
    with party(right, comm + ".s") as server, party(left, comm) as client:
        flows = client.ask(dial, COUNT, RIGHT4, server.ask(serve, ANY4))
        server.ask(take, COUNT)
        client.ask(close)
        server.ask(read_close)
        accepts = server.did(mirrors(flows))
        expect(tool, accept=accepts, close=accepts)


def test_one_process(start_tool: StartTool, ns: Netns, comm: str) -> None:
    """-p: what that process does, also to connections that others opened; nothing that others do."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        flows = client.ask(dial, COUNT, "127.0.0.1", port)
        heir = client.ask(parties.fork_heir, comm + ".h")
        of_client = start_tool("tcptracer", "-v", "-N", ns.inum, "-p", str(client.pid), wait=False)
        of_heir = start_tool("tcptracer", "-v", "-N", ns.inum, "-p", str(heir), wait=False)
        of_client.ready(), of_heir.ready()
        more = client.ask(dial, COUNT, "127.0.0.1", port)
        server.ask(take, 2 * COUNT)
        client.ask(close)
        client.ask(parties.bury, heir)
        server.ask(read_close)
        opened = client.did(more)
        inherited = [Deed(heir, comm + ".h", flow) for flow in flows]
        expect(of_client, connect=opened, close=opened)
        expect(of_heir, close=inherited)


@pytest.mark.parametrize(
    "options, title, cell",
    [(("-t",), "TIME(s)", r"\d+\.\d{3} +"), (("-t", "-v"), "TIME(ns)", r"\d+ +")],
    ids=["seconds", "nanoseconds"],
)
def test_times(
    start_tool: StartTool, ns: Netns, comm: str, options: tuple[str, ...], title: str, cell: str
) -> None:
    """The first is 0, and time never runs backwards."""
    tool = start_tool("tcptracer", *options, "-N", ns.inum)
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        server.tell(take_and_close, 101)
        client.ask(exchange, 101, "127.0.0.1", port)
        server.child.hear()
    eventually(lambda: expect_lines(tool, 4 * 101))
    times = [float(row[title]) for row in tool.rows()]
    assert times[0] == 0 < times[-1]
    assert times == sorted(times)
    assert all(re.match(cell, line) for line in tool.lines())


def expect_lines(tool: Tool, count: int) -> None:
    assert len(tool.lines()) == count
