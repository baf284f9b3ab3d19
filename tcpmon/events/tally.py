"""How many events the journal took, and how many it did not: kept in a BPF map of user space's own, which
goes from one daemon to the next with all other counts."""

from __future__ import annotations

import struct

from tcpmon.kernel import libbpf
from tcpmon.kernel.load import Table

_WRITTEN, _LOST = 0, 1


class Tally:
    """Counted by one thread, read by any."""

    def __init__(self, table: Table) -> None:
        self._fd = table.fd
        self.written = self._read(_WRITTEN)
        self.lost = self._read(_LOST)

    def add(self, written: int, lost: int) -> None:
        self.written += written
        self.lost += lost
        self._write(_WRITTEN, self.written)
        self._write(_LOST, self.lost)

    def _read(self, index: int) -> int:
        return int.from_bytes(libbpf.lookup(self._fd, struct.pack("=I", index), 8) or b"", "little")

    def _write(self, index: int, number: int) -> None:
        libbpf.update(self._fd, struct.pack("=I", index), struct.pack("=Q", number))
