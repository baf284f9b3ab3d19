"""The start of `tcpmon run`. What takes longest begins first: the loader imports bcc and reads the kernel's
types while this process imports what the daemon needs, and reads the configuration."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from tcpmon import privileges
from tcpmon.kernel.load import Loader
from tcpmon.service import inheritance
from tcpmon.service.manager import SIGNALS, Manager


def run(path: str | None, mechanisms: Mapping[str, str]) -> None:
    """Serves until SIGTERM or SIGINT. `mechanisms` forces a way to trace for an event (tests)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes while starting is taken by the daemon
    manager = Manager()
    handed = inheritance.take(manager)
    with Loader() as loader:
        if not handed.kept:
            privileges.require()
            loader.begin()
        from tcpmon import daemon

        daemon.run(path, mechanisms, manager, handed, loader)
