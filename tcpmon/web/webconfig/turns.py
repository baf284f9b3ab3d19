"""One at a time, with as many waiting as there may be, and each client's address in its turn."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

# Who waits keeps a connection and its thread. Half of connections.MAX_CONNECTIONS: the rest is for others.
MAX_WAITING = 32
# One address's: a few servers behind it may begin to scrape in the same moment.
MAX_WAITING_PER_PEER = 8
# Addresses whose last turn is remembered.
MAX_PEERS = 1024


class Crowded(Exception):
    """There is no room to wait."""


@dataclass(eq=False)
class _Turn:
    peer: str
    number: int
    come: threading.Event = field(default_factory=threading.Event)


class Turns:
    """Next is who waits from the address whose last turn is longest ago: one that asks and asks delays others
    by one turn, not by all of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._at_work: _Turn | None = None
        self._waiting: list[_Turn] = []
        self._last: dict[str, int] = {}

    @contextlib.contextmanager
    def take(self, peer: str) -> Iterator[None]:
        """Waits for its turn. Raises Crowded."""
        turn = self._line_up(peer)
        turn.come.wait()
        try:
            yield
        finally:
            with self._lock:
                self._at_work = None
                self._call_next()

    def _line_up(self, peer: str) -> _Turn:
        with self._lock:
            mine = sum(turn.peer == peer for turn in self._waiting)
            if len(self._waiting) >= MAX_WAITING or mine >= MAX_WAITING_PER_PEER:
                raise Crowded
            turn = _Turn(peer, next(self._numbers))
            self._waiting.append(turn)
            self._call_next()
            return turn

    def _call_next(self) -> None:
        if self._at_work or not self._waiting:
            return
        turn = min(self._waiting, key=lambda turn: (self._last.get(turn.peer, 0), turn.number))
        self._waiting.remove(turn)
        self._at_work = turn
        if len(self._last) >= MAX_PEERS:
            self._last.clear()
        self._last[turn.peer] = next(self._numbers)
        turn.come.set()
