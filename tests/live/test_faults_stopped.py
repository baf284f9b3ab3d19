"""The daemon stands still: the kernel counts on, and what finds no room in its ring is counted as lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.helpers import Helpers
from harness.metrics import Counts, parse
from harness.netns import Netns
from harness.polling import settled

from tests.soak.journald import StandIn

PORT = 4242
COUNT = 3001  # twice the events that a ring of 1 MiB has room for
# How long it stands still besides; a minute is `TCPMON_STOPPED_S=60`
STOPPED_S = float(os.environ.get("TCPMON_STOPPED_S", "0"))
WRITTEN, LOST = "tcpmon_journal_events_total", "tcpmon_lost_events_total"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[StandIn]:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    place = tmp_path / "journald"
    place.mkdir()
    made = StandIn(place)
    yield made
    made.close()


def config(ns: Netns, **events: Any) -> dict[str, Any]:
    return {"filters": {"netns": [ns.name]}, "events": {"journal": True, "rate_limit": 0, **events}}


def both_ends(count: int) -> Counts:
    return Counts(attempts=count, connects=count, accepts=count, closes_client=count, closes_server=count)


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def loop(ns: Netns, helpers: Helpers, comm: str, *arguments: str) -> subprocess.Popen[str]:
    return ns.exec(helpers.named("loop", comm), arguments[0], "127.0.0.1", str(PORT), *arguments[1:])


def load(ns: Netns, helpers: Helpers, comm: str) -> int:
    """Connections of a process with itself: how many."""
    with loop(ns, helpers, comm, str(COUNT)) as first:
        assert first.wait(60) == 0
    if not STOPPED_S:
        return COUNT
    (helpers.folder / comm).unlink()
    with loop(ns, helpers, comm, "0", "1000") as longer:
        time.sleep(STOPPED_S)
        longer.terminate()
        return COUNT + int(longer.communicate()[0])


@pytest.mark.parametrize("buffer", ["4KiB", "1MiB"])
def test_stopped_under_load(
    journal: StandIn, tmp_path: Path, ns: Netns, helpers: Helpers, comm: str, buffer: str
) -> None:
    """No count is missing afterwards; of the events each is in the journal or among the lost of one stage;
    and who asked for a scrape meanwhile has it then, with all that happened."""
    settings = config(ns, buffer=buffer)
    with (
        Daemon(tmp_path, settings, lossy=True, launch=journal.launch) as daemon,
        ThreadPoolExecutor(1) as asking,
    ):
        with stopped(daemon):
            answer = asking.submit(daemon.get)
            count = load(ns, helpers, comm)
        daemon.expect(both_ends(count), ns, comm, port=str(PORT))
        assert parse(answer.result()).counts(comm=comm) == both_ends(count)

        def all_are_somewhere() -> None:
            scrape, entries = daemon.scrape("tcpmon_"), journal.entries()
            assert set(scrape.losses()) == {"event_ring"}
            assert sum(entries.values()) == scrape.value(WRITTEN)
            assert sum(entries.values()) + scrape.value(LOST, stage="event_ring") == 4 * count
            assert max(entries.values()) <= count

        settled(all_are_somewhere)
