"""What is on both dashboards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grafana.frame import to_drilldown
from grafana.panels import Column, Key, Levels, Line, Panel, graph, heat, number
from grafana.queries import SETS, SHOWN, among, buckets, failed_share, quantile, rate, total

# The alerts of deploy/prometheus/rules fire at the red ones
FAILED = Levels(0.01, 0.05)
# Beyond any way around the Earth and back; Linux sends a SYN again after 1 s
LATENCY = Levels(0.3, 1)
# What keeps up takes a connection within a millisecond; a tenth of a second is what a person notices
WAIT = Levels(0.01, 0.1)
RESENT = Levels(0.02, 0.05)
_QUANTILES = (0.5, 0.9, 0.99)

COMM = Key("comm", to_drilldown("Details of ${__data.fields.comm}", comm="${__data.fields.comm}"))
PORT = Key("port", to_drilldown("Who uses ${__data.fields.port}", port="${__data.fields.port}"))


def headline() -> Sequence[Panel]:
    """The numbers that both dashboards begin with."""
    return [
        number(
            "Connects",
            "Connections opened by connect(), a second. As such neither good nor bad: compare it with an "
            "earlier time; a jump is a retry loop or a pool that no longer reuses connections.",
            "cps",
            Line(rate("tcpmon_connects_total"), "connects"),
        ),
        number(
            "Accepts",
            "Connections handed to programs by accept(), a second. At 0 where there should be some: is the "
            "program up, and does anything reach it?",
            "cps",
            Line(rate("tcpmon_accepts_total"), "accepts"),
        ),
        number(
            "Failed connects",
            "The share of connects that failed. Orange from 1 %, more than a restart of one peer makes; red "
            "from 5 %, where the alert fires. Failures by reason says why, and Failing connects whose.",
            "percentunit",
            Line(failed_share(), "failed"),
            levels=FAILED,
            none="no connects",
        ),
        number(
            "Open connections",
            "Established and not yet closed, of both sides. One that only grows is a leak: see which "
            "process in Top processes.",
            "short",
            Line(total("tcpmon_open_connections"), "open"),
        ),
        number(
            "Connect latency p99",
            "99 of 100 connects were established within this time. Orange from 0.3 s, longer than any way "
            "around the Earth; red from 1 s, as then SYNs are lost and sent again: look at the path and at "
            "the peer's accept queue.",
            "s",
            Line(quantile(0.99, "tcpmon_connect_latency_seconds"), "p99"),
            levels=LATENCY,
            none="no connects",
        ),
        number(
            "Accept wait p99",
            "99 of 100 connections waited no longer than this in the accept queue. Orange from 10 ms: the "
            "program falls behind. Red from 0.1 s, where the alert fires: more workers, or find what blocks "
            "them.",
            "s",
            Line(quantile(0.99, "tcpmon_accept_wait_seconds"), "p99"),
            levels=WAIT,
            none="no accepts",
        ),
    ]


def connections(failures_by: str) -> Sequence[Panel]:
    """Rates, failures, open connections; the failures by these labels, reason among them."""
    legend = " ".join(f"{{{{{label}}}}}" for label in failures_by.split(", "))
    return [
        graph(
            "Connects, accepts, closes",
            "A second. Closes follow connects and accepts at a distance of their duration; where they stay "
            "behind, open connections pile up.",
            "cps",
            Line(rate("tcpmon_connects_total"), "connects"),
            Line(rate("tcpmon_accepts_total"), "accepts"),
            Line(rate("tcpmon_closes_total", "role"), "closes, {{role}}"),
        ),
        graph(
            "Failures by reason",
            "Connects that failed, a second. refused: nobody listens there. timeout: no answer, a firewall "
            "or a dead host. unreachable: no route. reset: during the handshake. canceled: the program gave "
            "up first, usually its own timeout. no_port: no local port left, or no such local address. "
            "denied: a security policy on this host.",
            "cps",
            Line(f"{rate('tcpmon_connect_failures_total', failures_by)} > 0", legend),
            stacked=True,
        ),
        graph(
            "Open connections by role",
            "Established and not yet closed, by the side that this host has. A line that only rises is a "
            "leak, or a pool without bound.",
            "short",
            Line(total("tcpmon_open_connections", "role"), "{{role}}"),
        ),
    ]


def columns(by: str, these: str, where: str = SETS) -> Sequence[Column]:
    """What is told of each of these, which have the labels `by`."""
    told = [
        Column("Opened", rate("tcpmon_connect_attempts_total", by, where, SHOWN), "cps"),
        Column("Failed", failed_share(by, where, SHOWN), "percentunit", FAILED),
        Column("Accepted", rate("tcpmon_accepts_total", by, where, SHOWN), "cps"),
        Column("Open now", total("tcpmon_open_connections", by, where), "short"),
        Column("Sent", rate("tcpmon_sent_bytes_total", by, where, SHOWN), "Bps"),
        Column("Received", rate("tcpmon_received_bytes_total", by, where, SHOWN), "Bps"),
    ]
    return [replace(one, expr=among(one.expr, by, these)) for one in told]


def times() -> Sequence[Panel]:
    """Percentiles of the three histograms, and below each its heatmap."""
    return [
        graph(
            "Connect latency",
            "From connect() to established, as percentiles: one network round trip, if all is well. A step "
            "at 1 s (red) is a SYN lost and sent again; at 0.3 s (orange) it is longer than any path should "
            "be. Within a bucket the value is interpolated.",
            "s",
            *_percentiles("tcpmon_connect_latency_seconds"),
            levels=LATENCY,
            powers=True,
        ),
        graph(
            "Accept wait",
            "From established to handed over by accept(), as percentiles: how far a program is behind. "
            "Orange from 10 ms, red from 0.1 s: too few workers, or blocked ones. At its listen backlog the "
            "kernel drops SYNs, and clients see latency of 1 s and more.",
            "s",
            *_percentiles("tcpmon_accept_wait_seconds"),
            levels=WAIT,
            powers=True,
        ),
        graph(
            "Duration",
            "From established to closed, as percentiles by role. Very short ones in numbers are a pool that "
            "is not used; a length that many share exactly is somebody's idle timeout. No length is bad as "
            "such.",
            "s",
            *(
                Line(
                    quantile(share, "tcpmon_connection_duration_seconds", "role"),
                    f"{_name(share)} {{{{role}}}}",
                )
                for share in _QUANTILES
            ),
            powers=True,
        ),
        heat(
            "Connect latency, all connects",
            "How many connects took how long. Two bands are two kinds of peers, near and far; one at 1 s "
            "and above is lost SYNs.",
            buckets("tcpmon_connect_latency_seconds"),
        ),
        heat(
            "Accept wait, all accepts",
            "How many connections waited how long for accept(). What leaves the lowest bands at busy times "
            "is queueing.",
            buckets("tcpmon_accept_wait_seconds"),
        ),
        heat(
            "Duration, all closed",
            "How many connections that closed had lasted how long, of both roles.",
            buckets("tcpmon_connection_duration_seconds"),
        ),
    ]


def payload() -> Sequence[Panel]:
    """Bytes, and what was sent again. All of it is counted when a connection closes."""
    resent, closed = rate("tcpmon_retransmitted_segments_total"), rate("tcpmon_closes_total")
    sent = rate("tcpmon_sent_bytes_total")
    return [
        graph(
            "Bytes",
            "Payload a second, as this host sees it, by role. Counted when a connection closes: a long one "
            "shows as a peak at its end.",
            "Bps",
            Line(rate("tcpmon_sent_bytes_total", "role"), "sent, {{role}}"),
            Line(rate("tcpmon_received_bytes_total", "role"), "received, {{role}}"),
        ),
        graph(
            "Segments sent again",
            "Retransmitted segments a second, counted when a connection closes. See the share, beside, for "
            "whether it is much.",
            "cps",
            Line(rate("tcpmon_retransmitted_segments_total", "role"), "{{role}}"),
        ),
        graph(
            "Share sent again",
            "Retransmitted of all segments sent; the latter is estimated, as payload by 1448 bytes, and a "
            "SYN and a FIN for each connection. A data centre has less than 0.1 %, the Internet 1 to 2 % "
            "(orange); from 5 % on (red, where the alert fires) throughput breaks down: look for a bad link "
            "or a full one.",
            "percentunit",
            Line(f"{resent} / ({sent} / 1448 + 2 * {closed} > 0)", "sent again"),
            levels=RESENT,
        ),
    ]


def _percentiles(histogram: str) -> Sequence[Line]:
    return [Line(quantile(share, histogram), _name(share)) for share in _QUANTILES]


def _name(share: float) -> str:
    return f"p{share * 100:g}"
