"""tcptracer: a line for each connection that is established, accepted or closed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from tcpmon.events.columns import (
    Column,
    address_text,
    column,
    comm_text,
    ip_version,
    is_ipv4,
    nanoseconds_since_first,
    seconds_since_first,
)
from tcpmon.events.record import Kind
from tcpmon.kernel.load import Layout
from tcpmon.tools.options import IPV4, IPV6, MAP_EXAMPLES, MAPS, NETNS, PID, TIMESTAMP, Example, Option
from tcpmon.tools.tool import FLOW_MEANINGS, Printer, Query, Table, Tool

_START = "Tracing TCP established connections. Ctrl-C to end.\n"
_TYPES = {Kind.CONNECT: ("C", "connect"), Kind.ACCEPT: ("A", "accept"), Kind.CLOSING: ("X", "close")}


def _bracketed(address: bytes) -> str:
    text = address_text(address)
    return text if is_ipv4(address) else f"[{text}]"


def _columns(parsed: argparse.Namespace) -> Iterator[Column]:
    if parsed.timestamp and parsed.verbose:
        yield Column(f"{'TIME(ns)':<14}", ("ns",), nanoseconds_since_first("%-14d"), keep=False)
    elif parsed.timestamp:
        yield Column(f"{'TIME(s)':<9}", ("ns",), seconds_since_first("%-9.3f"), keep=False)
    if parsed.verbose:
        yield column("TYPE", "%-12s ", "kind", lambda kind: _TYPES[kind][1])
    else:
        yield column("T", "%-2s ", "kind", lambda kind: _TYPES[kind][0])
    yield column("PID", "%-6d ", "pid")
    yield column("COMM", "%-16s ", "thread_comm", comm_text)
    yield column("IP", "%-2d ", "remote", ip_version)
    yield column("SADDR", "%-16s ", "local", _bracketed)
    yield column("DADDR", "%-16s ", "remote", _bracketed)
    yield column("SPORT", "%-6d ", "local_port")
    # With -v the header is wider by one, whether NETNS follows or not
    yield column("DPORT", "%-6d", "remote_port", heading="%-7s" if parsed.verbose else "%-6s")
    if parsed.verbose and parsed.netns is None:
        yield column("NETNS", " %-8d", "netns", heading="%-8s")


def _printer(parsed: argparse.Namespace, layout: Layout, _query: Query) -> Printer:
    return Table(_START, layout, tuple(_columns(parsed)))


TOOL = Tool(
    name="tcptracer",
    description="Prints a line for each TCP connection that is established (by connect), accepted or closed "
    "while it runs. A connection is closed when a program closes it, or ends; one that was never established "
    "is not shown.",
    kinds=tuple(_TYPES),
    options=(
        TIMESTAMP,
        PID,
        NETNS,
        *MAPS,
        IPV4,
        IPV6,
        Option(
            "-v",
            "--verbose",
            "Long names for the type, and a column with the network namespace unless `-N` is given. "
            "With `-t`, nanoseconds.",
        ),
    ),
    printer=_printer,
    columns=(
        ("TIME(s), TIME(ns)", "The time since the first event that is printed."),
        (
            "T, TYPE",
            "C or connect: a program's connect has established a connection. A or accept: a program has "
            "accepted one. X or close: a program closes one.",
        ),
        ("PID", "The process that did it."),
        ("COMM", "The name of the thread that did it."),
        *FLOW_MEANINGS,
    ),
    examples=(
        Example("", "All connections"),
        Example("-v", "Long type names, and network namespaces"),
        Example("-t", "With the time since the first event"),
        Example("-tv", "The same in nanoseconds, and long lines"),
        Example("-p 181", "Only what the process 181 does"),
        Example("-N 4026531969", "Only one network namespace"),
        Example("-N $(stat -L -c %i /proc/self/ns/net)", "Only the shell's own network namespace"),
        Example("-4", "Only IPv4"),
        Example("-6", "Only IPv6"),
        *MAP_EXAMPLES,
    ),
)
