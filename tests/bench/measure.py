"""The measurements. Each starts what it measures, and leaves nothing running."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import rendering, subjects
from tests.bench.exact import Done, check_counts
from tests.bench.rendering import Against
from tests.bench.scrape import discard, every_second, samples, single, until
from tests.bench.subjects import BenchError, Subject
from tests.bench.world import Namespace, bpf_statistics, namespace

LOOP_PORT = 7007
FIRST_LABEL_PORT = 20000
LABEL_COMMS = LABEL_PORTS = 100
EVENTS_PER_CONNECTION = 4  # connect, accept and two closes
# Work of the start itself (a last collection of garbage, say) is not idleness.
CALM_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """How much to do, and `folder` with the compiled helpers and room for logs."""

    rounds: int
    connections: int
    idle_seconds: int
    scrapes: int
    folder: Path


@dataclass(frozen=True)
class Round:
    """One run of the loop each: connections a second untraced, under tcpmon and under the naive script."""

    untraced: float
    tcpmon: float
    naive: float
    start_seconds: float
    lost: int
    naive_lost: int
    naive_lost_silently: int


@dataclass(frozen=True)
class Program:
    """One BPF program's share in a connection's life."""

    name: str
    runs: float
    microseconds: float


@dataclass(frozen=True)
class Idle:
    start_mib: float
    ticks: int
    switches: int


@dataclass(frozen=True)
class Loaded:
    """After many label sets and scrapes."""

    series: int
    scrapes: int
    mib: float
    peak_mib: float
    scrape_seconds: float
    scrape_bytes: int
    against: dict[str, Against]  # by format
    waits: dict[int, float]  # by the number of scrapes at once, the longest wait of another request


def loop(plan: Plan, ns: Namespace) -> Done:
    """Runs the loop. If it ends without a word, the kernel's own fault has killed one of its threads."""
    words = ns.run(plan.folder / "loop", str(LOOP_PORT), str(plan.connections)).split()
    if len(words) != 2:
        raise BenchError("the loop ended without a result; see dmesg: did the kernel oops?")
    return Done(int(words[0]), int(words[0]) / float(words[1]))


def one_round(plan: Plan) -> Round:
    untraced = untraced_loop(plan)
    traced, start_seconds, lost = tcpmon_loop(plan)
    naive, reported, missing = naive_loop(plan)
    return Round(untraced, traced, naive, start_seconds, lost, missing, max(0, missing - reported))


def untraced_loop(plan: Plan) -> float:
    with namespace() as ns:
        return loop(plan, ns).rate


def tcpmon_loop(plan: Plan) -> tuple[float, float, int]:
    """Connections a second under tcpmon scraped every second, its seconds to the first, and events lost."""
    with namespace() as ns, subjects.tcpmon(plan.folder) as daemon:
        start_seconds = seconds_to_first_count(daemon)
        with every_second(daemon.url):
            done = loop(plan, ns)
        lost = check_counts(daemon, ns, done)
    return done.rate, start_seconds, sum(lost.values())


def naive_loop(plan: Plan) -> tuple[float, int, int]:
    """Connections a second under the naive script, the events it says it lost, and those it did not count."""
    with namespace() as ns, subjects.naive(plan.folder) as script:
        script.wait_ready()
        with every_second(script.url):
            rate = loop(plan, ns).rate
        words = script.last_words()
    counted = words["events"].get(str(LOOP_PORT), 0)
    return rate, words["lost"], EVENTS_PER_CONNECTION * plan.connections - counted


def seconds_to_first_count(daemon: Subject) -> float:
    """From the daemon's exec until /metrics shows a connection; connections are made all the while."""
    with subjects.listener() as server:
        port = str(server.getsockname()[1])

        def counted() -> bool:
            subjects.whole_connection(server)
            return shows_port(daemon, port)

        if not until(counted, subjects.START_SECONDS):
            raise daemon.failed()
        return time.monotonic() - daemon.launched


def shows_port(daemon: Subject, port: str) -> bool:
    try:
        return samples(daemon.url).total("tcpmon_connects_total", port=port) > 0
    except OSError:  # it does not listen yet
        if daemon.gone():
            raise daemon.failed() from None
        return False


def bpf_time(plan: Plan) -> list[Program]:
    """What each BPF program runs for one connection's whole life, both ends, the longest first."""
    with bpf_statistics(), namespace() as ns, subjects.tcpmon(plan.folder) as daemon:
        daemon.wait_ready()
        before = samples(daemon.url)
        done = loop(plan, ns)
        after = samples(daemon.url)
        check_counts(daemon, ns, done)
    names = after.by("program", "tcpmon_bpf_runs_total")
    if not names:
        raise BenchError("no tcpmon_bpf_runs_total, though the kernel's BPF statistics are on")

    def delta(name: str, **labels: str) -> float:
        return after.total(name, **labels) - before.total(name, **labels)

    # the whole machine's connections, since the programs run for all of them
    lives = (delta("tcpmon_connects_total") + delta("tcpmon_accepts_total")) / 2
    programs = [
        Program(
            program,
            delta("tcpmon_bpf_runs_total", program=program) / lives,
            delta("tcpmon_bpf_run_seconds_total", program=program) / lives * 1e6,
        )
        for program in names
    ]
    return sorted(programs, key=lambda p: -p.microseconds)


def idle(plan: Plan) -> Idle:
    """The daemon left alone: its memory, and what it does when there is nothing to do."""
    with subjects.tcpmon(plan.folder) as daemon:
        daemon.wait_ready()
        mib = daemon.memory_mib()
        time.sleep(CALM_SECONDS)
        ticks, switches = daemon.cpu_ticks(), daemon.voluntary_switches()
        time.sleep(plan.idle_seconds)
        return Idle(mib, daemon.cpu_ticks() - ticks, daemon.voluntary_switches() - switches)


def loaded(plan: Plan, progress: Callable[[str], None]) -> Loaded:
    """The daemon with as many label sets as it takes by default, after many scrapes."""
    with namespace() as ns, subjects.tcpmon(plan.folder) as daemon:
        daemon.wait_ready()
        ns.run(plan.folder / "labels", str(FIRST_LABEL_PORT), str(LABEL_COMMS), str(LABEL_PORTS))
        start = time.monotonic()
        for number in range(1, plan.scrapes + 1):
            size = discard(daemon.url)
            if number % max(1, plan.scrapes // 10) == 0:
                progress(f"scrape {number} of {plan.scrapes}")
        seconds = (time.monotonic() - start) / plan.scrapes
        mib, peak = daemon.memory_mib(), daemon.memory_mib("VmHWM")
        series = int(single(daemon.url, "tcpmon_series"))
        progress("the same scrapes by prometheus_client's generate_latest, and what waits meanwhile")
        against = rendering.against_prometheus_client(daemon)
        waits = {number: rendering.longest_wait(daemon, number) for number in (1, rendering.AT_ONCE)}
    if series < LABEL_COMMS * LABEL_PORTS:
        raise BenchError(f"only {series} label sets of {LABEL_COMMS * LABEL_PORTS}")
    return Loaded(series, plan.scrapes, mib, peak, seconds, size, against, waits)
