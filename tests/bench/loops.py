"""The work that is traced: loops that make connections, and how much of it there is to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench.subjects import BenchError
from tests.bench.world import Namespace

LOOP_PORT = 7007
LOOP_COMM = "loop"
EVENTS_PER_CONNECTION = 4  # connect, accept and two closes


@dataclass(frozen=True)
class Plan:
    """How much to do, and `folder` with the compiled helpers and room for logs. A slice is `connections` by
    the loop on two CPUs, `alone` by the one on one CPU, and `requests` to a web server (0: there is none)."""

    rounds: int
    connections: int
    alone: int
    requests: int
    tool_rounds: int
    idle_seconds: int
    scrapes: int
    folder: Path


def loop(plan: Plan, ns: Namespace, connections: int) -> float:
    """Connections a second of the loop on two CPUs. If it ends without a word, the kernel's own fault has
    killed one of its threads."""
    words = ns.run(plan.folder / "loop", str(LOOP_PORT), str(connections)).split()
    if len(words) != 2:
        raise BenchError("the loop ended without a result; see dmesg: did the kernel oops?")
    return int(words[0]) / float(words[1])


def alone(plan: Plan, ns: Namespace, connections: int) -> float:
    """Microseconds of a connection on one CPU: the median of the chunks that the program tells."""
    command = [plan.folder / "alone", "0", "127.0.0.1", str(LOOP_PORT), LOOP_COMM, str(connections)]
    return median(map(int, ns.run(*command).split())) / 1000
