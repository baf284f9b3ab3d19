"""The daemon stands still: the kernel counts on, and what finds no room in its ring is counted as lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.daemon import SCRAPE_S, Daemon
from harness.helpers import Helpers
from harness.metrics import parse
from harness.netns import Netns
from harness.polling import settled
from helpers.told import EVENTS, PORT, WRITTEN, both_ends, config, play, start

from tests.soak.journald import StandIn

UNTIL_SIGTERM = 0
COUNT = 3001  # twice the events that a ring of 1 MiB has room for
# How long it stands still besides; a minute is `TCPMON_STOPPED_S=60`
STOPPED_S = float(os.environ.get("TCPMON_STOPPED_S", "0"))
LOST = "tcpmon_lost_events_total"


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def load(ns: Netns, helpers: Helpers, comm: str) -> int:
    """Connections of a process with itself: how many."""
    play(ns, helpers, [comm], COUNT)
    if not STOPPED_S:
        return COUNT
    with start(ns, helpers, comm, UNTIL_SIGTERM, "1000") as longer:
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
            answer = asking.submit(daemon.get, patience_s=SCRAPE_S + STOPPED_S)
            count = load(ns, helpers, comm)
        daemon.expect(both_ends(count), ns, comm, port=str(PORT))
        assert parse(answer.result()).counts(comm=comm) == both_ends(count)

        def all_are_somewhere() -> None:
            scrape, entries = daemon.scrape("tcpmon_"), journal.entries()
            assert set(scrape.losses()) == {"event_ring"}
            assert sum(entries.values()) == scrape.value(WRITTEN)
            assert sum(entries.values()) + scrape.value(LOST, stage="event_ring") == EVENTS * count
            assert max(entries.values()) <= count

        settled(all_are_somewhere)
