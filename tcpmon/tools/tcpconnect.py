"""tcpconnect: a line for each attempt to connect, or at the end a table of them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator

from tcpmon.events.columns import Column, address_text, column, comm_bytes, ip_version, seconds_since_first
from tcpmon.events.record import Kind, decoder
from tcpmon.kernel.load import Layout
from tcpmon.tools.options import (
    IPV4,
    IPV6,
    MAP_EXAMPLES,
    MAPS,
    PID,
    REMOTE_PORTS,
    TIMESTAMP,
    UID,
    Example,
    Option,
)
from tcpmon.tools.tool import Printer, Query, Table, Tool

_START = "Tracing connect ... Hit Ctrl-C to end\n"
_COUNTS = "%-25s %-25s %-20s %-10s\n"


def _columns(parsed: argparse.Namespace, query: Query) -> Iterator[Column]:
    if parsed.timestamp:
        yield Column(f"{'TIME(s)':<9}", ("ns",), seconds_since_first("%-9.3f"), keep=False)
    if parsed.print_uid:
        yield column("UID", "%-6d", "uid")
    yield column("PID", "%-7d ", "pid")
    yield Column(f"{'COMM':<13}", ("thread_comm",), lambda comm: b"%-12.12s " % comm_bytes(comm))
    yield column("IP", "%-2d ", "remote", ip_version)
    yield column("SADDR", "%-16s ", "local", address_text)
    if parsed.lport:
        yield column("LPORT", "%-6d ", "local_port")
    yield column("DADDR", "%-16s ", "remote", address_text)
    yield column("DPORT", "%-6d", "remote_port")
    if parsed.dns:
        yield Column(" QUERY", ("remote", "ns"), lambda remote, ns: b" " + query(remote, ns), keep=False)


class _Counts:
    """Counts attempts by both addresses and the remote port, and shows them at the end, most first."""

    def __init__(self, layout: Layout) -> None:
        self._decode = decoder(layout, ("local", "remote", "remote_port"))
        self._counts: Counter[tuple[bytes, bytes, int]] = Counter()

    def start(self) -> bytes:
        return _START.encode()

    def render(self, records: bytes) -> bytes:
        if records:
            self._counts.update(zip(*self._decode(records), strict=True))
        return b""

    def end(self) -> bytes:
        rows = [
            _COUNTS % (address_text(local), address_text(remote), port, count)
            for (local, remote, port), count in self._counts.most_common()
        ]
        # The empty line sets it off from a Ctrl-C
        return "".join(["\n", _COUNTS % ("LADDR", "RADDR", "RPORT", "CONNECTS"), *rows]).encode()


def _printer(parsed: argparse.Namespace, layout: Layout, query: Query) -> Printer:
    return _Counts(layout) if parsed.count else Table(_START, layout, tuple(_columns(parsed, query)))


def _problem(parsed: argparse.Namespace) -> str:
    return "-d/--dns and -c/--count cannot be combined" if parsed.dns and parsed.count else ""


TOOL = Tool(
    name="tcpconnect",
    description="Prints a line for each attempt to connect that is made while it runs and sent a SYN, "
    "whatever came of it.",
    kinds=(Kind.ATTEMPT,),
    options=(
        TIMESTAMP,
        PID,
        REMOTE_PORTS,
        IPV4,
        IPV6,
        Option("-L", "--lport", "A column with the local port."),
        Option("-U", "--print-uid", "A column with the user."),
        UID,
        Option(
            "-c",
            "--count",
            "Count attempts by local address, remote address and remote port, and print nothing but a table "
            "of them at the end, most first.",
        ),
        *MAPS,
        Option(
            "-d",
            "--dns",
            "A column with the name that was looked up: of the DNS answers that came in over UDP, in the "
            "network namespace that this runs in, the last one with the remote address, and how long before "
            "the connect it came, if more than 100 ms. The program which looked it up need not be the one "
            "that connects. Not with `-c`.",
        ),
    ),
    printer=_printer,
    columns=(
        ("TIME(s)", "The seconds since the first event that is printed."),
        ("UID", "The user of the process."),
        ("PID", "The process that connects."),
        ("COMM", "The name of the thread that connects, its first 12 bytes."),
        ("IP", "4 or 6."),
        ("SADDR, LADDR", "The local address."),
        ("LPORT", "The local port."),
        ("DADDR, RADDR", "The remote address."),
        ("DPORT, RPORT", "The remote port."),
        ("QUERY", "The name that was looked up."),
        ("CONNECTS", "How many attempts there were."),
    ),
    examples=(
        Example("", "All attempts"),
        Example("-t", "With the time since the first event"),
        Example("-d", "With the names that were looked up"),
        Example("-p 181", "Only those of the process 181"),
        Example("-P 80", "Only to port 80"),
        Example("-P 80,81", "Only to the ports 80 and 81"),
        Example("-4", "Only IPv4"),
        Example("-6", "Only IPv6"),
        Example("-U", "With the user"),
        Example("-u 1000", "Only those of the user 1000"),
        Example("-c", "Count them; the table comes with Ctrl-C"),
        Example("-L", "With the local port"),
        *MAP_EXAMPLES,
    ),
    problem=_problem,
)
