"""Overviews as a test wants them: what tcpmon would say of these label sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tcpmon import config
from tcpmon.metrics import overview, snapshot
from tcpmon.metrics.overview import COLUMNS, Overview, Row
from tcpmon.metrics.scrape import Status

STAGES = ("connection_table", "event_ring", "rate_limit")
PROBES = (
    ("connect", "tcp_v4_connect", "fexit"),
    ("connect", "inet_sock_set_state", "raw_tracepoint"),
    ("accept", "inet_csk_accept", "fexit"),
)


def row(comm: str, netns: str = "4026531840", port: str = "443", **numbers: int) -> Row:
    """A label set; what of COLUMNS is not given is 0."""
    return (comm, netns, port), tuple(numbers.get(name, 0) for name in COLUMNS)


def looked(
    rows: list[Row],
    filters: Mapping[str, Any] | None = None,
    lost: Mapping[str, int] | None = None,
    **changes: Any,
) -> Overview:
    """With the default configuration but for `filters`."""
    settings = config.load(None)
    settings = replace(settings, filters=replace(settings.filters, **(filters or {})))
    seen = Overview(
        status=Status(settings, reload_ok=True, reload_timestamp=1_700_000_000.0),
        started=1_700_000_000.0,
        uptime=7.0,
        probes=PROBES,
        losses=dict.fromkeys(STAGES, 0) | dict(lost or {}),
        counters=dict.fromkeys(snapshot.COUNTERS, 0),
        series=len(rows),
        netns={},
        label_sets=len(rows),
        total=overview.total(values for _labels, values in rows),
        rows=overview.busiest(rows),
    )
    return replace(seen, **changes)
