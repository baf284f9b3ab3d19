"""Which label sets had no event for metrics.series_ttl: they are folded into _other, by a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from tcpmon.kernel.source import LEAVING
from tcpmon.metrics.folding import Folding

log = logging.getLogger(__name__)

# From one look to the next: a part of the time to live, but no oftener and no more seldom than this
_PART = 8
_LEAST_SECONDS, _MOST_SECONDS = 1.0, 300.0
_JOIN_SECONDS = 5.0


class Idle:
    """Since when nothing happened to each label set, as far as looks can tell: at least so long."""

    def __init__(self) -> None:
        self._since: dict[bytes, tuple[int, float]] = {}

    def look(self, prints: Iterable[tuple[bytes, int]], now: float, ttl_s: float) -> list[tuple[bytes, int]]:
        """Takes note of Folding.prints() at `now`; those without change for `ttl_s`."""
        before, self._since = self._since, {}
        for key, print_ in prints:
            known = before.get(key)
            self._since[key] = known if known and known[0] == print_ else (print_, now)
        return [(key, print_) for key, (print_, since) in self._since.items() if now - since >= ttl_s]


class Folder:
    """Looks now and then, for as long as the time to live (seconds) is not 0."""

    def __init__(self, folding: Folding) -> None:
        self._folding = folding
        self._idle = Idle()
        self._ttl_s = 0.0
        self._ended = False
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    def keep_for(self, ttl_s: float) -> None:
        """Starts, or goes on with another time to live."""
        self._ttl_s = ttl_s
        if self._thread:
            self._woken.set()
        elif ttl_s:
            self._thread = threading.Thread(target=self._run, name="folder", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._ended = True
        self._woken.set()
        if self._thread:
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while not self._ended:
            if self._ttl_s:
                self._look()
            self._woken.wait(_pause(self._ttl_s))
            self._woken.clear()

    def _look(self) -> None:
        idle = self._idle.look(self._folding.prints(), time.monotonic(), self._ttl_s)
        folded = 0
        while idle and not self._ended:
            folded += self._folding.fold(idle[:LEAVING])
            idle = idle[LEAVING:]
            self._woken.wait(_LEAST_SECONDS if idle else 0)  # a scrape that had to be read anew gets through
        if folded:
            log.info("%d label sets had no event for %g s: they are in _other now", folded, self._ttl_s)


def _pause(ttl_s: float) -> float | None:
    """Seconds; None for ever."""
    return min(max(ttl_s / _PART, _LEAST_SECONDS), _MOST_SECONDS) if ttl_s else None
