"""What stands for journald: the daemon sees it where journald's socket is, and nobody else does."""

from __future__ import annotations

import select
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from harness.workload import Child, Link, spawn
from journalsocket import fields

from tcpmon.events.journald import SOCKET

from .ledger import Ledger, told


class StandIn:
    """A process that takes all entries, and counts them. To be closed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child: Child = spawn(None, "soak-journald", _take_all, folder / "socket")
        self._child.hear()

    def launch(self, command: list[str], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts the daemon with this socket in journald's place. What is mounted later it sees too."""
        place = Path(SOCKET).parent
        place.mkdir(parents=True, exist_ok=True)
        script = f'mount --bind "{self._folder}" {place} && exec "$@"'
        within = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"]
        return subprocess.Popen([*within, *command], stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr)

    def entries(self) -> Ledger:
        """All so far."""
        self._child.say()
        found: Ledger = self._child.hear()
        return found

    def close(self) -> None:
        self._child.__exit__(None, None, None)


def _take_all(link: Link, path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        path.chmod(0o666)  # for the daemon, which is not root any more
        sock.setblocking(False)
        link.say()
        found: Ledger = Counter()
        while True:
            ready, _, _ = select.select([sock, link], [], [])
            if sock in ready:
                found.update(told(_waiting(sock)))
            else:
                link.hear()
                link.say(found)


def _waiting(sock: socket.socket) -> Iterator[Mapping[str, bytes]]:
    with suppress(BlockingIOError):
        while True:
            yield fields(sock.recv(1 << 16))
