"""What the bench insists on: tcpmon counted what the loops did, to the unit, or told what it lost."""

from __future__ import annotations

from tcpmon.metrics.selfmetrics import RATE_LIMIT
from tests.bench import subjects
from tests.bench.scrape import Samples, samples, until
from tests.bench.subjects import Subject
from tests.bench.world import Namespace

# The last sockets close a moment after the loop has ended, in the kernel's own time.
SETTLE_SECONDS = 5.0 * subjects.PATIENCE


def expected(once: int) -> list[tuple[str, dict[str, str], int]]:
    """Samples, and what each has to come to after so many whole connections."""
    client, server = {"role": "client"}, {"role": "server"}
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


def differences(now: Samples, netns: str, connections: int) -> dict[str, int]:
    """What in a namespace is counted otherwise than it happened: the samples, and by how much."""
    counted = [
        (f"{name} {labels or ''}", int(now.total(name, netns=netns, **labels)), due)
        for name, labels, due in expected(connections)
    ]
    return {f"{what}: {got}, not {due}": abs(got - due) for what, got, due in counted if got != due}


def told(now: Samples) -> int:
    """Events of the whole machine that tcpmon says it lost. What the journal's rate limit cuts is counted all
    the same."""
    stages = now.by("stage", "tcpmon_lost_events_total")
    return int(sum(number for stage, number in stages.items() if stage != RATE_LIMIT))


def losses(subject: Subject, ns: Namespace, connections: int) -> tuple[int, int]:
    """Events told as lost, and how far the worst count of `ns` is from what happened there."""
    until(lambda: not differences(samples(subject.url), ns.inum, connections), SETTLE_SECONDS, 0.1)
    now = samples(subject.url)
    return told(now), max(differences(now, ns.inum, connections).values(), default=0)
