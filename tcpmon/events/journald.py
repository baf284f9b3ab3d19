"""journald's socket (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram an entry.

Not by libsystemd: systemd.journal.send holds Python's lock while journald takes nothing, so that no scrape
would be answered either (seen with python3-systemd 235), and calls it a success where there is no journald.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import time
from collections.abc import Sequence
from types import TracebackType

log = logging.getLogger(__name__)

SOCKET = "/run/systemd/journal/socket"


class Ending:
    """When a thread has to end: so many seconds after the descriptor `asked` was first seen readable."""

    def __init__(self, asked: int, seconds: float) -> None:
        self.asked = asked
        self._seconds = seconds
        self._poll = select.poll()
        self._poll.register(asked, select.POLLIN)
        self._deadline: float | None = None

    def is_asked_for(self, wait_ms: int = 0) -> bool:
        """Waits for it, but no longer than `wait_ms`."""
        if self._deadline is None and self._poll.poll(wait_ms):
            self._deadline = time.monotonic() + self._seconds
        return self._deadline is not None

    def seconds_left(self) -> float | None:
        """None for as long as nobody asked."""
        if self._deadline is None and not self.is_asked_for():
            return None
        assert self._deadline is not None
        return self._deadline - time.monotonic()

    def is_due(self) -> bool:
        left = self.seconds_left()
        return left is not None and left <= 0


class Journald:
    """Sends entries for one thread, which ends when `ending` says. Connects when there is something to send,
    and again where the socket that it was connected to is gone."""

    def __init__(self, path: str, ending: Ending) -> None:
        self._path = path
        self._ending = ending
        self._sock: socket.socket | None = None
        self._lost = 0  # since it went away

    def __enter__(self) -> Journald:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._close()

    def send(self, entries: Sequence[bytes]) -> tuple[int, int]:
        """How many of them it took, from the first on, and how many of the next are lost, since it is not
        there. Waits where it takes none for the moment; when the time is over, the rest is neither. Empty
        ones count as taken, and are not sent."""
        taken = 0
        try:
            for entry in entries:
                if entry and not self._send(entry):
                    return taken, 0
                taken += 1
        except OSError as error:
            self._is_away(error, len(entries) - taken)
            return taken, len(entries) - taken
        self._is_there()
        return taken, 0

    def _send(self, entry: bytes) -> bool:
        """False where the time is over first; OSError where there is nobody to send to."""
        if self._sock is not None:
            try:
                return self._put(self._sock, entry)
            except OSError:  # perhaps another journald is there by now
                self._close()
        self._sock = self._connect()
        return self._put(self._sock, entry)

    def _put(self, sock: socket.socket, entry: bytes) -> bool:
        while True:
            try:
                sock.send(entry)
                return True
            except BlockingIOError:
                if not self._wait_for_room(sock):
                    return False

    def _wait_for_room(self, sock: socket.socket) -> bool:
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        left = self._ending.seconds_left()
        if left is not None:
            return left > 0 and bool(poll.poll(left * 1000))
        poll.register(self._ending.asked, select.POLLIN)
        poll.poll()
        return True

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        return sock

    def _close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _is_away(self, error: OSError, lost: int) -> None:
        self._close()
        if not self._lost:
            why = os.strerror(error.errno) if error.errno else error
            log.warning("the journal does not take events (%s: %s): they are lost", self._path, why)
        self._lost += lost

    def _is_there(self) -> None:
        if self._lost:
            log.info("the journal takes events again; %d were lost", self._lost)
            self._lost = 0
