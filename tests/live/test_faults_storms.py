"""Storms of scrapes and of reloads: each is answered right, nothing is lost, and nothing of them stays."""

from __future__ import annotations

import gzip
import os
import signal
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from harness.daemon import Daemon
from harness.expect import opened
from harness.helpers import Helpers
from harness.metrics import Counts, parse
from harness.netns import Netns
from harness.polling import eventually, settled
from helpers.b_reload import reload
from helpers.b_traffic import ask, client, connect, hold, release, server
from helpers.told import PORT, both_ends, config, play, start

from tests.soak.figures import Sample, sample
from tests.soak.journald import StandIn
from tests.soak.ledger import difference

TOLD = ("connects", "accepts", "closes client", "closes server")
AT_ONCE, STORMS, SIGHUPS = 50, 8, 200
COUNT, OPEN, LOOPS = 7, 3, 1009
# What the first storms leave in heaps and pools is used again; a leak grows with each
MORE_KIB = 1024
KINDS = [
    {},
    {"Accept": "application/openmetrics-text; version=1.0.0"},
    {"Accept-Encoding": "gzip"},
]


def scrape(daemon: Daemon, headers: dict[str, str]) -> str:
    """A whole answer, decoded; it ends as it has to."""
    request = urllib.request.Request(daemon.url, headers=headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        body = answer.read()
        text = (gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body).decode()
    assert "\ntcpmon_build_info{" in text
    assert text.endswith("# EOF\n") == ("Accept" in headers)
    return text


def storm(daemon: Daemon) -> list[str]:
    """What all of them were answered."""
    kinds = [KINDS[number % len(KINDS)] for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as crowd:
        return list(crowd.map(partial(scrape, daemon), kinds))


def at_rest(daemon: Daemon, before: Sample) -> Sample:
    """Its size once it has no more threads and descriptors than before."""

    def check() -> Sample:
        now = sample(daemon.pid)
        assert now.threads <= before.threads, f"{now} {before}"
        assert now.descriptors <= before.descriptors, f"{now} {before}"
        return now

    return eventually(check)


def test_fifty_scrapes_at_once(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """Each has all that happened, some of it still open, in whichever format and encoding."""
    daemon = start_daemon({"filters": {"netns": [ns.name]}})
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, connect, ("127.0.0.1", port), COUNT)
        ask(asking, hold, ("127.0.0.1", port), OPEN)
        want = Counts(COUNT + OPEN, COUNT + OPEN, 0, {}, COUNT, 0, OPEN)
        daemon.expect(want, ns, comm)
        before, sizes = sample(daemon.pid), []
        for _ in range(STORMS):
            for text in storm(daemon):
                assert parse(text, f'comm="{comm}"').counts(comm=comm) == want
            sizes.append(at_rest(daemon, before).rss_kib)
        ask(asking, release)
        daemon.expect(opened(COUNT + OPEN), ns, comm)
    early, late = sizes[: STORMS // 2], sizes[STORMS // 2 :]
    assert median(late) - median(early) <= MORE_KIB, sizes


def test_reloads_amid_traffic_and_scrapes(
    journal: StandIn, tmp_path: Path, ns: Netns, helpers: Helpers, comm: str
) -> None:
    """As fast as signals go, every other file with a fault: no event is lost to the journal, no count is
    missing, and the last file is in force."""
    good = config(ns, buffer="8MiB")
    with Daemon(tmp_path, good, launch=journal.launch) as daemon:
        play(ns, helpers, [comm], COUNT)  # connects it to the journal
        daemon.expect(both_ends(COUNT), ns, comm)
        before = sample(daemon.pid)
        with start(ns, helpers, comm, LOOPS, "100") as loop, ThreadPoolExecutor(2) as crowd:
            scrapes = [crowd.submit(scrape, daemon, kind) for kind in KINDS * 5]
            for number in range(SIGHUPS):
                daemon.write_config(good if number % 2 else {"no_such_key": number})
                os.kill(daemon.pid, signal.SIGHUP)
            assert loop.wait(60) == 0
            assert all(each.result() for each in scrapes)
        daemon.expect(both_ends(COUNT + LOOPS), ns, comm, port=str(PORT))
        want = {(ns.inum, comm, str(PORT), what): COUNT + LOOPS for what in TOLD}
        settled(lambda: expect_entries(journal, want))
        reload(daemon, {**good, "filters": {"netns": [ns.name], "comm": {"exclude": [comm]}}})
        play(ns, helpers, [comm], COUNT)
        daemon.expect(both_ends(COUNT + LOOPS), ns, comm, port=str(PORT))
        at_rest(daemon, before)


def expect_entries(journal: StandIn, want: dict[tuple[str, str, str, str], int]) -> None:
    got = journal.entries()
    assert got == want, difference(got, want)  # type: ignore[arg-type]
