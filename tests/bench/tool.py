"""What it takes a tool to print an event, beside what it takes the naive script to count one."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import subjects
from tests.bench.loops import EVENTS_PER_CONNECTION, LOOP_PORT, Plan, loop
from tests.bench.scrape import until
from tests.bench.subjects import BenchError, Subject
from tests.bench.world import namespace

SETTLE_SECONDS = 5.0
_LOST = re.compile(rb"lost (\d+) events")


@dataclass(frozen=True)
class Run:
    """Events that one run of the loop made, how many of them a second, how many were lost, and how many the
    process in user space could take for each second of a CPU's time."""

    events: int
    rate: float
    lost: int
    per_cpu_second: float


@dataclass(frozen=True)
class Output:
    """A tool that prints to a file."""

    subject: Subject
    lines: Path

    def count(self) -> int:
        return self.lines.read_bytes().count(b"\n") - 2  # the start line, the header

    def lost(self) -> int:
        return sum(map(int, _LOST.findall(self.subject.log.read_bytes())))


@contextlib.contextmanager
def tcptracer(folder: Path, netns: str) -> Iterator[Output]:
    lines, log = folder / "tcptracer.out", folder / "tcptracer.err"
    command = [sys.executable, "-m", "tcpmon", "tcptracer", "-N", netns]
    with lines.open("wb") as out, log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, start_new_session=True)
    output = Output(Subject(process, "", log, time.monotonic()), lines)
    try:
        if not until(lambda: output.count() == 0 or output.subject.gone(), subjects.START_SECONDS):
            raise output.subject.failed()
        yield output
    finally:
        output.subject.stop()


def printed(plan: Plan) -> Run:
    """tcptracer to a file, while the loop runs in its namespace."""
    due = EVENTS_PER_CONNECTION * plan.connections
    with namespace() as ns:
        with tcptracer(plan.folder, ns.inum) as tool:
            before = tool.subject.cpu_ticks()
            rate = loop(plan, ns, plan.connections)
            until(lambda: tool.count() == due, SETTLE_SECONDS, 0.2)
            ticks = tool.subject.cpu_ticks() - before
        # Losses are told at the end, if not before
        return _run(due, rate, tool.count(), tool.lost(), ticks)


def counted(plan: Plan) -> Run:
    """The naive script, which prints nothing."""
    due = EVENTS_PER_CONNECTION * plan.connections
    with namespace() as ns, subjects.naive(plan.folder) as script:
        script.wait_ready()
        before = script.cpu_ticks()
        rate = loop(plan, ns, plan.connections)
        time.sleep(1)  # its buffers are read every 0.2 s
        ticks = script.cpu_ticks() - before
        words = script.last_words()
    got = words["events"].get(str(LOOP_PORT), 0)
    return _run(due, rate, got, words["lost"], ticks)


def _run(due: int, rate: float, got: int, lost: int, ticks: int) -> Run:
    if not got or not ticks:
        raise BenchError(f"{got} events in {ticks} ticks: too little to measure")
    seconds = ticks / subjects.TICKS_PER_SECOND
    return Run(due, rate * EVENTS_PER_CONNECTION, max(lost, due - got), got / seconds)
