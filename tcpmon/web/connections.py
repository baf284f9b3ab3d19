"""The connections open now: at most MAX_CONNECTIONS, and the one that keeps us waiting longest makes room."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import select
import socket
import threading
import time
from collections.abc import Collection, Iterator
from enum import IntEnum

log = logging.getLogger(__name__)

# One thread each; a Prometheus server needs one, so this is room for dozens, and for people with browsers.
MAX_CONNECTIONS = 64
# Replies that are made while they are written, at a time: each holds all that was counted until its end.
MAX_STREAMS = 8
# How often to look again for a client that holds us up, while a new one is kept waiting for room.
RECHECK_SECONDS = 0.05
# Every large reply fills the socket's buffer now and then; a client that leaves it full for longer is slow.
WRITE_PATIENCE_SECONDS = 0.2

_libc = ctypes.CDLL(None)
_AF_UNSPEC_ADDRESS = bytes(16)


class Phase(IntEnum):
    """What a connection's thread does. The value is the poll event that ends it."""

    WORKING = 0
    READING = select.POLLIN  # a request, or the end of the connection
    WRITING = select.POLLOUT
    LEAVING = select.POLLHUP  # has all its replies, and is given a moment to take them and go


class Connection:
    """A client's socket, and what its thread does with it since when (time.monotonic)."""

    def __init__(self, sock: socket.socket, peer: str, *, own: bool = False) -> None:
        self.sock = sock
        self.peer = peer
        self.own = own  # the daemon's, and nobody else's
        self.phase = Phase.READING
        self.since = time.monotonic()
        self.answered = False  # at least once
        self.thread: threading.Thread | None = None

    def shut_down(self) -> None:
        """Wake whatever thread blocks on the socket; that thread closes it.

        Within a reply by a reset, which connect(AF_UNSPEC) does at once: an orderly end would make the part
        look like the whole to a client of HTTP/1.0.
        """
        if self.phase in (Phase.WORKING, Phase.WRITING):
            _libc.connect(self.sock.fileno(), _AF_UNSPEC_ADDRESS, len(_AF_UNSPEC_ADDRESS))
        with contextlib.suppress(OSError):  # not connected any more
            self.sock.shutdown(socket.SHUT_RDWR)


class Connections:
    """Admits connections and shuts them down. Sockets are closed under the lock, so that a descriptor that is
    being shut down here is never one that has just been reused for another client."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._streaming: set[Connection] = set()
        self._changed = threading.Condition(threading.Lock())
        self._closing = False
        # Someone waits for room: connections are to end with their next reply, so that nobody is starved.
        self.crowded = False

    def admit(self, connection: Connection) -> bool:
        """Take it in, blocking until another has left if there is no room; False once closing."""
        with self._changed:
            while len(self._open) >= MAX_CONNECTIONS and not self._closing:
                self.crowded = True
                self._evict(self._open)
                self._changed.wait(RECHECK_SECONDS)
            self.crowded = self._closing
            if not self._closing:
                self._open.add(connection)
            return not self._closing

    def leave(self, connection: Connection) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()
            connection.sock.close()

    def enter(self, connection: Connection, phase: Phase) -> None:
        with self._changed:
            connection.phase, connection.since = phase, time.monotonic()

    def go_on(self, connection: Connection, phase: Phase) -> None:
        """Like enter, but how long its client has kept us waiting does not start anew."""
        with self._changed:
            connection.phase = phase

    def shed(self, timeout: float) -> None:
        """Out of descriptors or memory: evict one; return when one has left or after `timeout` seconds."""
        with self._changed:
            if not self._closing:
                self._evict(self._open)
                self._changed.wait(timeout)

    @contextlib.contextmanager
    def stream(self, connection: Connection) -> Iterator[None]:
        """For a reply that is made while it is written: waits until there are few enough of them."""
        with self._changed:
            while len(self._streaming) >= MAX_STREAMS and not connection.own:
                self._evict(self._streaming)
                self._changed.wait(RECHECK_SECONDS)
            self._streaming.add(connection)
        try:
            yield
        finally:
            with self._changed:
                self._streaming.discard(connection)
                self._changed.notify_all()

    def finish(self, patience_seconds: float) -> None:
        """Admit no more. Those that have been answered are shut down, the others after their reply, or when
        the time is over."""
        deadline = time.monotonic() + patience_seconds
        with self._changed:
            self._closing = self.crowded = True
            self._changed.notify_all()
            while self._open and time.monotonic() < deadline:
                for connection in self._stuck():
                    if connection.answered:
                        connection.shut_down()
                self._changed.wait(RECHECK_SECONDS)
            for connection in self._open:
                connection.shut_down()

    def threads(self) -> list[threading.Thread]:
        with self._changed:
            return [connection.thread for connection in self._open if connection.thread]

    def _evict(self, among: Collection[Connection]) -> None:
        if stuck := [connection for connection in self._stuck() if connection in among]:
            longest = min(stuck, key=lambda connection: connection.since)
            log.debug("%s: making room", longest.peer)
            longest.shut_down()

    def _stuck(self) -> list[Connection]:
        """Those that wait for their clients: idle, with half a request, not taking what we write, or done.

        Not those whose socket is ready: it is we who have not come round to them yet.
        """
        patient_since = time.monotonic() - WRITE_PATIENCE_SECONDS
        waiting = {
            each.sock.fileno(): each
            for each in self._open
            if each.phase in (Phase.READING, Phase.LEAVING)
            or (each.phase == Phase.WRITING and each.since < patient_since)
        }
        poller = select.poll()
        for descriptor, connection in waiting.items():
            poller.register(descriptor, connection.phase)
        ready = {descriptor for descriptor, _ in poller.poll(0)}
        return [connection for descriptor, connection in waiting.items() if descriptor not in ready]
