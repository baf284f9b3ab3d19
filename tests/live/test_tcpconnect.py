"""tcpconnect's own: its columns, its filters, its counts, and the names that were looked up."""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Callable

import pytest
from harness.netns import Netns
from harness.polling import eventually
from harness.tool import Tool
from harness.traffic import IPV6, MAPPED
from harness.watched import attempted, same
from helpers import names
from helpers.b_traffic import become
from helpers.parties import close, dial, exchange, fail, party, serve

COUNT = 7
CLOSED_PORT = 7009
REFUSED = errno.ECONNREFUSED
StartTool = Callable[..., Tool]


def test_times(start_tool: StartTool, ns: Netns, comm: str) -> None:
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        tool = start_tool("tcpconnect", "-t", "-p", str(client.pid))
        client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        eventually(lambda: expect_lines(tool, COUNT))
    times = [float(row["TIME(s)"]) for row in tool.rows()]
    assert times[0] == 0
    assert times == sorted(times)
    assert all(re.match(r"\d+\.\d{3} +\d+ ", line) for line in tool.lines())


def expect_lines(tool: Tool, count: int) -> None:
    assert len(tool.lines()) == count


def test_filters(start_tool: StartTool, ns: Netns, comm: str) -> None:
    """-P goes by the destination's port, -u by the user, -p by the process, -4 and -6 by the family."""
    ports = ("-P", f"7001,{CLOSED_PORT}")
    with party(ns, comm + ".s") as server, party(ns, comm) as client, party(ns, comm + ".o") as other:
        pids = {each: ("-p", str(each.pid)) for each in (client, other)}
        options = [
            (*ports, *pids[client]),
            (*ports, "-u", "1001"),
            ("-4", *pids[other]),
            ("-6", *pids[other]),
        ]
        tools = [start_tool("tcpconnect", "-U", "-L", *each, wait=False) for each in options]
        for tool in tools:
            tool.ready()
        server.ask(serve, MAPPED, 0, 7001), server.ask(serve, IPV6, 0, 7002)
        other.ask(become, 1001)
        told = {}
        for who, uid in ((client, 0), (other, 1001)):
            told[who, 7001] = who.did(who.ask(dial, COUNT, "::ffff:127.0.0.1", 7001), uid=uid)
            told[who, 7002] = who.did(who.ask(dial, COUNT, "::1", 7002), uid=uid)
            refused = who.ask(fail, COUNT, "127.0.0.1", CLOSED_PORT, REFUSED, "127.0.0.1")
            told[who, CLOSED_PORT] = who.did(refused, uid=uid)
        of_ports = {who: told[who, 7001] + told[who, CLOSED_PORT] for who in (client, other)}
        wanted = [of_ports[client], of_ports[other], of_ports[other], told[other, 7002]]
        for tool, deeds in zip(tools, wanted, strict=True):
            same(tool, [*map(attempted, deeds)])


def test_local_port_that_the_kernel_chose(start_tool: StartTool, ns: Netns, comm: str) -> None:
    """Refused before connect() returned: the port is in the line all the same."""
    with party(ns, comm) as client:
        tool = start_tool("tcpconnect", "-L", "-p", str(client.pid))
        for host in ("127.0.0.1", "::1"):
            client.ask(refused, host)
        eventually(lambda: expect_lines(tool, 2 * COUNT))
        assert all(int(row["LPORT"]) >= 32768 for row in tool.rows())
        assert {(row["SADDR"], row["DADDR"]) for row in tool.rows()} == {("127.0.0.1",) * 2, ("::1",) * 2}


def refused(host: str) -> None:
    for _ in range(COUNT):
        with pytest.raises(ConnectionRefusedError):
            dial(1, host, CLOSED_PORT)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_counts(start_tool: StartTool, ns: Netns, comm: str, how: signal.Signals) -> None:
    """-c: no lines, and at the end a table, most first."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        tool = start_tool("tcpconnect", "-c", "-p", str(client.pid))
        server.ask(serve, IPV6, 0, 7002), server.ask(serve, MAPPED, 0, 7001)
        client.ask(exchange, 11, "127.0.0.1", 7001)
        client.ask(exchange, 13, "::ffff:127.0.0.1", 7001)
        client.ask(exchange, 101, "::1", 7002)
        client.ask(fail, 3, "127.0.0.2", CLOSED_PORT, REFUSED, "127.0.0.1")
        client.ask(close)
        assert tool.output() == "Tracing connect ... Hit Ctrl-C to end\n"
        lines = tool.stop(how).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["LADDR", "RADDR", "RPORT", "CONNECTS"],
        ["::1", "::1", "7002", "101"],
        ["127.0.0.1", "127.0.0.1", "7001", "24"],
        ["127.0.0.1", "127.0.0.2", "7009", "3"],
    ]


def test_names_that_were_looked_up(start_tool: StartTool, ns: Netns, comm: str) -> None:
    """By getaddrinfo(3), of a name server on loopback: IPv4, IPv6, at once, later, and by nobody."""
    ns.ip("address add fd00:84::7/128 dev lo")
    with names.server(ns, comm + ".d"), names.resolving(ns):
        tool = start_tool("tcpconnect", "-d", "-P", str(CLOSED_PORT), ns=ns)
        for name in ("four.tcpmon.test", "six.tcpmon.test", "late.tcpmon.test"):
            names.look_up_and_connect(ns, name, CLOSED_PORT, wait=name.startswith("late"))
        with party(ns, comm) as client:
            for host in ("127.0.0.1", "127.0.0.99"):
                client.ask(fail, 1, host, CLOSED_PORT, REFUSED, "127.0.0.1")
        eventually(lambda: expect_lines(tool, 5))
    queries = [(row["DADDR"], row["QUERY"]) for row in tool.rows()]
    assert queries[3:] == [("127.0.0.1", "localhost"), ("127.0.0.99", "No DNS Query")]
    passed = r" \(\d{3,}\.\d{3}ms\)"  # after more than 100 ms; a busy machine may take that long anyway
    patterns = [
        rf"four\.tcpmon\.test({passed})?",
        rf"six\.tcpmon\.test({passed})?",
        rf"late\.tcpmon\.test{passed}",
    ]
    addresses = ["127.0.0.84", "fd00:84::7", "127.0.0.85"]
    for (address, query), want, pattern in zip(queries, addresses, patterns, strict=False):
        assert address == want
        assert re.fullmatch(pattern, query)
