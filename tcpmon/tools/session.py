"""The kernel's side of a tool: its own copy of the BPF module, which is gone with the process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from tcpmon import config as configuration
from tcpmon import privileges
from tcpmon.config import Config
from tcpmon.kernel import control, load, source
from tcpmon.kernel.load import Layout
from tcpmon.metrics import snapshot
from tcpmon.tools.dns import Answers
from tcpmon.tools.request import ToolRequest

_RING_BYTES = 8 << 20  # of events a tool prints, half a second's when there are 100,000 a second
_MAX_SERIES = 1
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Session:
    """The map descriptor of the ring of events, and the DNS answers if asked for; `lost` is how many events
    found no room so far."""

    events_fd: int
    answers: Answers | None
    event_layout: Layout
    lost: Callable[[], int]


def open(request: ToolRequest) -> Session:
    """Starts tracing what is asked for. KernelError says what this kernel, or this user, lacks."""
    privileges.require()
    config = replace(configuration.load(None), filters=request.filters)
    kinds = sum(1 << kind for kind in request.kinds)
    answers = Answers() if request.dns else None
    loaded = load.load(_module(config, kinds), {})
    control.apply(loaded.tables, config, kinds)
    events, counters = loaded.tables["events"], loaded.tables["counters"]
    privileges.drop(lambda: snapshot.counters(counters))
    return Session(
        events_fd=events.fd,
        answers=answers,
        event_layout=events.value,
        lost=lambda: _lost(snapshot.counters(counters)),
    )


def _lost(counters: Mapping[str, int]) -> int:
    """Events that had no room in the ring, or whose connection or connect() had none in its table."""
    return counters["lost_event"] + counters["lost_connection"] + counters["lost_connect"]


def _module(config: Config, kinds: int) -> source.Module:
    """Nobody looks at a tool's series: they are as small as can be."""
    return source.Module(
        bounds=dict.fromkeys(("connect_latency", "accept_wait", "connection_duration"), (_SECOND_NS,)),
        max_series=_MAX_SERIES,
        max_tracked=config.connections.max_tracked,
        ring_bytes=_RING_BYTES,
        cgroup_map=config.filters.cgroup_map,
        mntns_map=config.filters.mntns_map,
        events=kinds,
    )
