"""`tcpmon events`: its options, for the parser, the help and the manual page."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from typing import TypeVar

from tcpmon import events, netns
from tcpmon.config.filters import MAX_COMM_BYTES, MAX_INUM, MAX_PID
from tcpmon.config.kinds import MAX_PORT
from tcpmon.errors import TcpmonError
from tcpmon.events import when
from tcpmon.events.record import JOURNALED, Kind
from tcpmon.tools.options import Example, Option, whole
from tcpmon.tools.tool import FLOW_MEANINGS, Verb

FOLLOW_LINES = 10  # as tail and journalctl
_MAX_LINES = 1_000_000_000
T = TypeVar("T")
_COMMA = re.compile(r"(?<!\\),")
# What argparse takes for an argument, and not for an option: --since -1h
_NEGATIVE = re.compile(r"-\s*[0-9]")


def _several(one: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """Separated by commas; one that belongs to a value has a backslash before it."""
    return lambda text: tuple(one(part.strip().replace(r"\,", ",")) for part in _COMMA.split(text))


def _kind(text: str) -> Kind:
    if text not in JOURNALED:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(JOURNALED)}")
    return JOURNALED[text]


def _comm(text: str) -> bytes:
    comm = os.fsencode(text)
    if not 0 < len(comm) <= MAX_COMM_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r}: the kernel keeps 1 to {MAX_COMM_BYTES} bytes of a name")
    return comm


def _netns(text: str) -> int:
    if text.isdecimal():
        return whole("namespaces", 1, MAX_INUM)(text)
    for inum, name in netns.names().items():
        if name == text:
            return inum
    raise argparse.ArgumentTypeError(f"{text!r} is neither an inum nor a name that ip netns knows, nor self")


def _time(text: str) -> int:
    try:
        return when.microseconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_to(parser: argparse.ArgumentParser) -> None:
    """Gives a parser the verb's options."""
    VERB.add_to(parser)
    parser._negative_number_matcher = _NEGATIVE  # argparse has no other way to say so


def problem(parsed: argparse.Namespace) -> str:
    """What is wrong with options given together, or nothing."""
    if parsed.follow and parsed.until is not None:
        return "-f and --until exclude each other"
    if None not in (parsed.since, parsed.until) and parsed.since > parsed.until:
        return "--since is later than --until"
    return ""


def run(parsed: argparse.Namespace) -> None:
    """Prints events. TcpmonError for what the operator has to set right."""
    try:
        from tcpmon.events import show
    except ModuleNotFoundError as error:
        if error.name != "systemd":
            raise
        raise TcpmonError("the Python module systemd is missing", "apt install python3-systemd") from None
    show.run(parsed)


VERB = Verb(
    name=events.NAME,
    description="Prints the events that tcpmon has logged to the journal (with `events.journal: true`), the "
    "oldest first. Filters that are separated by commas or given again add up: any of the values will do.",
    options=(
        Option(
            "-e",
            "--event",
            f"Only these kinds of events: {', '.join(f'`{name}`' for name in JOURNALED)}.",
            "EVENTS",
            _several(_kind),
            adds_up=True,
        ),
        Option(
            "-c",
            "--comm",
            "Only processes of these names; a comma within a name has a backslash before it.",
            "COMM",
            _several(_comm),
            adds_up=True,
        ),
        Option(
            "-p",
            "--pid",
            "Only these processes.",
            "PID",
            _several(whole("process ids", 1, MAX_PID)),
            adds_up=True,
        ),
        Option(
            "-P",
            "--port",
            "Only these services: the remote port of a connection that this host opened, the local port of "
            "one that it accepted.",
            "PORTS",
            _several(whole("ports", 1, MAX_PORT)),
            adds_up=True,
        ),
        Option(
            "-N",
            "--netns",
            "Only these network namespaces: an inum, a name that `ip netns` has for one now, or `self`.",
            "NETNS",
            _several(_netns),
            adds_up=True,
        ),
        Option(
            "-S",
            "--since",
            'Only what happened then or later: "2026-11-21 10:00", "10:00", "-1h", "2 days ago", "today", '
            '"yesterday" and the like, as `systemd.time`(7) has it (but for weekdays and zones).',
            "TIME",
            _time,
        ),
        Option("-U", "--until", "Only what happened then or before.", "TIME", _time),
        Option(
            "-n",
            "--lines",
            f"Only the last so many. With `-f`, {FOLLOW_LINES} unless `--since` is given.",
            "N",
            whole("numbers of lines", 0, _MAX_LINES),
        ),
        Option("-f", "--follow", "Goes on with what comes, until Ctrl-C."),
        Option("", "--json", "A line of JSON for each event, with all its fields."),
        Option(
            "-D",
            "--directory",
            "Reads the journal's files in this directory, not this machine's own journal.",
            "DIR",
            str,
        ),
    ),
    columns=(
        ("TIME", "When it happened, in local time; the entry was written a moment later."),
        (
            "TYPE",
            "connect: a program's connect has established a connection. connect_failed: it has not. accept: "
            "a program has accepted one. close: one has ended, in whatever way.",
        ),
        ("PID", "The process that connected or accepted."),
        ("COMM", "Its name."),
        *FLOW_MEANINGS,
        (
            "DETAIL",
            "Of connect_failed the reason. Of close the time from established to closed, the bytes sent and "
            "received, and the segments that were sent again.",
        ),
    ),
    examples=(
        Example("-n 20", "The last 20 events"),
        Example("-f", "The last 10, and what comes"),
        Example("--event connect_failed --since today", "Which connects failed today, and why"),
        Example("--port 443,8443 --since -1h", "An hour of the web server's connections"),
        Example("--comm psql --since 10:00 --until 10:05", "Five minutes of psql, this morning"),
        Example("--pid 2810 --netns self", "One process, in the shell's network namespace"),
        Example("--json --event close -n 100", "For scripts: the last 100 that ended"),
        Example("--directory /var/log/journal/remote", "From another machine's journal"),
    ),
)
