"""Signs of life for systemd: the watchdog's, sent only while scrapes work, and the line of its status."""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable, Collection

from tcpmon.service.manager import Manager, watchdog_seconds

log = logging.getLogger(__name__)

_REQUEST = b"GET /metrics HTTP/1.1\r\nHost: tcpmon\r\nConnection: close\r\n\r\n"
_PIECE = 1 << 16
_STATUS_SECONDS = 30.0  # where no watchdog waits


def scrape_works(open_connection: Callable[[], socket.socket], timeout_s: float) -> bool:
    """Whether a scrape, over a connection that the server serves as any other, comes to its end."""
    try:
        with open_connection() as sock:
            sock.settimeout(timeout_s)
            sock.sendall(_REQUEST)
            begin = sock.recv(_PIECE)
            last = begin
            while piece := sock.recv(_PIECE):
                last = last[-8:] + piece
    except OSError as error:
        log.error("a scrape of our own failed: %s", error)
        return False
    # Chunked: a reply that was broken off has no last chunk
    if begin.startswith(b"HTTP/1.1 200 ") and last.endswith(b"0\r\n\r\n"):
        return True
    answer = begin.partition(b"\r\n")[0].decode(errors="replace")
    log.error("a scrape of our own %s: %r", "broke off" if " 200 " in answer else "was answered with", answer)
    return False


class Pulse:
    """Beats while it waits for signals; where there is no systemd, it only waits and costs nothing.

    `works` tells whether scrapes do, given how many seconds there are from one beat to the next; `health` is
    a line for the status.
    """

    def __init__(self, manager: Manager, works: Callable[[float], bool], health: Callable[[], str]) -> None:
        self._manager = manager
        self._works = works
        self._health = health
        watchdog = watchdog_seconds()
        self._watched = watchdog is not None
        self._period = watchdog / 2 if watchdog else _STATUS_SECONDS
        self._due = 0.0

    def wait(self, signals: Collection[signal.Signals]) -> int:
        """The number of the next signal."""
        if not self._manager.present:
            return signal.sigwait(signals)
        while True:
            if time.monotonic() >= self._due:
                begun = time.monotonic()
                self._due = begun + (self._period if self._beat() else self._period / 4)
            received = signal.sigtimedwait(signals, max(0.0, self._due - time.monotonic()))
            if received:
                return received.si_signo

    def _beat(self) -> bool:
        """Whether all is well: else the next beat is due soon, while systemd still waits."""
        works = not self._watched or self._works(self._period)
        if works and self._watched:
            self._manager.alive()
        self._manager.status(self._health())
        return works
