"""From a restart to READY, under what stands for systemd in the live tests: it keeps the descriptors."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.bench import subjects
from tests.bench.scrape import until
from tests.bench.subjects import BenchError
from tests.live.harness.manager import Manager

READY = "READY=1"
POLL_SECONDS = 0.005


def restart_seconds(folder: Path, times: int) -> list[float]:
    """Of so many restarts, each from the next daemon's exec to its READY; the first start is not among
    them."""
    config = folder / "restart.yaml"
    config.write_text(f"listen: 127.0.0.1:{subjects.free_port()}\n")
    command = [sys.executable, "-m", "tcpmon", "run", "-c", str(config)]
    with Manager(folder) as manager:
        _started_and_ended(manager, command, folder)
        return [_started_and_ended(manager, command, folder) for _ in range(times)]


def _started_and_ended(manager: Manager, command: list[str], folder: Path) -> float:
    manager.heard.clear()
    log = folder / "restart.log"
    with log.open("wb") as said:
        start = time.monotonic()
        process = manager.launch(command, said)
    try:
        until(
            lambda: READY in manager.heard or process.poll() is not None, subjects.START_SECONDS, POLL_SECONDS
        )
        seconds = time.monotonic() - start
        if READY not in manager.heard:
            raise BenchError(f"the service is not ready:\n{log.read_text()}")
    finally:
        process.terminate()
        process.wait()
    return seconds
