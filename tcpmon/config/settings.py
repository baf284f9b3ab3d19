"""The table of settings, and the frozen dataclasses that they are read into.

Reading the file (__init__.py), the documentation, the JSON Schema and the shipped file (doc.py) derive from
SETTINGS. A new setting is a row there and a field in its section's dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tcpmon.config.filters import COMMS, NETNS, PIDS, PORTS, REMOTES, UIDS, Network, Selection
from tcpmon.config.kinds import FILE, FLAG, LISTEN, PINNED_MAP, Address, Kind, choice, subset, whole
from tcpmon.config.units import BOUNDS, BUFFER, DURATION


@dataclass(frozen=True)
class Filters:
    """What is traced. Ports are inclusive ranges, netns inums, comms up to 15 bytes, maps absolute paths."""

    pid: Selection[int]
    port: Selection[tuple[int, int]]
    netns: Selection[int]
    comm: Selection[bytes]
    uid: Selection[int]
    remote: Selection[Network]
    family: str
    cgroup_map: str | None
    mntns_map: str | None


@dataclass(frozen=True)
class Buckets:
    """Inclusive upper bounds in seconds, rising, without +Inf."""

    connect_latency: tuple[float, ...]
    accept_wait: tuple[float, ...]
    connection_duration: tuple[float, ...]


@dataclass(frozen=True)
class Metrics:
    """`labels` in the order comm, netns, port; `series_ttl` in seconds, 0 for never."""

    labels: tuple[str, ...]
    comm: str
    max_series: int
    series_ttl: float
    buckets: Buckets


@dataclass(frozen=True)
class Events:
    """`rate_limit` in events a second, 0 for unlimited; `buffer` in bytes, a power of two."""

    journal: bool
    types: tuple[str, ...]
    rate_limit: int
    buffer: int


@dataclass(frozen=True)
class Connections:
    max_tracked: int


@dataclass(frozen=True)
class Log:
    level: str


@dataclass(frozen=True)
class Config:
    """A valid configuration. `path` is the file it came from, None for the built-in defaults."""

    path: str | None
    listen: tuple[Address, ...]
    web_config: str | None
    filters: Filters
    metrics: Metrics
    events: Events
    connections: Connections
    log: Log


@dataclass(frozen=True)
class Section:
    """A mapping of settings: its dotted key, what it is read into, and a sentence for the reader."""

    key: str
    make: type[Any]
    help: str


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted key, its default as written in YAML, and what it does."""

    key: str
    kind: Kind
    default: str
    help: str
    restart_only: bool = False


SECTIONS = {
    section.key: section
    for section in (
        Section(
            "filters",
            Filters,
            "Which connections are traced, decided in the kernel, once, when a connection is born "
            "(connect or accept); what is decided holds to its end. A connection must pass every "
            "filter. A filter lets through what is in `include` (everything, if that is empty) and not "
            "in `exclude`. A bare list is short for `include`.",
        ),
        Section("metrics", Metrics, "The series served at `/metrics`."),
        Section(
            "metrics.buckets",
            Buckets,
            "Upper bounds of the histograms, in seconds, inclusive. `+Inf` is always there besides them.",
        ),
        Section("events", Events, "Single events, one entry each in the systemd journal."),
        Section("connections", Connections, "How connections are followed."),
        Section("log", Log, "What tcpmon says about itself on stderr."),
    )
}

_NOTHING = "{include: [], exclude: []}"
_LATENCIES = (
    "[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]"
)
_DURATIONS = "[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800, 3600, 21600, 86400]"

SETTINGS = {
    setting.key: setting
    for setting in (
        Setting(
            "listen",
            LISTEN,
            "127.0.0.1:19317",
            "Where HTTP is served. IPv6 addresses stand in brackets and the whole in quotes; "
            '`"[::]:19317"` is every address of the machine, `localhost` is 127.0.0.1. Port 0 takes any free '
            "port.",
            restart_only=True,
        ),
        Setting(
            "web_config",
            FILE,
            "null",
            "A web configuration file as Prometheus and its exporters have it (exporter-toolkit), for TLS, "
            "client certificates and basic authentication: docs/web-config.md. Also read again when it, or "
            "a certificate, changes.",
        ),
        Setting("filters.pid", PIDS, _NOTHING, "Processes (thread groups)."),
        Setting(
            "filters.port",
            PORTS,
            _NOTHING,
            "The service port: the remote port of a connection this host opened, the local port of one "
            "it accepted.",
        ),
        Setting(
            "filters.netns",
            NETNS,
            _NOTHING,
            "The network namespace of the socket. Anything but an inum is looked up when the file is "
            "read: after a namespace of that name was made anew, reload.",
        ),
        Setting(
            "filters.comm",
            COMMS,
            _NOTHING,
            "Exact names of processes, or of threads, as `metrics.comm` has it.",
        ),
        Setting(
            "filters.uid",
            UIDS,
            _NOTHING,
            "The user of the process. Names are looked up when the file is read.",
        ),
        Setting(
            "filters.remote",
            REMOTES,
            _NOTHING,
            "The other end's address. IPv4-mapped IPv6 addresses count as IPv4, here and in the connections.",
        ),
        Setting(
            "filters.family",
            choice("both", "ipv4", "ipv6"),
            "both",
            "The address family. A connection to or from an IPv4-mapped IPv6 address is an IPv4 one.",
        ),
        Setting(
            "filters.cgroup_map",
            PINNED_MAP,
            "null",
            "A BPF hash, pinned and kept up by others, with 8-byte keys: only processes in the cgroups "
            "(v2 ids) that are keys of it are traced.",
            restart_only=True,
        ),
        Setting(
            "filters.mntns_map",
            PINNED_MAP,
            "null",
            "The same with mount namespaces: their inums are the keys.",
            restart_only=True,
        ),
        Setting(
            "metrics.labels",
            subset("comm", "netns", "port"),
            "[comm, netns, port]",
            "The labels that series have. Leaving one out merges the series that differ in it alone; "
            "the sums stay the same.",
        ),
        Setting(
            "metrics.comm",
            choice("process", "thread"),
            "process",
            "Whose name `comm` is: the process's (its thread group leader's), or that of the thread "
            "which connected or accepted.",
        ),
        Setting(
            "metrics.max_series",
            whole(1, 1_000_000),
            "10000",
            "Label sets kept apart. What goes beyond is counted under `_other` in each label, so that "
            "sums stay exact.",
            restart_only=True,
        ),
        Setting(
            "metrics.series_ttl",
            DURATION,
            "1h",
            "A label set without events for this long is folded into `_other`, and its room is used again. "
            "One with a connection under way stays. 0 keeps all for ever.",
        ),
        Setting(
            "metrics.buckets.connect_latency", BOUNDS, _LATENCIES, "From connect() to established.", True
        ),
        Setting(
            "metrics.buckets.accept_wait",
            BOUNDS,
            _LATENCIES,
            "From established to handed over by accept(): the time in the accept queue.",
            restart_only=True,
        ),
        Setting(
            "metrics.buckets.connection_duration", BOUNDS, _DURATIONS, "From established to closed.", True
        ),
        Setting("events.journal", FLAG, "false", "Whether events go to the journal."),
        Setting(
            "events.types",
            subset("connect", "connect_failed", "accept", "close", low=1),
            "[connect, connect_failed, accept, close]",
            "Which events.",
        ),
        Setting(
            "events.rate_limit",
            whole(0, 10_000_000),
            "1000",
            "Events a second, at most; enforced in the kernel, and what is cut is counted in "
            "`tcpmon_lost_events_total`. 0 is no limit.",
        ),
        Setting(
            "events.buffer",
            BUFFER,
            "1MiB",
            "The ring buffer between the kernel and tcpmon.",
            restart_only=True,
        ),
        Setting(
            "connections.max_tracked",
            whole(1, 16_777_216),
            "262144",
            "Connections followed at once, over the whole host. The memory for them is taken at the start.",
            restart_only=True,
        ),
        Setting(
            "log.level", choice("debug", "info", "warning", "error"), "info", "The least that is logged."
        ),
    )
}
