"""How tcpmon itself is, in words for people: the landing page's upper part."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, fields

from tcpmon.config import Filters, Selection
from tcpmon.metrics.overview import Overview
from tcpmon.metrics.scrape import Status
from tcpmon.metrics.snapshot import comm_text

# Of a filter's list, which may have a thousand entries.
MAX_LISTED = 8


@dataclass(frozen=True)
class Fact:
    """A short title, what there is to say in lines, and whether it asks for somebody's attention."""

    name: str
    title: str
    lines: tuple[str, ...]
    warning: bool = False


def facts(seen: Overview) -> list[Fact]:
    """In the order of the page."""
    config = seen.status.config
    overflow = seen.counters["overflow"]
    tracked = (f"{seen.counters['tracked']:,}", f"of {config.connections.max_tracked:,}")
    return [
        _losses(seen),
        Fact("series", "Label sets", _series(seen, overflow), overflow > 0),
        Fact("tracked", "Tracked", tracked),
        Fact("probes", "Attached", _mechanisms(seen.probes)),
        Fact("filters", "Filters", _filters(config.filters, seen)),
        _configuration(seen.status),
    ]


def uptime(seconds: float) -> str:
    """The two largest units."""
    whole = int(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def _losses(seen: Overview) -> Fact:
    lines = tuple(f"{number:,} {stage}" for stage, number in seen.losses.items() if number)
    return Fact("lost", "Losses", lines or ("none lost",), bool(lines))


def _series(seen: Overview, overflow: int) -> tuple[str, ...]:
    lines = (f"{seen.series:,}", f"of {seen.status.config.metrics.max_series:,}")
    return (*lines, f"no room for {overflow:,} connections: in _other") if overflow else lines


def _mechanisms(probes: Iterable[tuple[str, str, str]]) -> tuple[str, ...]:
    by_event: dict[str, dict[str, None]] = {}
    for event, _function, mechanism in probes:
        by_event.setdefault(event, {})[mechanism] = None
    return tuple(f"{event}: {', '.join(mechanisms)}" for event, mechanisms in by_event.items())


def _filters(filters: Filters, seen: Overview) -> tuple[str, ...]:
    lines = []
    for name in (field.name for field in fields(filters)):
        value = getattr(filters, name)
        if not isinstance(value, Selection):
            lines += [f"{name} {value}"] if value not in (None, "both") else []
            continue
        for listed, word in ((value.include, ""), (value.exclude, "not ")):
            if listed:
                lines.append(f"{name} {word}{_listed(name, listed, seen)}")
    return tuple(lines) or ("none", "every connection counts")


def _listed(name: str, values: tuple[object, ...], seen: Overview) -> str:
    more = len(values) - MAX_LISTED
    shown = ", ".join(_item(name, value, seen) for value in values[:MAX_LISTED])
    return f"{shown} and {more:,} more" if more > 0 else shown


def _item(name: str, value: object, seen: Overview) -> str:
    if isinstance(value, bytes):
        return comm_text(value)
    if isinstance(value, tuple):
        low, high = value
        return f"{low}" if low == high else f"{low}-{high}"
    return seen.netns.get(str(value), str(value)) if name == "netns" else str(value)


def _configuration(status: Status) -> Fact:
    path = status.config.path or "built-in defaults"
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(status.reload_timestamp))
    if status.reload_ok:
        return Fact("config", "Configuration", (path, f"read {when}"))
    failed = "the last reload failed, see the log", f"in force is that of {when}"
    return Fact("config", "Configuration", (path, *failed), warning=True)
