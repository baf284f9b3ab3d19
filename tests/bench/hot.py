"""`python -m tests.bench.hot`: what it costs that two CPUs count for the same label set, as a Markdown table.

The kernel times tcpmon's BPF programs under loops of connections: one loop on one CPU; two loops on two CPUs
that count for one label set; and two that count for two. What the second takes more than the third is the
lines of cache that the CPUs take from each other. docs/hot-keys.md reasons on it. Run as root from the
checkout's root.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import bpfstats, subjects
from tests.bench.figures import spread
from tests.bench.loops import LOOP_PORT
from tests.bench.subjects import BenchError
from tests.bench.table import table
from tests.bench.world import Namespace, bpf_statistics, compiled, machine, namespace

CONNECTIONS = 6000


@dataclass(frozen=True)
class Loop:
    """One process of tests/bench/alone.c. Address and port name its listener; comm and port its label set."""

    cpu: int
    address: str
    comm: str


FIRST = Loop(0, "127.0.0.1", "hot")
SCENES = {
    "one CPU": (FIRST,),
    "two CPUs, one label set": (FIRST, Loop(1, "127.0.1.1", "hot")),
    "two CPUs, two label sets": (FIRST, Loop(1, "127.0.1.1", "hotter")),
}

ADDS = ("one CPU", "two CPUs, one word", "two CPUs, a line each")


@dataclass(frozen=True)
class Spent:
    """Of a connection's whole life, both ends: µs that it took, ns in BPF programs, and these by program."""

    alone_us: float
    bpf_ns: float
    programs: dict[str, float]


def command(folder: Path, ns: Namespace, loop: Loop) -> list[str]:
    arguments = (loop.cpu, loop.address, LOOP_PORT, loop.comm, CONNECTIONS)
    return ["ip", "netns", "exec", ns.name, str(folder / "alone"), *map(str, arguments)]


def scene(folder: Path, ns: Namespace, loops: tuple[Loop, ...], others: set[int]) -> Spent:
    """Runs the loops at once."""
    before = bpfstats.programs()
    running = [
        subprocess.Popen(
            command(folder, ns, loop),
            stdout=subprocess.PIPE,
            text=True,
        )
        for loop in loops
    ]
    chunks = [int(line) for process in running for line in process.communicate()[0].split()]
    if any(process.returncode for process in running):
        raise BenchError("a loop failed")
    made = CONNECTIONS * len(loops)
    programs: dict[str, float] = {}
    for ran in bpfstats.since(before, others):
        programs[ran.name] = programs.get(ran.name, 0.0) + ran.ns / made
    return Spent(median(chunks) / 1000, sum(programs.values()), programs)


def measured(rounds: int, folder: Path) -> dict[str, list[Spent]]:
    found: dict[str, list[Spent]] = {name: [] for name in SCENES}
    others = set(bpfstats.programs())
    with bpf_statistics(), subjects.tcpmon(folder) as daemon:
        daemon.wait_ready()
        for _ in range(rounds):
            for name, loops in SCENES.items():
                with namespace() as ns:
                    found[name].append(scene(folder, ns, loops, others))
    return found


def report(found: dict[str, list[Spent]], atomics: list[list[float]]) -> str:
    rows = [
        (name, spread([s.alone_us for s in spent], ".1f"), spread([s.bpf_ns for s in spent], ",.0f"))
        for name, spent in found.items()
    ]
    _, same, apart = found.values()
    more = [one.bpf_ns - other.bpf_ns for one, other in zip(same, apart, strict=True)]
    adds = [spread(list(column), ".1f") for column in zip(*atomics, strict=True)]
    parts = [
        table(("", ""), machine().items()),
        table(("a connection, both ends", "µs in all", "ns in BPF"), rows),
        f"One label set takes {spread(more, ',.0f')} ns more than two, round by round.",
        table(("ns of it by program", *found), by_program(found)),
        table(("an atomic add", "ns"), zip(ADDS, adds, strict=True)),
    ]
    return "\n\n".join(parts)


def by_program(found: dict[str, list[Spent]]) -> list[tuple[str, ...]]:
    names = {name for spent in found.values() for one in spent for name, ns in one.programs.items() if ns}
    return [
        (name, *(f"{median(one.programs.get(name, 0.0) for one in spent):.0f}" for spent in found.values()))
        for name in sorted(names)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hot")
    parser.add_argument("-n", "--rounds", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program in ("alone", "atomics"):
            compiled(program, folder)
        try:
            found = measured(args.rounds, folder)
            runs = [subprocess.check_output([folder / "atomics"], text=True) for _ in range(5)]
        except (BenchError, subprocess.CalledProcessError) as error:
            print(f"hot: {error}", file=sys.stderr)
            return 1
    print(report(found, [[float(word) for word in run.split()] for run in runs]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
