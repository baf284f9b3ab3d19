"""Real journal files, made of records without journald: by systemd-journal-remote, from the export format."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from eventrecords import EVENT
from journalsocket import ENOUGH_SECONDS, fields

from tcpmon.events.fields import Entries

_REMOTE = shutil.which("systemd-journal-remote", path="/lib/systemd:/usr/lib/systemd")
_BOOT_ID = "c2f4f8b0a6d14dd5a5a8a1d9f6a3a2a1"

needs_remote = pytest.mark.skipif(
    _REMOTE is None and os.environ.get("CI") != "true", reason="systemd-journal-remote is not installed"
)


@dataclass(frozen=True)
class Logged:
    """An entry, and when it was written, in microseconds since the epoch."""

    at_us: int
    entry: bytes


def logged(records: Sequence[bytes], delay_us: int = 0) -> list[Logged]:
    """As journald would have them, each so much later than it happened."""
    made = Entries(EVENT).of(b"".join(records))
    return [Logged(int(fields(entry)["TCPMON_TIMESTAMP"]) + delay_us, entry) for entry in made]


class JournalFiles:
    """A directory with a journal that is being written."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        command = [str(_REMOTE), "--output", str(directory / "test.journal"), "-"]
        self._remote = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    def write(self, entries: Sequence[Logged]) -> None:
        """Returns before they are in the file."""
        assert self._remote.stdin
        for one in entries:
            stamps = (
                f"__REALTIME_TIMESTAMP={one.at_us}\n__MONOTONIC_TIMESTAMP={one.at_us}\n_BOOT_ID={_BOOT_ID}\n"
            )
            self._remote.stdin.write(stamps.encode() + one.entry + b"\n")
        self._remote.stdin.flush()

    def close(self) -> None:
        """Once all is in the file."""
        if self._remote.returncode is None:
            _said, complaints = self._remote.communicate(timeout=ENOUGH_SECONDS)
            assert self._remote.returncode == 0, complaints
