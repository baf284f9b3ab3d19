"""What stands for journald in tests: its socket, and its native protocol read back."""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from pathlib import Path

ENOUGH_SECONDS = 60


def fields(entry: bytes) -> Mapping[str, bytes]:
    """The fields of an entry; each may be there but once."""
    found: dict[str, bytes] = {}
    while entry:
        line, _end, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = 8 + int.from_bytes(entry[:8], "little")
            value, entry = entry[8:size], entry[size + 1 :]
        assert name.decode() not in found
        found[name.decode()] = value
    return found


class JournalSocket:
    """A socket that takes entries only when it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.settimeout(ENOUGH_SECONDS)

    def take(self, count: int) -> list[Mapping[str, bytes]]:
        """The next entries, once they are there."""
        return [fields(self._sock.recv(1 << 16)) for _ in range(count)]

    def is_empty(self) -> bool:
        return not select.select([self._sock], [], [], 0)[0]

    def close(self) -> None:
        """As when it is gone for good."""
        self._sock.close()
        self.path.unlink(missing_ok=True)
