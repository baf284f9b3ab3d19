"""The service manager: what it hands over at the start, and what it is told. Sources: sd_notify(3),
sd_listen_fds(3), systemd.service(5).

Without systemd all of it does nothing: `tcpmon run` in a terminal is the same program.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Mapping
from typing import Any

from tcpmon.errors import TcpmonError

log = logging.getLogger(__name__)

# What it sends, and a terminal
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_BARRIER_MS = 5000


class Manager:
    """Speaks to systemd, where there is one to speak to (`present`)."""

    def __init__(self) -> None:
        self.present = bool(os.environ.get("NOTIFY_SOCKET"))
        self._heard = True

    def inherited(self) -> Mapping[str, list[int]]:
        """The descriptors handed over, by name: sockets, and what was kept in the store. Asked once."""
        if "LISTEN_FDS" not in os.environ:
            return {}
        # listen_fds_with_names() is not yet in Ubuntu 22.04's systemd-python
        names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
        found: dict[str, list[int]] = {}
        for number, fd in enumerate(_daemon().listen_fds()):
            name = names[number] if number < len(names) else "unknown"
            found.setdefault(name, []).append(fd)
        return found

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={text}")

    def ready(self) -> None:
        self._tell("READY=1")

    def reloading(self) -> None:
        self._tell("RELOADING=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """What the watchdog waits for."""
        self._tell("WATCHDOG=1")

    def keep(self, name: str, fd: int) -> None:
        """Has a descriptor kept over restarts, until the service is stopped.

        FDPOLL=0: systemd drops one that polls as EPOLLERR, which a BPF map's does, always.
        """
        self._tell(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}", fd)

    def forget(self, name: str) -> None:
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def wait(self) -> None:
        """Returns when systemd has taken all that it was told: what it learns from a process that is gone by
        then, it cannot place."""
        if not self.present:
            return
        ours, theirs = os.pipe()
        self._tell("BARRIER=1", theirs)
        os.close(theirs)
        poller = select.poll()
        poller.register(ours, 0)  # POLLHUP is always told
        poller.poll(_BARRIER_MS)
        os.close(ours)

    def _tell(self, message: str, *fds: int) -> None:
        if not self.present:
            return
        try:
            _daemon().notify(message, fds=fds)
            self._heard = True
        except OSError as error:
            if self._heard:  # told once until it is over
                log.warning("systemd cannot be told how it goes (NOTIFY_SOCKET): %s", error)
            self._heard = False


def watchdog_seconds() -> float | None:
    """How long systemd waits for a sign of life before it ends and restarts us; None: it does not."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() and len(text) < 20 and int(text) else None


def _daemon() -> Any:  # a foreign module, without types
    try:
        from systemd import daemon
    except ImportError as error:
        raise TcpmonError(
            f"systemd started this, and its Python binding cannot be imported ({error})",
            "install it: apt install python3-systemd",
        ) from None
    return daemon
