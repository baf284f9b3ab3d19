"""The drill-down: a process or a port, with whom it has to do, and who else is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.frame import DRILLDOWN, Row, framed, to_drilldown
from grafana.panels import Column, Key, Line, Panel, graph, listing
from grafana.queries import (
    HOSTS,
    NAMESPACE,
    SETS,
    SHOWN,
    among,
    busiest,
    failed_share,
    first,
    named,
    quantile,
    rate,
    total,
)
from grafana.shared import COMM, FAILED, LATENCY, PORT, WAIT, columns, connections, headline, payload, times

_LINE = to_drilldown(
    "Only ${__field.labels.comm} and port ${__field.labels.port}",
    comm="${__field.labels.comm}",
    port="${__field.labels.port}",
)


def drilldown() -> Dashboard:
    return framed(
        DRILLDOWN,
        "tcpmon / Process or port",
        "One process, one port, or what you choose above: what it does, what fails and why, how long it "
        "takes, who is at the other end on these hosts, and who else is in the same namespaces.",
        [
            Row("Process ${comm:text}, port ${port:text}", headline()),
            Row("Connections", [*connections("port, reason"), *_by_set()]),
            Row("Who else is on these ports", _ports()),
            Row("Who else is in these namespaces", _namespaces()),
            Row("Time", [*times(), *_slowest()]),
            Row("Payload", payload()),
        ],
    )


def _by_set() -> Sequence[Panel]:
    return [
        graph(
            "Connects by process and port",
            "Connects that reached TCP, a second, of the ten pairs with most of them in the time shown. "
            "Click on a line to see nothing but it.",
            "cps",
            Line(first("tcpmon_connect_attempts_total", "comm, port"), "{{comm}} to {{port}}"),
            span=12,
            stacked=True,
            links=[_LINE],
        ),
        graph(
            "Accepts by process and port",
            "Connections accepted, a second, of the ten pairs with most of them in the time shown. Click on "
            "a line to see nothing but it.",
            "cps",
            Line(first("tcpmon_accepts_total", "comm, port"), "{{comm}} on {{port}}"),
            span=12,
            stacked=True,
            links=[_LINE],
        ),
    ]


def _ports() -> Sequence[Panel]:
    """Of all processes and namespaces of the hosts: the other end is often in another one."""
    shared = f"group by (port) (tcpmon_open_connections{{{SETS}}})"
    by = "comm, port"

    def on_these(counter: str) -> str:
        ranked = among(rate(counter, by, HOSTS, SHOWN), "port", shared)
        return f"topk(20, {ranked})"

    opening, accepting = on_these("tcpmon_connect_attempts_total"), on_these("tcpmon_accepts_total")
    return [
        listing(
            "Who connects to these ports",
            "Processes of the chosen hosts, in any namespace, that connect to a port of those chosen or "
            "used by the chosen process; the twenty with most. Red: more than 5 % of its connects fail, or "
            "a latency of 1 s, which is a SYN sent again.",
            [COMM, PORT],
            _among(
                by,
                opening,
                Column("Opened", rate("tcpmon_connect_attempts_total", by, HOSTS, SHOWN), "cps"),
                Column("Failed", failed_share(by, HOSTS, SHOWN), "percentunit", FAILED),
                Column("Open now", _open("client", by), "short"),
                Column(
                    "Latency p99",
                    quantile(0.99, "tcpmon_connect_latency_seconds", by, HOSTS, SHOWN),
                    "s",
                    LATENCY,
                ),
            ),
        ),
        listing(
            "Who accepts on these ports",
            "Processes of the chosen hosts, in any namespace, that accept on a port of those chosen or used "
            "by the chosen process; the twenty with most. Red: connections wait 0.1 s and more in its "
            "accept queue.",
            [COMM, PORT],
            _among(
                by,
                accepting,
                Column("Accepted", rate("tcpmon_accepts_total", by, HOSTS, SHOWN), "cps"),
                Column("Open now", _open("server", by), "short"),
                Column("Wait p99", quantile(0.99, "tcpmon_accept_wait_seconds", by, HOSTS, SHOWN), "s", WAIT),
            ),
        ),
    ]


def _namespaces() -> Sequence[Panel]:
    shared = f" and on ({NAMESPACE}) group by ({NAMESPACE}) (tcpmon_open_connections{{{SETS}}})"
    by = f"{NAMESPACE}, comm"
    told = columns(by, busiest(by, HOSTS, shared), HOSTS)
    return [
        listing(
            "Processes in the same namespaces",
            "All that opened or accepted connections in a network namespace where the chosen ones did, the "
            "busiest first: in a container or pod that is what runs beside it. Follow a name for its "
            "details.",
            [COMM, Key("name"), Key("netns"), Key("instance"), Key("job", hidden=True)],
            [replace(one, expr=named(f"({one.expr})")) for one in told],
            span=24,
            sort="Opened",
        )
    ]


def _slowest() -> Sequence[Panel]:
    by = "comm, port"
    return [
        listing(
            "Slowest connects",
            "Pairs of process and port by the time that 99 of 100 connects took no longer than, in the time "
            "shown. Orange from 0.3 s, red from 1 s (a SYN was sent again). Few connects make a coarse "
            "percentile.",
            [COMM, PORT],
            [
                Column(
                    "Latency p99",
                    _slow("tcpmon_connect_latency_seconds", by),
                    "s",
                    LATENCY,
                )
            ],
        ),
        listing(
            "Slowest to accept",
            "Pairs of process and port by the time that 99 of 100 connections waited no longer than in the "
            "accept queue, in the time shown. Orange from 10 ms, red from 0.1 s: too few workers, or "
            "blocked ones.",
            [COMM, PORT],
            [Column("Wait p99", _slow("tcpmon_accept_wait_seconds", by), "s", WAIT)],
        ),
    ]


def _slow(histogram: str, by: str) -> str:
    """The percentile of those that had any in the time shown; it is not a number where there was none."""
    return f"topk(15, {quantile(0.99, histogram, by, window=SHOWN)} >= 0)"


def _among(by: str, these: str, *told: Column) -> Sequence[Column]:
    return [replace(one, expr=among(one.expr, by, these)) for one in told]


def _open(role: str, by: str) -> str:
    return total("tcpmon_open_connections", by, f'{HOSTS},role="{role}"')
