"""Writes events to the journal, on a thread of its own."""

from __future__ import annotations

import os
import select
import threading
from typing import Protocol

from tcpmon.events.fields import UNTOLD, Entries
from tcpmon.events.journald import SOCKET, Ending, Journald
from tcpmon.kernel.load import Table
from tcpmon.kernel.ring import Ring

# After each look: nobody waits for an entry so soon, and being woken for each costs more than writing it
_PAUSE_MS = 50
_LAST_SECONDS = 1.0  # for what is in the ring when it is to stop
_JOIN_SECONDS = 2.0


class Counts(Protocol):
    """How many events journald took, and how many it did not."""

    written: int
    lost: int

    def add(self, written: int, lost: int) -> None: ...


class Journal:
    """From the ring of events to journald.

    While journald is slow the ring fills, and the kernel counts what has no room; while it is not there, what
    is in the ring is taken and counted as lost.
    """

    def __init__(self, table: Table, counts: Counts, path: str = SOCKET) -> None:
        self._fd = table.fd
        self._ring = Ring(table.fd, table.value.size)
        self._entries = Entries(table.value)
        self._counts = counts
        self._path = path
        self._stop = -1
        self._thread: threading.Thread | None = None

    @property
    def written(self) -> int:
        """Events that journald took."""
        return self._counts.written

    @property
    def lost(self) -> int:
        """Events for which there was no journald."""
        return self._counts.lost

    def start(self) -> None:
        """Returns at once; nothing where it runs already. May follow a stop."""
        if self._thread and not self._thread.is_alive():
            self._forget()
        if self._thread is None:
            self._stop = os.eventfd(0)
            self._thread = threading.Thread(
                target=self._run, args=(Ending(self._stop, _LAST_SECONDS),), name="journal", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Returns once what the ring holds now is written, or after a second: what it holds then it keeps."""
        if self._thread is None:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join(_JOIN_SECONDS)
        if not self._thread.is_alive():
            self._forget()

    def _forget(self) -> None:
        os.close(self._stop)
        self._thread = None

    def _run(self, ending: Ending) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(ending.asked, select.POLLIN)
        with Journald(self._path, ending) as journald:
            while not ending.is_asked_for(_PAUSE_MS):
                poll.poll()
                self._write(journald, ending)
            self._write(journald, ending)

    def _write(self, journald: Journald, ending: Ending) -> None:
        """What is there now, and not what comes meanwhile."""
        end = self._ring.produced()
        while not ending.is_due() and (records := self._ring.look(end)):
            entries = self._entries.of(records)
            written, lost = journald.send(entries)
            untold = entries[:written].count(UNTOLD)
            self._counts.add(written - untold, lost + untold)
            # Last: what a daemon that is killed has not written yet, the next one finds
            self._ring.take(written + lost)
