"""The table of metrics that are kept per label set: names, meaning, and where the kernel keeps the numbers.

A number is addressed by its field in `struct series` (bpf/types.h), outer.inner for one of a struct within:
the sum of all its slots, or one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

LABELS = ("comm", "netns", "port")
ROLES = ("client", "server")
# In the order of bpf/types.h's enum reason.
REASONS = ("refused", "timeout", "unreachable", "reset", "canceled", "no_port", "denied", "other")
CLIENT, SERVER = ROLES


@dataclass(frozen=True)
class Field:
    """A field of struct series: all its slots added up, or the one at `slot`."""

    name: str
    slot: int | None = None


@dataclass(frozen=True)
class Sample:
    """One series of a family: own labels, `plus` less `minus`, and the side whose use makes it appear."""

    labels: tuple[tuple[str, str], ...]
    plus: Field
    minus: Field | None
    side: str


@dataclass(frozen=True)
class Family:
    """A counter or gauge."""

    name: str  # without _total
    kind: str
    help: str
    samples: tuple[Sample, ...]
    example: str


@dataclass(frozen=True)
class Part:
    """One histogram of a family: labels of its own, the field of its slots and that of its sum, in ns."""

    labels: tuple[tuple[str, str], ...]
    slots: str
    sum_ns: Field
    side: str


@dataclass(frozen=True)
class Histogram:
    """A histogram in seconds; `bounds` is its key in the configuration's metrics.buckets."""

    name: str
    help: str
    bounds: str
    parts: tuple[Part, ...]
    example: str


def _role(role: str) -> tuple[tuple[str, str], ...]:
    return (("role", role),)


def _by_role(field: str) -> tuple[Sample, ...]:
    return tuple(Sample(_role(role), Field(f"{role}_closes.{field}"), None, role) for role in ROLES)


FAMILIES: tuple[Family | Histogram, ...] = (
    Family(
        "tcpmon_connect_attempts",
        "counter",
        "Connects of TCP sockets, whatever came of them; also those that were denied before TCP.",
        (Sample((), Field("attempts"), None, CLIENT),),
        "topk(5, sum by (comm) (rate(tcpmon_connect_attempts_total[5m])))",
    ),
    Family(
        "tcpmon_connects",
        "counter",
        "Connections established by connect.",
        (Sample((), Field("connect_latency"), None, CLIENT),),
        'topk(5, sum by (comm) (rate(tcpmon_connects_total{port="5432"}[5m])))',
    ),
    Family(
        "tcpmon_connect_failures",
        "counter",
        "Connects that failed, by reason.",
        tuple(
            Sample((("reason", reason),), Field("failures", slot), None, CLIENT)
            for slot, reason in enumerate(REASONS)
        ),
        "sum by (comm, port, reason) (rate(tcpmon_connect_failures_total[5m])) > 0",
    ),
    Family(
        "tcpmon_accepts",
        "counter",
        "Connections handed to a program by accept.",
        (Sample((), Field("accepts"), None, SERVER),),
        "sum by (comm, port) (rate(tcpmon_accepts_total[5m]))",
    ),
    Family(
        "tcpmon_closes",
        "counter",
        "Connections closed, by whatever way.",
        (
            Sample(_role(CLIENT), Field("client_closes.duration"), None, CLIENT),
            Sample(_role(SERVER), Field("server_closes.duration"), None, SERVER),
        ),
        "sum by (role) (rate(tcpmon_closes_total[5m]))",
    ),
    Family(
        "tcpmon_open_connections",
        "gauge",
        "Connections established and not yet closed.",
        (
            Sample(_role(CLIENT), Field("connect_latency"), Field("client_closes.duration"), CLIENT),
            Sample(_role(SERVER), Field("accepts"), Field("server_closes.duration"), SERVER),
        ),
        'sum by (comm, port) (tcpmon_open_connections{role="server"})',
    ),
    Histogram(
        "tcpmon_connect_latency_seconds",
        "From connect() to established.",
        "connect_latency",
        (Part((), "connect_latency", Field("connect_latency_ns"), CLIENT),),
        "histogram_quantile(0.99, sum by (le, port) (rate(tcpmon_connect_latency_seconds_bucket[5m])))",
    ),
    Histogram(
        "tcpmon_accept_wait_seconds",
        "From established to handed over by accept(): the time in the accept queue.",
        "accept_wait",
        (Part((), "accept_wait", Field("accept_wait_ns"), SERVER),),
        "histogram_quantile(0.99, sum by (le, comm) (rate(tcpmon_accept_wait_seconds_bucket[5m])))",
    ),
    Histogram(
        "tcpmon_connection_duration_seconds",
        "From established to closed.",
        "connection_duration",
        (
            Part(_role(CLIENT), "client_closes.duration", Field("client_closes.duration_ns"), CLIENT),
            Part(_role(SERVER), "server_closes.duration", Field("server_closes.duration_ns"), SERVER),
        ),
        "histogram_quantile(0.5, sum by (le, comm) (rate(tcpmon_connection_duration_seconds_bucket[5m])))",
    ),
    Family(
        "tcpmon_sent_bytes",
        "counter",
        "Payload sent and acknowledged, counted when the connection closes.",
        _by_role("sent_bytes"),
        "topk(5, sum by (comm, port) (rate(tcpmon_sent_bytes_total[5m])))",
    ),
    Family(
        "tcpmon_received_bytes",
        "counter",
        "Payload received, counted when the connection closes.",
        _by_role("received_bytes"),
        "topk(5, sum by (comm, port) (rate(tcpmon_received_bytes_total[5m])))",
    ),
    Family(
        "tcpmon_retransmitted_segments",
        "counter",
        "Segments sent again, counted when the connection closes.",
        _by_role("retransmitted_segments"),
        "sum by (comm, port) (rate(tcpmon_retransmitted_segments_total[5m]))",
    ),
)
