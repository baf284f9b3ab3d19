"""Events at speed: while whoever reads the ring keeps up none is lost; beyond that each is counted."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from harness.daemon import Daemon
from harness.helpers import Helpers
from harness.netns import Netns
from harness.polling import eventually, settled
from harness.tool import LOST, Tool, command
from helpers.told import EVENTS, WRITTEN, both_ends, config, play

from tests.soak.journald import StandIn

STEADY, PAUSE_US = 1009, "700"
FLOOD = 5003
STUCK = 20_011  # a tool's ring has room for some 43,000 events
StartTool = Callable[..., Tool]


def test_the_journal_keeps_up(
    journal: StandIn, tmp_path: Path, ns: Netns, helpers: Helpers, comm: str
) -> None:
    """At a thousand connections a second and the default buffer: all are there."""
    with Daemon(tmp_path, config(ns), launch=journal.launch) as daemon:
        play(ns, helpers, [comm], STEADY, PAUSE_US)
        daemon.expect(both_ends(STEADY), ns, comm)
        settled(lambda: expect_entries(journal, daemon, EVENTS * STEADY, lost=0))
        assert set(journal.entries().values()) == {STEADY}


def test_more_than_the_journal_takes(
    journal: StandIn, tmp_path: Path, ns: Netns, helpers: Helpers, comm: str
) -> None:
    """At full speed, with a small buffer."""
    comms = [comm + ".1", comm + ".2"]
    with Daemon(tmp_path, config(ns, buffer="16KiB"), lossy=True, launch=journal.launch) as daemon:
        play(ns, helpers, comms, FLOOD)
        for each in comms:
            daemon.expect(both_ends(FLOOD), ns, each)

        def check() -> None:
            losses = daemon.losses()
            assert set(losses) == {"event_ring"}
            lost = round(losses["event_ring"])
            expect_entries(journal, daemon, 2 * EVENTS * FLOOD - lost, lost)

        settled(check)
        assert max(journal.entries().values()) <= FLOOD


def expect_entries(journal: StandIn, daemon: Daemon, written: int, lost: float) -> None:
    scrape = daemon.scrape("tcpmon_")
    got = sum(journal.entries().values()), scrape.value(WRITTEN), sum(scrape.losses().values())
    assert got == (written, written, lost)


def test_a_tool_keeps_up(start_tool: StartTool, ns: Netns, helpers: Helpers, comm: str) -> None:
    tool = start_tool("tcptracer", "-v", "-N", ns.inum)
    play(ns, helpers, [comm], STEADY, PAUSE_US)

    def check() -> None:
        kinds = Counter(row["TYPE"] for row in tool.rows())
        assert kinds == {"connect": STEADY, "accept": STEADY, "close": 2 * STEADY}

    settled(check)


def test_a_tool_whose_reader_is_stuck(tmp_path: Path, ns: Netns, helpers: Helpers, comm: str) -> None:
    """It waits with a full pipe while its ring overflows; when the reader goes on, it has what there was room
    for, and stderr says how many events that are not."""
    lines, said = tmp_path / "lines", tmp_path / "said"
    with (
        lines.open("wb") as out,
        said.open("wb") as errors,
        subprocess.Popen(
            command("tcptracer", "-v", "-N", ns.inum), stdout=subprocess.PIPE, stderr=errors
        ) as tool,
        subprocess.Popen(["cat"], stdin=tool.stdout, stdout=out) as reader,
    ):
        assert tool.stdout
        tool.stdout.close()
        eventually(lambda: expect_lines(lines, 2), 30)
        os.kill(reader.pid, signal.SIGSTOP)
        play(ns, helpers, [comm], STUCK)
        os.kill(reader.pid, signal.SIGCONT)

        def all_are_somewhere() -> None:
            lost = sum(int(number) for _tool, number in LOST.findall(said.read_text()))
            assert lost
            expect_lines(lines, 2 + EVENTS * STUCK - lost)

        try:
            settled(all_are_somewhere)
        finally:
            tool.send_signal(signal.SIGINT)
        assert tool.wait(30) == 0
        assert reader.wait(30) == 0
    assert not LOST.sub("", said.read_text()).strip()


def expect_lines(path: Path, count: int) -> None:
    assert path.read_bytes().count(b"\n") == count
