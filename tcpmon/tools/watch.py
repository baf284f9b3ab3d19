"""The main loop of a tool: from the rings to stdout, until a signal or a reader that has had enough."""

from __future__ import annotations

import argparse
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tcpmon.kernel.ring import Ring
from tcpmon.tools import dns, request, session
from tcpmon.tools.dns import Names
from tcpmon.tools.output import STDOUT, write
from tcpmon.tools.session import Session
from tcpmon.tools.tool import Printer, Tool

_ENDING = (signal.SIGINT, signal.SIGTERM)
_LOST_EVERY_MS = 1000  # how often is looked whether events were lost
# After each look. Nobody sees it, and being woken for each of many events costs more than all the rest.
_PAUSE_MS = 5
_HUNG_UP = select.POLLERR | select.POLLHUP | select.POLLNVAL


def run(tool: Tool, parsed: argparse.Namespace) -> None:
    """Prints what happens until SIGINT or SIGTERM, or until nobody reads stdout any more.

    BrokenPipeError where that comes out in writing; TcpmonError for what the operator has to set right.
    """
    with _ending_signals() as ending:
        asked = request.make(tool.kinds, parsed)
        if asked.dns:
            dns.require()
        opened = session.open(asked)
        names = Names()
        watch = Watch(opened, names, tool.printer(parsed, opened.event_layout, names.query), tool.name)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
        watch.until(ending)


@contextmanager
def _ending_signals() -> Iterator[int]:
    """A descriptor that is readable once there was a signal to end. They are blocked until the caller
    unblocks them, since the loader gets a terminal's Ctrl-C too. A second one has its usual effect, in case
    that whoever reads stdout is stuck.
    """
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    signal.set_wakeup_fd(wakes.fileno())
    for number in _ENDING:
        signal.signal(number, lambda number, _frame: _usual_effect(number))
    try:
        yield woken.fileno()
    finally:
        signal.set_wakeup_fd(-1)
        woken.close()
        wakes.close()


def _usual_effect(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)


class Watch:
    """One run of a tool."""

    def __init__(self, opened: Session, names: Names, printer: Printer, name: str) -> None:
        self._events = Ring(opened.events_fd, opened.event_layout.size)
        self._opened = opened
        self._names = names
        self._printer = printer
        self._name = name
        self._told_lost = 0
        self._looked = time.monotonic()

    def until(self, ending: int) -> None:
        """Prints until the descriptor `ending` is readable; what happened before that is printed too."""
        end, more = select.poll(), select.poll()
        for poll in (end, more):
            poll.register(STDOUT, 0)  # tells without being asked that its reader is gone
            poll.register(ending, select.POLLIN)
        more.register(self._opened.events_fd, select.POLLIN)
        if self._opened.answers:
            more.register(self._opened.answers, select.POLLIN)
        write(self._printer.start())
        ready: list[tuple[int, int]] = []
        while not _is_over(ready, ending):
            ready = more.poll(_LOST_EVERY_MS)
            self._print()
            self._tell_lost_now_and_then()
            ready += end.poll(_PAUSE_MS)
        self._print()
        write(self._printer.end())
        self._tell_lost()

    def _print(self) -> None:
        """What is there now; not what comes meanwhile, or a flood would keep the tool from ending."""
        end = self._events.produced()
        while records := self._events.read(end):
            self._learn()  # what was answered before these connects
            write(self._printer.render(records))
        self._learn()

    def _learn(self) -> None:
        for payload in self._opened.answers.read() if self._opened.answers else ():
            self._names.learn(payload)

    def _tell_lost_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._looked >= _LOST_EVERY_MS / 1000:
            self._looked = now
            self._tell_lost()

    def _tell_lost(self) -> None:
        lost = self._opened.lost()
        if lost > self._told_lost:
            print(f"tcpmon {self._name}: lost {lost - self._told_lost} events", file=sys.stderr, flush=True)
            self._told_lost = lost


def _is_over(ready: list[tuple[int, int]], ending: int) -> bool:
    return any(fd == ending or (fd == STDOUT and what & _HUNG_UP) for fd, what in ready)
