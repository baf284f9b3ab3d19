"""`tcpmon events` at work: from the journal to stdout."""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import Iterable
from itertools import islice

from tcpmon.events import table
from tcpmon.events.reader import Entry, Events, Query
from tcpmon.events.verb import FOLLOW_LINES, VERB
from tcpmon.tools.output import STDOUT, write

_BATCH = 512  # lines that are written at once
_HUNG_UP = select.POLLERR | select.POLLHUP | select.POLLNVAL


def run(parsed: argparse.Namespace) -> None:
    """Prints what is asked for; where it is to follow, until SIGINT, SIGTERM, or nobody reads it any more.

    BrokenPipeError where nobody reads what there was; TcpmonError for what the operator has to set right.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs begin with the first ignored
        signal.signal(number, signal.default_int_handler)
    try:
        events = Events(_query(parsed))
        printer = Printer(as_json=parsed.json)
        printer.show(_past(events, parsed))
        if parsed.follow:
            _follow(events, printer)
        elif not printer.has_shown and parsed.lines != 0:
            print(f"tcpmon {VERB.name}: the journal holds no such events", file=sys.stderr)
    except KeyboardInterrupt:
        pass  # the way to end it


def _query(parsed: argparse.Namespace) -> Query:
    return Query(
        kinds=tuple(parsed.event or ()),
        comms=tuple(parsed.comm or ()),
        pids=tuple(parsed.pid or ()),
        ports=tuple(parsed.port or ()),
        netns=tuple(parsed.netns or ()),
        since_us=parsed.since,
        until_us=parsed.until,
        directory=parsed.directory,
    )


def _past(events: Events, parsed: argparse.Namespace) -> Iterable[Entry]:
    count = parsed.lines
    if count is None and parsed.follow and parsed.since is None:
        count = FOLLOW_LINES
    if count is not None:
        events.rewind(count)
    return islice(events.further(), count)


def _follow(events: Events, printer: Printer) -> None:
    poll = select.poll()
    poll.register(events.fd, events.poll_events)
    poll.register(STDOUT, 0)  # tells without being asked that its reader is gone
    poll.register(_signalled(), select.POLLIN)
    printer.show_header()
    while not any(fd == STDOUT and what & _HUNG_UP for fd, what in poll.poll(events.wait_ms())):
        events.process()
        printer.show(events.further())


def _signalled() -> int:
    """A descriptor that a signal makes readable: one that comes just before poll() would wait for its end."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    return readable


class Printer:
    """Lines on stdout, below a header where they make a table."""

    def __init__(self, as_json: bool) -> None:
        self._line = table.json_line if as_json else table.line
        self._header = "" if as_json else f"{table.header()}\n"
        self.has_shown = False

    def show_header(self) -> None:
        """Unless it is there already."""
        write(self._header.encode())
        self._header = ""

    def show(self, entries: Iterable[Entry]) -> None:
        left = iter(entries)
        while lines := [f"{self._line(entry)}\n" for entry in islice(left, _BATCH)]:
            self.show_header()
            write("".join(lines).encode())
            self.has_shown = True
