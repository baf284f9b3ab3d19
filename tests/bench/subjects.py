"""The two that are measured: tcpmon's daemon, and the naive script beside it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.scrape import until

LOG_LINES = 10
# An emulated machine is ten to twenty times slower (tests/vm)
PATIENCE = float(os.environ.get("TCPMON_PATIENCE", "1"))
START_SECONDS = STOP_SECONDS = 30.0 * PATIENCE
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The bench cannot go on, or a number that must be exact is not."""


@dataclass(frozen=True)
class Subject:
    """A running process that serves /metrics. `launched` is time.monotonic() just before its exec."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    launched: float

    def proc(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text(errors="replace")

    def memory_mib(self, field: str = "VmRSS") -> float:
        return int(status_field(self.proc("status"), field)) / 1024

    def cpu_ticks(self) -> int:
        """User and system time of all its threads, in clock ticks."""
        return ticks_of(self.process.pid)

    def voluntary_switches(self) -> int:
        """How often its threads have gone to sleep, and so were woken."""
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int(status_field((t / "status").read_text(), "voluntary_ctxt_switches")) for t in threads)

    def wait_ready(self) -> None:
        if not until(lambda: ": ready" in self.log.read_text() or self.gone(), START_SECONDS) or self.gone():
            raise self.failed()

    def failed(self) -> BenchError:
        """An error that says how its output ends."""
        return BenchError("\n".join([f"no {self.url}:", *self.log.read_text().splitlines()[-LOG_LINES:]]))

    def gone(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not end."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> dict[str, Any]:
        """Stops it; what the JSON of the last line it printed says."""
        self.stop()
        return dict(json.loads(self.log.read_text().splitlines()[-1]))


def ticks_of(pid: int) -> int:
    """User and system time of all threads of a process, in clock ticks."""
    stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    utime, stime = stat.rpartition(")")[2].split()[11:13]
    return int(utime) + int(stime)


def status_field(status: str, field: str) -> str:
    return next(line.split()[1] for line in status.splitlines() if line.startswith(f"{field}:"))


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def free_port() -> int:
    with listener() as server:
        return int(server.getsockname()[1])


def whole_connection(server: socket.socket) -> None:
    """Connects to `server`, accepts and closes."""
    client = socket.create_connection(server.getsockname())
    server.accept()[0].close()
    client.close()


@contextlib.contextmanager
def launched(argv: list[str], port: int, folder: Path) -> Iterator[Subject]:
    """Starts it, out of reach of the terminal's Ctrl-C, which is the bench's; stops it in the end."""
    log = folder / f"{port}.log"
    with log.open("wb") as out:
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", *argv], stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    subject = Subject(process, f"http://127.0.0.1:{port}/metrics", log, start)
    try:
        yield subject
    finally:
        subject.stop()


@contextlib.contextmanager
def tcpmon(folder: Path, settings: str = "") -> Iterator[Subject]:
    """The daemon with its defaults, but for the port and `settings` (YAML). It may not be ready yet."""
    port = free_port()
    config = folder / f"{port}.yaml"
    config.write_text(f"listen: 127.0.0.1:{port}\n{settings}\n")
    with launched(["tcpmon", "run", "-c", str(config)], port, folder) as subject:
        yield subject


@contextlib.contextmanager
def naive(folder: Path) -> Iterator[Subject]:
    """The naive script. It may not be ready yet."""
    port = free_port()
    with launched(["tests.bench.naive", str(port)], port, folder) as subject:
        yield subject
