"""Writes docs/metrics.md from the tables of metrics: `python -m tcpmon.metrics.doc`, in a checkout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tcpmon.metrics.families import FAMILIES, LABELS, REASONS, Family, Histogram
from tcpmon.metrics.selfmetrics import JOURNAL, LOST_STAGES, RECURSION, SELF

TARGET = Path(__file__).parent.parent.parent / "docs" / "metrics.md"

_INTRODUCTION = """\
# Metrics

<!-- Written by `python -m tcpmon.metrics.doc` from the tables in tcpmon/metrics/: change them there. -->

Labels: `comm` is the name of the process that opened or accepted the connection (its thread group leader's;
`metrics.comm: thread` takes the thread's), `netns` the inum of the *socket's* network namespace, `port` the
service's port: the remote one of a connection that this host opened, the local one of one that it
accepted. `role` is `client` (opened by connect) or `server` (accepted). What happens to a connection is
counted for the owner that it was born to, whoever closes it. Bytes of a name that are no UTF-8
are shown as `\\xNN`.

A label set for which there is no room (`metrics.max_series`) is counted under
`comm="_other", netns="_other", port="_other"`, and what was counted for one that is idle
(`metrics.series_ttl`) is moved there: the sum over all series always equals what happened. (So the rate of
`_other` jumps now and then: see [cardinality](cardinality.md#idle-label-sets).) A label set shows the
families of the side that it used: a pure server has no `tcpmon_connect_…` series.

These hold for each label set and in sum, once traffic is quiet:

- attempts = connects + failures of all reasons
- connects + accepts = closes + open connections, for each role
- a histogram's `_count` is its `+Inf` bucket; bounds are inclusive; `_sum` is exact to the microsecond
"""

REASON_MEANINGS = {
    "refused": "ECONNREFUSED: nobody listens, or a firewall rejects",
    "timeout": "ETIMEDOUT: no answer",
    "unreachable": "ENETUNREACH, EHOSTUNREACH and their like: no route, or a router or neighbour says so",
    "reset": "ECONNRESET during the handshake",
    "canceled": "the program closed the socket, or ended, while it was connecting",
    "no_port": "EADDRNOTAVAIL: no local port or address left",
    "denied": "EPERM, EACCES: a prohibiting route, a security module, a cgroup's BPF program",
    "other": "anything else",
}
_STAGES = {
    "connection_table": "not followed, and not counted at all: `connections.max_tracked` are open",
    "connect_table": "more than 32,768 threads in connect(): a failure without a SYN is not counted, "
    "another may lack its reason",
    "series_table": "the counters of a connection could not be found",
    "kernel_read": "memory of the kernel that could not be read",
    "rate_limit": "a raw event beyond `events.rate_limit`; counted all the same",
    "journal": "a raw event that journald did not take; counted all the same",
    "event_ring": "a raw event for which the ring buffer (`events.buffer`) had no room; counted all the same",
    "recursion": "the kernel skipped a program, and nothing made up for it",
}


def text() -> str:
    parts = [_INTRODUCTION, "## Per label set\n"]
    parts += [_section(family) for family in FAMILIES]
    reasons = [(reason, REASON_MEANINGS[reason]) for reason in REASONS]
    parts += ["## Why connects fail\n", _table(("reason", "meaning"), reasons)]
    stages = [(stage, _STAGES[stage]) for stage in (*LOST_STAGES, JOURNAL, RECURSION)]
    parts += [
        "## What can be lost\n",
        "Each stage is there from the start, at 0.\n",
        _table(("stage", "when"), stages),
    ]
    parts.append("## About tcpmon itself\n")
    parts += [_entry(name, own.kind, own.labels, own.help, own.example) for name, own in SELF.items()]
    parts.append("And the usual `process_*` of the daemon.\n")
    return "\n".join(parts)


def _name(name: str, kind: str) -> str:
    return f"`{name}_total`" if kind == "counter" else f"`{name}`"


def _section(family: Family | Histogram) -> str:
    kind = "histogram" if isinstance(family, Histogram) else family.kind
    first = family.parts[0] if isinstance(family, Histogram) else family.samples[0]
    own = [name for name, _value in first.labels]
    return _entry(family.name, kind, (*LABELS, *own), family.help, family.example)


def _entry(name: str, kind: str, labels: Sequence[str], meaning: str, example: str) -> str:
    kind_and_labels = "; ".join(filter(None, (kind, ", ".join(labels))))
    query = f"```promql\n{example}\n```\n"
    return f"### {_name(name, kind)}\n\n{kind_and_labels}. {meaning}\n\n{query}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
