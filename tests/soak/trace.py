"""The witness with another first count: by a trace instance of its own, and not by perf.

A BPF program that hangs on the tracepoint by perf and returns 0, as bcc's do, keeps its events from all
counters of perf; a soak takes long enough for somebody to start one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.witness import EVENT, Witness

from tcpmon.kernel.attach import TRACEFS

# Of a CPU's buffer: what is in it, and what is not any more, or never was
_COUNTS = re.compile(r"^(?:entries|overrun|commit overrun|dropped events|read events): (\d+)$", re.MULTILINE)


class TraceWitness(Witness):
    """Counts from its making to `close`."""

    def __init__(self) -> None:
        root = next(found for found in TRACEFS if (found / "instances").is_dir())
        self._instance = root / "instances" / f"tcpmon-{os.getpid()}"
        self._instance.mkdir()
        (self._instance / "buffer_size_kb").write_text("4")
        self._enable("1")
        super().__init__()

    def close(self) -> None:
        super().close()
        self._enable("0")
        self._instance.rmdir()

    def _enable(self, value: str) -> None:
        (self._instance / "events" / "sock" / EVENT / "enable").write_text(value)

    def _happened(self) -> int:
        texts = map(Path.read_text, self._instance.glob("per_cpu/cpu*/stats"))
        return sum(int(count) for text in texts for count in _COUNTS.findall(text))
