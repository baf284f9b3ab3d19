"""What the bench insists on: tcpmon counted what the loop did, to the unit, or told what it lost."""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.scrape import Samples, samples, until
from tests.bench.subjects import BenchError, Subject
from tests.bench.world import Namespace

# The last sockets close a moment after the loop has ended, in the kernel's own time.
SETTLE_SECONDS = 5.0


@dataclass(frozen=True)
class Done:
    """What the loop did: whole connections, and how many a second."""

    connections: int
    rate: float


def expected(done: Done) -> list[tuple[str, dict[str, str], int]]:
    """Samples, and what each has to come to."""
    client, server, once = {"role": "client"}, {"role": "server"}, done.connections
    return [
        ("tcpmon_connect_attempts_total", {}, once),
        ("tcpmon_connects_total", {}, once),
        ("tcpmon_connect_failures_total", {}, 0),
        ("tcpmon_connect_latency_seconds_count", {}, once),
        ("tcpmon_accepts_total", {}, once),
        ("tcpmon_accept_wait_seconds_count", {}, once),
        ("tcpmon_closes_total", client, once),
        ("tcpmon_closes_total", server, once),
        ("tcpmon_connection_duration_seconds_count", client, once),
        ("tcpmon_connection_duration_seconds_count", server, once),
        ("tcpmon_open_connections", {}, 0),
    ]


def differences(now: Samples, netns: str, done: Done) -> dict[str, int]:
    """What in the loop's namespace is counted otherwise than the loop did: the samples, and by how much."""
    counted = [
        (name, labels, now.total(name, netns=netns, **labels), due) for name, labels, due in expected(done)
    ]
    return {
        f"{name} {labels or ''}: {got:.0f}, not {due}": abs(int(got) - due)
        for name, labels, got, due in counted
        if got != due
    }


def lost(now: Samples) -> dict[str, int]:
    """Events of the whole machine that tcpmon says it lost, by stage."""
    stages = now.by("stage", "tcpmon_lost_events_total")
    return {stage: int(number) for stage, number in stages.items() if number}


def check_counts(subject: Subject, ns: Namespace, done: Done) -> dict[str, int]:
    """Raises BenchError unless every count of `ns` comes to be what the loop did, or differs by no more than
    what tcpmon tells as lost, which is returned."""
    until(lambda: not differences(samples(subject.url), ns.inum, done), SETTLE_SECONDS, 0.1)
    now = samples(subject.url)
    told, wrong = lost(now), differences(now, ns.inum, done)
    if max(wrong.values(), default=0) > sum(told.values()):
        lines = "\n  ".join(wrong)
        raise BenchError(f"not counted exactly (lost: {told or 'none'}):\n  {lines}")
    return told
