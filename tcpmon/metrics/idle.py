"""Which label sets had no event for metrics.series_ttl: they are folded, by a thread.

One that is named by the labels in force goes into _other. One of labels that were in force before is written
under the name that those in force leave of it: it goes to that name, which changes nothing in what is
written, and makes room. No name goes before all that is written under it: else its counters would go back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tcpmon.config.settings import Metrics
from tcpmon.kernel.source import LEAVING
from tcpmon.metrics.folding import Folding, Print
from tcpmon.metrics.snapshot import OTHER_KEY, key_by

log = logging.getLogger(__name__)

# From one look to the next: a part of the time to live, but no oftener and no more seldom than this
_PART = 8
_LEAST_SECONDS, _MOST_SECONDS = 1.0, 300.0
_JOIN_SECONDS = 5.0


class Idle:
    """Since when nothing happened to each label set, as far as looks can tell: at least so long."""

    def __init__(self) -> None:
        self._since: dict[bytes, tuple[int | None, float]] = {}

    @property
    def keys(self) -> Collection[bytes]:
        """Of all label sets, at the last look."""
        return self._since.keys()

    def look(self, prints: Iterable[Print], now: float, ttl_s: float) -> list[Print]:
        """Takes note of Folding.prints() at `now`; those without change for `ttl_s`."""
        before, self._since = self._since, {}
        for key, print_ in prints:
            known = before.get(key)
            self._since[key] = known if known and known[0] == print_ else (print_, now)
        return [
            Print(key, print_)
            for key, (print_, since) in self._since.items()
            if print_ is not None and now - since >= ttl_s
        ]


def targets(
    keys: Collection[bytes], idle: Iterable[Print], labels: Sequence[str]
) -> Mapping[bytes, Sequence[Print]]:
    """What is to be folded, by the key that it goes to. `keys`: of all label sets, idle or not."""
    names = {key: key_by(key, labels) for key in keys}
    former = {name for key, name in names.items() if name != key}
    found: dict[bytes, list[Print]] = {}
    for one in idle:
        name = names[one.key]
        if name != one.key:
            found.setdefault(name, []).append(one)
        elif name not in former:
            found.setdefault(OTHER_KEY, []).append(one)
    return found


class Folder:
    """Looks now and then, for as long as the time to live is not 0."""

    def __init__(self, folding: Folding) -> None:
        self._folding = folding
        self._idle = Idle()
        self._ttl_s = 0.0
        self._labels: Sequence[str] = ()
        self._choice = 0
        self._lock = threading.Lock()  # while something is folded
        self._ended = False
        self._woken = threading.Event()
        self._thread: threading.Thread | None = None

    def keep_by(self, metrics: Metrics) -> None:
        """Starts, or goes on with another time to live or other labels."""
        self._ttl_s, self._labels = metrics.series_ttl, metrics.labels
        if self._thread:
            self._woken.set()
        elif self._ttl_s:
            self._thread = threading.Thread(target=self._run, name="folder", daemon=True)
            self._thread.start()

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nothing is folded meanwhile, nor afterwards what was chosen before: for a change of the labels."""
        with self._lock:
            self._choice += 1
            yield

    def stop(self) -> None:
        self._ended = True
        self._woken.set()
        if self._thread:
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while not self._ended:
            if self._ttl_s:
                try:
                    self._look()
                except OSError as error:
                    log.error("idle label sets stay for now: %s", error)
            self._woken.wait(_pause(self._ttl_s))
            self._woken.clear()

    def _look(self) -> None:
        with self._lock:
            choice, ttl_s, labels = self._choice, self._ttl_s, self._labels
        idle = self._idle.look(self._folding.prints(), time.monotonic(), ttl_s)
        folded = renamed = 0
        for target, chosen in targets(self._idle.keys, idle, labels).items():
            done = self._fold(target, chosen, choice)
            if target == OTHER_KEY:
                folded = done
            else:
                renamed += done
        if folded:
            log.info("label sets that had no event for %g s and are in _other now: %d", ttl_s, folded)
        if renamed:
            log.info(
                "label sets of former labels that are with those of the labels in force now: %d", renamed
            )

    def _fold(self, target: bytes, chosen: Sequence[Print], choice: int) -> int:
        """How many went."""
        folded = 0
        for start in range(0, len(chosen), LEAVING):
            if start:
                self._woken.wait(_LEAST_SECONDS)  # a scrape that had to be read anew gets through
            with self._lock:
                if self._ended or choice != self._choice:
                    break
                folded += self._folding.fold(target, chosen[start : start + LEAVING])
        return folded


def _pause(ttl_s: float) -> float | None:
    """Seconds; None for ever."""
    return min(max(ttl_s / _PART, _LEAST_SECONDS), _MOST_SECONDS) if ttl_s else None
