"""The wall clock set back: it dates entries and reloads, and no count nor duration comes of it."""

from __future__ import annotations

import os
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import IO

import pytest
from harness.daemon import Daemon
from harness.expect import opened
from harness.metrics import Counts
from harness.netns import Netns
from harness.require import require
from helpers.b_reload import STAMP
from helpers.b_traffic import ask, client, connect, hold, release, server
from helpers.libraries import faketime

COUNT = 7
DAY_S = 86400


def launch(clock: Path, command: list[str], stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    """With a wall clock that the file `clock` sets; the machine's is nobody's to set."""
    library = faketime()
    require(library is not None, "libfaketime (package faketime) is not installed")
    fake = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env={**os.environ, **fake}
    )


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    path = tmp_path / "clock"
    path.write_text("+0\n")
    return path


def test_set_back_a_day(clock: Path, tmp_path: Path, ns: Netns, comm: str) -> None:
    """Amid open connections, between scrapes."""
    config = {"filters": {"netns": [ns.name]}}
    start = time.monotonic()
    with (
        Daemon(tmp_path, config, launch=partial(launch, clock)) as daemon,
        server(ns, comm + ".s") as (_, [port]),
        client(ns, comm) as asking,
    ):
        ask(asking, hold, ("127.0.0.1", port), COUNT)
        daemon.expect(Counts(attempts=COUNT, connects=COUNT, open_client=COUNT), ns, comm)
        before = daemon.scrape().value(STAMP)
        clock.write_text(f"-{DAY_S}\n")
        assert daemon.reload(config)
        scrape = daemon.scrape()
        assert scrape.value(STAMP) < before - DAY_S / 2, "the clock was not set back"
        ask(asking, release)
        ask(asking, connect, ("127.0.0.1", port), COUNT)
        scrape = daemon.expect(opened(2 * COUNT), ns, comm)
        elapsed = time.monotonic() - start
        for name in ("tcpmon_connection_duration_seconds_sum", "tcpmon_connect_latency_seconds_sum"):
            assert 0 <= scrape.sum(name) <= 4 * COUNT * elapsed
        assert 0 <= daemon.scrape().value("tcpmon_scrape_duration_seconds") <= elapsed
        daemon.get("/status.json")
