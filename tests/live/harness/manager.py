"""What systemd does for a service, by its protocols (sd_notify, sd_listen_fds): hears it, keeps its
descriptors, and starts it with them. systemd itself does it in the virtual machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

_MAX_MESSAGE, _MAX_FDS = 4096, 16
# Puts the descriptors where sd_listen_fds looks for them, and becomes the service
_START = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 1000) for fd in sys.argv[1].split(",") if fd]
for number, fd in enumerate(fds, 3):
    os.dup2(fd, number)
os.closerange(3 + len(fds), 2000)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """A service manager with a descriptor store, for one service."""

    def __init__(self, folder: Path, watchdog_s: float = 0) -> None:
        self.sockets: dict[str, int] = {}
        self.store: dict[str, int] = {}
        self.heard: list[str] = []
        self._watchdog_s = watchdog_s
        self._path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._path)
        self._thread = threading.Thread(target=self._hear_all)
        self._thread.start()

    def launch(self, command: list[str], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts the service with its sockets and all that it left here."""
        fds = [*self.sockets.values(), *self.store.values()]
        return subprocess.Popen(
            [sys.executable, "-c", _START, ",".join(map(str, fds)), *command],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            pass_fds=fds,
            env={**os.environ, **self._environment()},
        )

    def _environment(self) -> Mapping[str, str]:
        names = [*self.sockets, *self.store]
        found = {"NOTIFY_SOCKET": self._path}
        if names:
            found |= {"LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
        if self._watchdog_s:
            found["WATCHDOG_USEC"] = str(round(self._watchdog_s * 1e6))
        return found

    def drop(self) -> None:
        """The service is stopped: nothing is kept."""
        while self.store:
            os.close(self.store.popitem()[1])

    def last(self, name: str) -> str:
        """The latest value told under a name; empty if none was."""
        return next(
            (line[len(name) + 1 :] for line in reversed(self.heard) if line.startswith(name + "=")), ""
        )

    def _hear_all(self) -> None:
        while True:
            data, fds, _flags, _peer = socket.recv_fds(self._socket, _MAX_MESSAGE, _MAX_FDS)
            lines = data.decode().splitlines()
            if lines == ["end"]:
                return
            self._take(dict(line.split("=", 1) for line in lines), fds)
            self.heard += lines

    def _take(self, message: Mapping[str, str], fds: list[int]) -> None:
        name = message.get("FDNAME", "")
        if "FDSTORE" in message:
            assert message["FDPOLL"] == "0", "systemd would drop a map at once"
            assert name not in self.store, f"{name} twice"
            (self.store[name],) = fds
            return
        if "FDSTOREREMOVE" in message:
            os.close(self.store.pop(name))
        for fd in fds:  # a barrier's end is told by closing it
            os.close(fd)

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.sendto(b"end", self._path)
        self._thread.join()
        self._socket.close()
        self.drop()
