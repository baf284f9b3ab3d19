"""What the tools print, byte for byte: each file of tests/golden holds a command and all that it prints for
the records of eventrecords.ROWS. The files were written from bcc's format strings, not from tcpmon's output.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest
from eventrecords import BOOT_NS, EVENT, ROWS, address, records

from tcpmon import cli
from tcpmon.events.columns import header
from tcpmon.events.record import Kind
from tcpmon.tools import tcpaccept, tcpconnect, tcptracer
from tcpmon.tools.dns import Names
from tcpmon.tools.tool import Printer, Table, Tool

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.txt"))
TOOLS = {module.TOOL.name: module.TOOL for module in (tcptracer, tcpaccept, tcpconnect)}
# That of tcpconnect -c: how often each row comes
TIMES = [index * 7 % 5 + 1 for index in range(len(ROWS))]
LEARNED_NS = BOOT_NS + 900_000_000
LEARNED = {
    "93.184.216.34": b"www.example.com",
    "192.168.100.201": b"printer.lan",
    "2001:db8::2": b"ns.example.org",
}


def golden(path: Path) -> tuple[list[str], bytes]:
    """The arguments of tcpmon, and the output."""
    command, _, output = path.read_bytes().partition(b"\n")
    prompt, tcpmon, *arguments = shlex.split(command.decode())
    assert (prompt, tcpmon) == ("$", "tcpmon")
    return arguments, output


def printer(tool: Tool, parsed: argparse.Namespace) -> Printer:
    """The tool's; with a clock that stands still, and names that were learned."""
    if getattr(parsed, "time", False):
        columns = tuple(tcpaccept.columns(parsed, lambda _ns: b"13:37:05 "))
        return Table("", EVENT, columns)
    names = Names(lambda: LEARNED_NS)
    for text, name in LEARNED.items():
        names.remember(address(text), name)
    return tool.printer(parsed, EVENT, names.query)


def test_every_option_that_changes_the_output_has_a_file() -> None:
    used = {
        (arguments[0], option) for path in GOLDEN for arguments in [golden(path)[0]] for option in arguments
    }
    for tool in TOOLS.values():
        for option in tool.options:
            if option.parse is None and not option.exclusive:
                assert (tool.name, option.short) in used, option


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path: Path) -> None:
    arguments, expected = golden(path)
    tool = TOOLS[arguments[0]]
    parsed = cli.parser(arguments[0]).parse_args(arguments)
    made = printer(tool, parsed)
    if getattr(parsed, "count", False):
        repeated = [row for row, times in zip(ROWS, TIMES, strict=True) for _ in range(times)]
        output = made.start() + made.render(records(tool.kinds, repeated)) + made.end()
    else:
        output = made.start() + made.render(records(tool.kinds)) + made.end()
    assert output == expected


@pytest.mark.parametrize("arguments", ["tcptracer -v", "tcpaccept", "tcpconnect -t -L", "tcpconnect -c"])
def test_batches_do_not_show(arguments: str) -> None:
    """However the ring hands the records over, the output is the same."""
    tool = TOOLS[arguments.split()[0]]
    parsed = cli.parser(tool.name).parse_args(arguments.split())
    whole, parts = printer(tool, parsed), printer(tool, parsed)
    in_parts = b"".join(parts.render(records(tool.kinds[:1], [row])) for row in ROWS) + parts.end()
    assert whole.render(records(tool.kinds[:1])) + whole.end() == in_parts


def test_without_an_event() -> None:
    tool = tcptracer.TOOL
    made = printer(tool, cli.parser(tool.name).parse_args([tool.name]))
    assert (made.render(b""), made.end()) == (b"", b"")
    counting = printer(tcpconnect.TOOL, cli.parser("tcpconnect").parse_args(["tcpconnect", "-c"]))
    assert counting.render(b"") == b""
    assert counting.end().splitlines()[1:] == [
        b"%-25s %-25s %-20s %-10s" % (b"LADDR", b"RADDR", b"RPORT", b"CONNECTS")
    ]


def test_a_header_is_as_wide_as_its_rows() -> None:
    parsed = cli.parser("tcpaccept").parse_args(["tcpaccept", "-T", "-t"])
    row = records([Kind.ACCEPT], ROWS[:1])
    columns = tuple(tcpaccept.columns(parsed))
    assert len(header(columns)) == len(Table("", EVENT, columns).render(row))
