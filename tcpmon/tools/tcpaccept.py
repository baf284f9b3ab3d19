"""tcpaccept: a line for each connection that a program accepts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

from tcpmon.events.columns import Column, address_text, column, comm_bytes, ip_version, seconds_since_first
from tcpmon.events.record import Kind
from tcpmon.kernel.load import Layout
from tcpmon.tools.options import (
    IPV4,
    IPV6,
    LOCAL_PORTS,
    MAP_EXAMPLES,
    MAPS,
    PID,
    TIMESTAMP,
    Example,
    Option,
)
from tcpmon.tools.tool import Printer, Query, Table, Tool


def wall_clock(_ns: int) -> bytes:
    """The time of day at which the line is made."""
    return b"%-9s" % time.strftime("%H:%M:%S").encode()


def columns(parsed: argparse.Namespace, clock: Callable[[int], bytes] = wall_clock) -> Iterator[Column]:
    if parsed.time:
        yield Column(f"{'TIME':<9}", ("ns",), clock, keep=False)
    if parsed.timestamp:
        yield Column(f"{'TIME(s)':<9}", ("ns",), seconds_since_first("%-9.3f"), keep=False)
    yield column("PID", "%-7d ", "pid")
    yield Column(f"{'COMM':<13}", ("thread_comm",), lambda comm: b"%-12.12s " % comm_bytes(comm))
    yield column("IP", "%-2d ", "remote", ip_version)
    yield column("RADDR", "%-16s ", "remote", address_text)
    yield column("RPORT", "%-5d ", "remote_port")
    yield column("LADDR", "%-16s ", "local", address_text)
    yield column("LPORT", "%-5d", "local_port")


def _printer(parsed: argparse.Namespace, layout: Layout, _query: Query) -> Printer:
    return Table("", layout, tuple(columns(parsed)))


TOOL = Tool(
    name="tcpaccept",
    description="Prints a line for each TCP connection that a program accepts while it runs.",
    kinds=(Kind.ACCEPT,),
    options=(
        Option("-T", "--time", "A column with the time of day, HH:MM:SS, ahead of that of `-t`."),
        TIMESTAMP,
        PID,
        LOCAL_PORTS,
        IPV4,
        IPV6,
        *MAPS,
    ),
    printer=_printer,
    columns=(
        ("TIME", "The time of day, HH:MM:SS."),
        ("TIME(s)", "The seconds since the first event that is printed."),
        ("PID", "The process that accepted."),
        ("COMM", "The name of the thread that accepted, its first 12 bytes."),
        ("IP", "4 or 6."),
        ("RADDR", "The remote address."),
        ("RPORT", "The remote port."),
        ("LADDR", "The local address."),
        ("LPORT", "The local port."),
    ),
    examples=(
        Example("", "All accepts"),
        Example("-t", "With the time since the first event"),
        Example("-T", "With the time of day"),
        Example("-P 80,81", "Only the local ports 80 and 81"),
        Example("-p 181", "Only those of the process 181"),
        Example("-4", "Only IPv4"),
        Example("-6", "Only IPv6"),
        *MAP_EXAMPLES,
    ),
)
