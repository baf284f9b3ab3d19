"""tcpaccept's own: its columns and its filters."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from harness.netns import Netns
from harness.polling import eventually
from harness.tool import Tool
from harness.traffic import IPV6, MAPPED
from harness.watched import Deed, accepted, mirrors, same
from helpers.parties import close, dial, party, serve, take

COUNT = 7
StartTool = Callable[..., Tool]


def test_times(start_tool: StartTool, ns: Netns, comm: str) -> None:
    """-T -t: the time of day, then the seconds since the first line."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        tool = start_tool("tcpaccept", "-T", "-t", "-p", str(server.pid))
        before = time.strftime("%H:%M:%S")
        client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        server.ask(take, COUNT)
        eventually(lambda: expect_lines(tool, COUNT))
    rows, after = tool.rows(), time.strftime("%H:%M:%S")
    assert {row["TIME"] for row in rows} <= {before, after} | {row["TIME"] for row in rows[1:-1]}
    times = [float(row["TIME(s)"]) for row in rows]
    assert times[0] == 0
    assert times == sorted(times)
    assert all(re.match(r"\d\d:\d\d:\d\d \d+\.\d{3} +\d+ ", line) for line in tool.lines())


def expect_lines(tool: Tool, count: int) -> None:
    assert len(tool.lines()) == count


def test_filters(start_tool: StartTool, ns: Netns, comm: str) -> None:
    """-P goes by the local port, -p by the process, -4 and -6 by the family; together, all must hold."""
    with party(ns, comm + ".s") as server, party(ns, comm + ".o") as other, party(ns, comm) as client:
        pid = ("-p", str(server.pid))
        options = [("-P", "7001,7003"), ("-P", "7001,7003", *pid), ("-4", *pid), ("-6", *pid)]
        tools = [start_tool("tcpaccept", *each, wait=False) for each in options]
        for tool in tools:
            tool.ready()
        mine: dict[int, list[Deed]] = {}
        theirs: dict[int, list[Deed]] = {}
        for port, target in ((7001, "127.0.0.1"), (7002, "::1"), (7003, "::ffff:127.0.0.1")):
            who, told = (other, theirs) if port == 7003 else (server, mine)
            who.ask(serve, IPV6 if target == "::1" else MAPPED, 0, port)
            flows = client.ask(dial, COUNT, target, port)
            who.ask(take, COUNT)
            told[port] = who.did(mirrors(flows))
        client.ask(close)
        wanted = [mine[7001] + theirs[7003], mine[7001], mine[7001], mine[7002]]
        for tool, deeds in zip(tools, wanted, strict=True):
            same(tool, [*map(accepted, deeds)])
