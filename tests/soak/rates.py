"""`python -m tests.soak.rates`: how many events a second journald and a tool's reader can be told of.

At each of some rates a few programs connect to themselves for a while; what was told and what was lost must
come to what happened. The highest rate at which nothing was lost is what keeps up. Run as root from the
checkout's root, on a machine with nothing else to do.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.daemon import Daemon
from harness.helpers import Helpers, build
from harness.netns import Netns, netns
from harness.polling import settled
from harness.tool import Tool

from tests.bench.table import table
from tests.soak.journald import StandIn

EVENTS_PER_CONNECTION = 4  # connect, accept and two closes
PORT = 4242
SECONDS = 5.0
# Programs, and the pause of each after a connection in microseconds: rising rates
STEPS = ((1, 2000), (1, 500), (1, 100), (2, 100), (1, 0), (2, 0), (4, 0))
# How many were told, and how many were lost, so far
Told = Callable[[Netns], tuple[int, int]]


@dataclass(frozen=True)
class Step:
    rate: float
    happened: int
    lost: int


def play(ns: Netns, helpers: Helpers, programs: int, pause_us: int) -> tuple[int, float]:
    """Events, and how many a second."""
    ns.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
    path = str(helpers.folder / "bin" / "loop")
    start = time.monotonic()
    loops = [
        ns.exec(path, "0", f"127.0.0.{number}", str(PORT), str(pause_us)) for number in range(1, programs + 1)
    ]
    time.sleep(SECONDS)
    for loop in loops:
        loop.terminate()
    events = EVENTS_PER_CONNECTION * sum(int(loop.communicate()[0]) for loop in loops)
    return events, events / (time.monotonic() - start)


def measured(ns: Netns, helpers: Helpers, told: Told) -> Iterator[Step]:
    """AssertionError where an event is neither told nor lost."""
    for programs, pause_us in STEPS:
        before = told(ns)
        events, rate = play(ns, helpers, programs, pause_us)

        def all_are_somewhere(want: int = sum(before) + events) -> tuple[int, int]:
            now = told(ns)
            assert sum(now) == want, f"{now} are not {want}"
            return now

        yield Step(rate, events, settled(all_are_somewhere, 60)[1] - before[1])


@contextmanager
def journal(folder: Path, ns: Netns) -> Iterator[Told]:
    for name in ("journal", "journald"):
        (folder / name).mkdir()
    config = {"filters": {"netns": [ns.name]}, "events": {"journal": True, "rate_limit": 0}}
    stand_in = StandIn(folder / "journald")
    with ExitStack() as made:
        made.callback(stand_in.close)
        daemon = made.enter_context(Daemon(folder / "journal", config, lossy=True, launch=stand_in.launch))
        yield lambda _ns: (
            sum(stand_in.entries().values()),
            round(sum(daemon.scrape("tcpmon_lost_events_total").losses().values())),
        )


@contextmanager
def tool(folder: Path, ns: Netns) -> Iterator[Told]:
    (folder / "tool").mkdir()
    with Tool(folder / "tool", "tcptracer", "-N", ns.inum, lossy=True) as running:
        running.ready()
        yield lambda _ns: (len(running.lines()), running.lost())


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        helpers = build(folder)
        for subject in (journal, tool):
            with netns() as ns, subject(folder, ns) as told:
                steps = list(measured(ns, helpers, told))
            rows = [(f"{step.rate:,.0f}", f"{step.happened:,}", f"{step.lost:,}") for step in steps]
            kept = max((step.rate for step in steps if not step.lost), default=0.0)
            print(table((f"{subject.__name__}: events a second", "events", "lost"), rows))
            print(f"\nnothing lost up to {kept:,.0f} events a second\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
