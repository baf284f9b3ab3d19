"""The overview: what all hosts do, who does most of it, how long it takes, and how tcpmon itself is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana import itself
from grafana.frame import OVERVIEW, Row, framed, to_drilldown
from grafana.panels import Column, Key, Levels, Line, Panel, alerts, graph, listing, number
from grafana.queries import HOSTS, LOST, NAMESPACE, SHOWN, busiest, first, named, rate
from grafana.shared import COMM, PORT, columns, connections, headline, payload, times


def overview() -> Dashboard:
    return framed(
        OVERVIEW,
        "tcpmon / Overview",
        "TCP connections of the hosts chosen above, counted in the kernel by tcpmon. Start at the top: what "
        "is orange or red says in its description (i) why, and what to do. Follow a name in a table for its "
        "details.",
        [
            Row("At a glance", _glance()),
            Row("Connections", connections("reason")),
            Row("Who", _who()),
            Row("Time", times()),
            Row("Payload", payload()),
            Row("tcpmon itself", itself.panels()),
        ],
    )


def _glance() -> Sequence[Panel]:
    closed = f"increase(tcpmon_closes_total{{{HOSTS}}}[{SHOWN}])"
    first_half, second_half = headline()[:3], headline()[3:]
    return [
        number(
            "Hosts not answering",
            "Targets of tcpmon that Prometheus could not scrape last time. Red from one on: nothing is "
            "known of such a host. See systemctl status tcpmon there, and Status, Targets in Prometheus.",
            "none",
            Line(f"count(up{{{HOSTS}}}) - sum(up{{{HOSTS}}})", "not answering"),
            levels=Levels(None, 1),
        ),
        *first_half,
        alerts(),
        *second_half,
        number(
            "Not counted",
            "Events that a count is short of, as a share of the connections closed, in the time shown; what "
            "only the journal is short of is left out. Orange from one in 100,000; red from one in 1,000, "
            "where rates are visibly wrong: see Lost events, below, for the stage. An alert fires then, and "
            "for a table that is full at the first.",
            "percentunit",
            Line(f"sum(increase({LOST}[{SHOWN}])) / (sum({closed}) > 0)", "not counted"),
            levels=Levels(1e-5, 1e-3),
            none="no closes",
            over_time=False,
        ),
    ]


def _who() -> Sequence[Panel]:
    failing = rate("tcpmon_connect_failures_total", "comm, port, reason", window=SHOWN)
    namespace = to_drilldown(
        "Namespace ${__data.fields.netns}",
        **{label: f"${{__data.fields.{label}}}" for label in ("job", "instance", "netns")},
    )
    details = to_drilldown("Details of ${__field.labels.comm}", comm="${__field.labels.comm}")
    return [
        graph(
            "Connects by process",
            "Connects that reached TCP, a second, of the ten processes with most of them in the time shown. "
            "Click on a line to see with whom and how. A new name, or one that doubles, is what changed.",
            "cps",
            Line(first("tcpmon_connect_attempts_total", "comm"), "{{comm}}"),
            span=12,
            stacked=True,
            links=[details],
        ),
        graph(
            "Accepts by process",
            "Connections accepted, a second, of the ten processes with most of them in the time shown. "
            "Click on a line for its details.",
            "cps",
            Line(first("tcpmon_accepts_total", "comm"), "{{comm}}"),
            span=12,
            stacked=True,
            links=[details],
        ),
        listing(
            "Top processes",
            "Processes that opened or accepted most connections in the time shown. Follow a name to see "
            "with whom and how. _other is what had no label set of its own (metrics.max_series reached, or "
            "idle for metrics.series_ttl): still counted, so that sums are right. Red: more than 5 % of "
            "connects fail.",
            [COMM],
            columns("comm", busiest("comm")),
            sort="Opened",
        ),
        listing(
            "Top ports",
            "Service ports with most connections in the time shown, opened to them or accepted on them. "
            "Follow a number to see who uses it.",
            [PORT],
            columns("port", busiest("port")),
            sort="Opened",
        ),
        listing(
            "Top namespaces",
            "Network namespaces with most connections in the time shown, with the name that ip netns has; "
            "self is tcpmon's own. lsns -t net tells of the others which process they belong to. Follow a "
            "number for what goes on in it.",
            [Key("name"), Key("netns", namespace), Key("instance"), Key("job", hidden=True)],
            [replace(one, expr=named(f"({one.expr})")) for one in columns(NAMESPACE, busiest(NAMESPACE))],
            span=16,
            sort="Opened",
        ),
        listing(
            "Failing connects",
            "Whose connects to which port failed most in the time shown, and why; nothing is good. The "
            "reasons are explained at Failures by reason, above.",
            [COMM, PORT, Key("reason")],
            [Column("Failures", f"topk(15, {failing} > 0)", "cps")],
            span=8,
        ),
    ]
