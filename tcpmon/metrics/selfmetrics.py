"""What tcpmon says about itself, by prometheus_client: the daemon's state at the time of the scrape."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tcpmon import __version__, netns
from tcpmon.kernel import libbpf
from tcpmon.kernel.load import Loaded
from tcpmon.kernel.probes import Probe
from tcpmon.metrics import snapshot

_STATISTICS_ON = Path("/proc/sys/kernel/bpf_stats_enabled")
_NS = 1e9

RATE_LIMIT = "rate_limit"
# Every way to lose an event, by stage: tcpmon's own counters (bpf/types.h), and one that is worked out.
LOST_STAGES = {
    "connection_table": "lost_connection",
    "connect_table": "lost_connect",
    "series_table": "lost_series",
    "kernel_read": "lost_read",
    "event_ring": "lost_event",
    RATE_LIMIT: "cut_event",
}
RECURSION = "recursion"
JOURNAL = "journal"
# Their misses lose a connect() that failed without a SYN. Of the other programs' misses none is a loss by
# itself: another takes over (bpf/state.bpf.c), or what was missed shows later, as lost_state.
_NO_SECOND_CHANCE = ("enter_", "exit_connect", "fentry_", "fexit_tcp", "fexit_security")
_TAKE_TURNS = {"exit_connect", "fexit_tcp_v4_connect"}  # by fprobe: then neither's


@dataclass(frozen=True)
class Own:
    """A metric about tcpmon itself, for the collector below and for docs/metrics.md."""

    kind: str
    labels: tuple[str, ...]
    help: str
    example: str


# By name, without _total
SELF: Mapping[str, Own] = {
    "tcpmon_build_info": Own(
        "gauge",
        ("version", "kernel", "bcc"),
        "Versions; always 1.",
        "count by (version, kernel) (tcpmon_build_info)",
    ),
    "tcpmon_netns_info": Own(
        "gauge",
        ("netns", "name"),
        "Names of network namespaces; always 1.",
        "sum by (instance, netns, comm) (rate(tcpmon_connects_total[5m]))\n"
        "  * on (instance, netns) group_left (name) tcpmon_netns_info",
    ),
    "tcpmon_probe_info": Own(
        "gauge",
        ("event", "function", "mechanism"),
        "Hooks in use; always 1.",
        "count by (event, mechanism) (tcpmon_probe_info)",
    ),
    "tcpmon_lost_events": Own(
        "counter",
        ("stage",),
        "Events not counted, not followed or not told, by where.",
        "increase(tcpmon_lost_events_total[15m]) > 0",
    ),
    "tcpmon_series": Own(
        "gauge",
        (),
        "Label sets held in the kernel, _other not among them.",
        "topk(5, tcpmon_series / tcpmon_series_limit)",
    ),
    "tcpmon_series_limit": Own(
        "gauge",
        (),
        "Label sets that there is room for (metrics.max_series).",
        "tcpmon_series_limit - tcpmon_series",
    ),
    "tcpmon_series_overflow": Own(
        "counter",
        (),
        "Connections counted under _other because no label set was free.",
        "increase(tcpmon_series_overflow_total[1h]) > 0",
    ),
    "tcpmon_series_folded": Own(
        "counter",
        (),
        "Label sets folded into _other after metrics.series_ttl without an event.",
        "increase(tcpmon_series_folded_total[1d])",
    ),
    "tcpmon_tracked_connections": Own(
        "gauge",
        (),
        "Connections followed now: connecting, waiting for accept, open.",
        "topk(5, tcpmon_tracked_connections / tcpmon_tracked_connections_limit)",
    ),
    "tcpmon_tracked_connections_limit": Own(
        "gauge",
        (),
        "Connections that can be followed at once.",
        "tcpmon_tracked_connections_limit - tcpmon_tracked_connections",
    ),
    "tcpmon_journal_events": Own(
        "counter",
        (),
        "Events logged to the journal.",
        "rate(tcpmon_journal_events_total[5m])",
    ),
    "tcpmon_config_last_reload_successful": Own(
        "gauge",
        (),
        "Whether the last read of the configuration succeeded.",
        "tcpmon_config_last_reload_successful == 0",
    ),
    "tcpmon_config_last_reload_success_timestamp_seconds": Own(
        "gauge",
        (),
        "When it last succeeded, Unix time.",
        "time() - tcpmon_config_last_reload_success_timestamp_seconds",
    ),
    "tcpmon_scrape_duration_seconds": Own(
        "gauge",
        (),
        "Time that this scrape took up to this line.",
        "max_over_time(tcpmon_scrape_duration_seconds[1h])",
    ),
    "tcpmon_bpf_run_seconds": Own(
        "counter",
        ("program",),
        "Time spent in BPF (sysctl kernel.bpf_stats_enabled=1).",
        "sum by (instance) (rate(tcpmon_bpf_run_seconds_total[5m]))",
    ),
    "tcpmon_bpf_runs": Own(
        "counter",
        ("program",),
        "Runs of a BPF program (sysctl kernel.bpf_stats_enabled=1).",
        "rate(tcpmon_bpf_run_seconds_total[5m]) / rate(tcpmon_bpf_runs_total[5m]) > 0",
    ),
}


class Journal(Protocol):
    """Events that journald took, and those that it did not."""

    @property
    def written(self) -> int: ...

    @property
    def lost(self) -> int: ...


@dataclass(frozen=True)
class State:
    """What of the daemon's state is told."""

    series: int
    series_limit: int
    series_folded: int
    tracked_limit: int
    journal: Journal
    reload_ok: bool
    reload_timestamp: float
    scrape_seconds: Callable[[], float]


class SelfCollector(Collector):
    """One scrape's view. Everything read here works without privilege."""

    def __init__(self, loaded: Loaded, state: State) -> None:
        self._loaded = loaded
        self._state = state

    def collect(self) -> Iterator[Metric]:
        counters = snapshot.counters(self._loaded.tables["counters"])
        infos = program_infos(self._loaded)
        state = self._state
        yield _single("tcpmon_build_info", 1, (__version__, platform.release(), self._loaded.bcc))
        yield _family("tcpmon_netns_info", {(str(inum), name): 1 for inum, name in netns.names().items()})
        yield _family("tcpmon_probe_info", dict.fromkeys(probe_rows(self._loaded.probes), 1))
        losses = lost(counters, infos, state.journal)
        yield _family("tcpmon_lost_events", {(stage,): n for stage, n in losses.items()})
        yield _single("tcpmon_series", state.series)
        yield _single("tcpmon_series_limit", state.series_limit)
        yield _single("tcpmon_series_overflow", counters["overflow"])
        yield _single("tcpmon_series_folded", state.series_folded)
        yield _single("tcpmon_tracked_connections", counters["tracked"])
        yield _single("tcpmon_tracked_connections_limit", state.tracked_limit)
        yield _single("tcpmon_journal_events", state.journal.written)
        yield _single("tcpmon_config_last_reload_successful", state.reload_ok)
        yield _single("tcpmon_config_last_reload_success_timestamp_seconds", state.reload_timestamp)
        if statistics_on():
            yield _family(
                "tcpmon_bpf_run_seconds", {(name,): i.run_time_ns / _NS for name, i in infos.items()}
            )
            yield _family("tcpmon_bpf_runs", {(name,): i.run_cnt for name, i in infos.items()})
        yield _single("tcpmon_scrape_duration_seconds", state.scrape_seconds())


def registry(loaded: Loaded, state: State) -> CollectorRegistry:
    """A registry for one scrape: tcpmon's own metrics and the usual process_*."""
    made = CollectorRegistry(auto_describe=False)
    made.register(SelfCollector(loaded, state))
    ProcessCollector(registry=made)
    return made


def program_infos(loaded: Loaded) -> Mapping[str, libbpf.ProgramInfo]:
    """What the kernel says of each program, by its name."""
    return {name: libbpf.program_info(fd) for name, fd in loaded.programs.items()}


def probe_rows(probes: tuple[Probe, ...]) -> list[tuple[str, str, str]]:
    """(event, function, mechanism). The socket's states serve every event."""
    rows = []
    for probe in probes:
        events = ("connect", "accept", "close") if probe.program.startswith("state_") else (probe.event,)
        rows += [(event, probe.function, probe.kind) for event in events]
    return list(dict.fromkeys(rows))


def lost(
    counters: Mapping[str, int], infos: Mapping[str, libbpf.ProgramInfo], journal: Journal
) -> Mapping[str, int]:
    """Events lost, by stage."""
    alone = () if infos.keys() >= _TAKE_TURNS else _NO_SECOND_CHANCE
    misses = sum(int(info.recursion_misses) for name, info in infos.items() if name.startswith(alone))
    by_stage = {stage: counters[counter] for stage, counter in LOST_STAGES.items()}
    return by_stage | {RECURSION: counters["lost_state"] + misses, JOURNAL: journal.lost}


def statistics_on(source: Path = _STATISTICS_ON) -> bool:
    try:
        return source.read_text().strip() != "0"
    except OSError:
        return False  # a sandbox may hide /proc/sys: then there are no figures to show


def _family(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    own = SELF[name]
    make = GaugeMetricFamily if own.kind == "gauge" else CounterMetricFamily
    family = make(name, own.help, labels=own.labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _single(name: str, value: float, labels: tuple[str, ...] = ()) -> Metric:
    return _family(name, {labels: value})
