"""The start of `tcpmon run`. What takes longest begins first: the loader imports bcc and reads the kernel's
types while this process imports what the daemon needs, and reads the configuration."""

from __future__ import annotations

import contextlib
import ctypes as ct
import signal
from collections.abc import Mapping

from tcpmon import privileges
from tcpmon.kernel.load import Loader
from tcpmon.service import inheritance
from tcpmon.service.manager import SIGNALS, Manager

_M_ARENA_MAX, _ARENAS = -8, 2  # malloc.h of glibc


def run(path: str | None, mechanisms: Mapping[str, str]) -> None:
    """Serves until SIGTERM or SIGINT. `mechanisms` forces a way to trace for an event (tests)."""
    _share_arenas()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes while starting is taken by the daemon
    manager = Manager()
    handed = inheritance.take(manager)
    with Loader() as loader:
        if not handed.kept:
            privileges.require()
            loader.begin()
        from tcpmon import daemon

        daemon.run(path, mechanisms, manager, handed, loader)


def _share_arenas() -> None:
    """glibc would give each of the threads that answer scrapes a heap of its own, and not take it back:
    after fifty scrapes at once 40 MiB instead of 34."""
    with contextlib.suppress(AttributeError):  # a C library that has no arenas
        ct.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
