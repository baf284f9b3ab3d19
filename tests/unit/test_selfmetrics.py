"""What tcpmon says about itself: the arithmetic of losses, and a whole registry over real BPF objects."""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tcpmon import __version__, netns
from tcpmon.kernel import attach, libbpf, probes
from tcpmon.kernel.load import Layout, Loaded, Table
from tcpmon.kernel.probes import Probe
from tcpmon.metrics import selfmetrics, snapshot
from tcpmon.metrics.selfmetrics import State, lost, probe_rows, registry, statistics_on

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="making BPF maps and programs needs root"
)
PERCPU_ARRAY = 6  # enum bpf_map_type
STAGES = {
    "connection_table",
    "connect_table",
    "series_table",
    "kernel_read",
    "event_ring",
    "rate_limit",
    "journal",
    "recursion",
}
PROGRAMS = dict.fromkeys(probe.program for probe in probes.STATES["fprobe"])

# The interface: name, type, labels. Those of the journal come with it.
INTERFACE = {
    ("tcpmon_build_info", "gauge", ("version", "kernel", "bcc")),
    ("tcpmon_netns_info", "gauge", ("netns", "name")),
    ("tcpmon_probe_info", "gauge", ("event", "function", "mechanism")),
    ("tcpmon_lost_events_total", "counter", ("stage",)),
    ("tcpmon_series", "gauge", ()),
    ("tcpmon_series_limit", "gauge", ()),
    ("tcpmon_series_overflow_total", "counter", ()),
    ("tcpmon_series_folded_total", "counter", ()),
    ("tcpmon_tracked_connections", "gauge", ()),
    ("tcpmon_tracked_connections_limit", "gauge", ()),
    ("tcpmon_journal_events_total", "counter", ()),
    ("tcpmon_config_last_reload_successful", "gauge", ()),
    ("tcpmon_config_last_reload_success_timestamp_seconds", "gauge", ()),
    ("tcpmon_scrape_duration_seconds", "gauge", ()),
    ("tcpmon_bpf_run_seconds_total", "counter", ("program",)),
    ("tcpmon_bpf_runs_total", "counter", ("program",)),
}


def test_the_interface() -> None:
    ours = {
        (name + ("_total" if own.kind == "counter" else ""), own.kind, own.labels)
        for name, own in selfmetrics.SELF.items()
    }
    assert ours == INTERFACE


def test_each_example_is_of_its_metric() -> None:
    for name, own in selfmetrics.SELF.items():
        assert name in own.example


def infos(**misses: int) -> Mapping[str, libbpf.ProgramInfo]:
    """Programs that missed so many events."""
    everything = {**PROGRAMS, "enter_connect": None, "exit_connect": None, "exit_accept": None}
    return {name: libbpf.ProgramInfo(recursion_misses=misses.get(name, 0)) for name in everything}


def counters(**numbers: int) -> Mapping[str, int]:
    return dict.fromkeys(snapshot.COUNTERS, 0) | numbers


@dataclass(frozen=True)
class Tally:
    """What the journal took, and did not."""

    written: int = 0
    lost: int = 0


def test_every_stage_is_there_at_0() -> None:
    assert lost(counters(), infos(), Tally()) == dict.fromkeys(STAGES, 0)


def test_what_the_journal_did_not_take() -> None:
    assert lost(counters(), infos(), Tally(lost=7)) == dict.fromkeys(STAGES, 0) | {"journal": 7}


@pytest.mark.parametrize(
    "counter, stage",
    [
        ("lost_connection", "connection_table"),
        ("lost_connect", "connect_table"),
        ("lost_series", "series_table"),
        ("lost_read", "kernel_read"),
        ("lost_event", "event_ring"),
        ("cut_event", "rate_limit"),
        ("lost_state", "recursion"),
    ],
)
def test_each_counter_has_its_stage(counter: str, stage: str) -> None:
    assert lost(counters(**{counter: 7}), infos(), Tally()) == dict.fromkeys(STAGES, 0) | {stage: 7}


def test_what_is_no_loss() -> None:
    assert lost(counters(tracked=5, overflow=7), infos(), Tally()) == dict.fromkeys(STAGES, 0)


@pytest.mark.parametrize("mechanism", probes.MECHANISMS["connect"])
def test_a_missed_connect_call_is_lost(mechanism: str) -> None:
    """Nobody else tells of a connect() that failed without a SYN."""
    programs = dict.fromkeys(probe.name for probe in probes.MECHANISMS["connect"][mechanism])
    for program in programs:
        told = 0 if mechanism == "fprobe" else 3  # by fprobe fexit's programs take over, and it for them
        assert lost(counters(lost_state=2), infos_of(mechanism, program), Tally())["recursion"] == 2 + told


def infos_of(mechanism: str, missing: str) -> Mapping[str, libbpf.ProgramInfo]:
    """All programs of a mechanism, of which one missed 3 events."""
    found = {probe.name: libbpf.ProgramInfo() for probe in probes.MECHANISMS["connect"][mechanism]}
    return found | {missing: libbpf.ProgramInfo(recursion_misses=3)}


@pytest.mark.parametrize("program", [*PROGRAMS, "exit_accept", "fexit_inet_csk_accept"])
def test_a_miss_that_others_take_over_is_no_loss(program: str) -> None:
    found = {program: libbpf.ProgramInfo(recursion_misses=3)}
    assert lost(counters(lost_state=2), found, Tally())["recursion"] == 2


def test_probe_rows() -> None:
    chosen = (
        *probes.STATES["raw_tracepoint"],
        *probes.MECHANISMS["connect"]["fexit"],
        *probes.MECHANISMS["accept"]["tracepoint"],
    )
    rows = probe_rows(chosen)
    assert len(rows) == len(set(rows))
    state = {(event, "inet_sock_set_state", "raw_tracepoint") for event in probes.EVENTS}
    assert state <= set(rows)
    assert {
        ("connect", "tcp_v6_connect", "fexit"),
        ("accept", "sys_exit_accept4", "tracepoint"),
        ("close", "tcp_destroy_sock", "raw_tracepoint"),
    } <= set(rows)
    assert {row[0] for row in rows} == set(probes.EVENTS)


def test_probe_rows_of_a_tracepoint_name_its_function() -> None:
    assert probe_rows((Probe("accept", "tracepoint", "syscalls:sys_exit_accept", "exit_accept"),)) == [
        ("accept", "sys_exit_accept", "tracepoint")
    ]


@pytest.mark.parametrize("text, expected", [("0\n", False), ("1\n", True), (None, False)])
def test_statistics_on(tmp_path: Path, text: str | None, expected: bool) -> None:
    if text is not None:
        (tmp_path / "enabled").write_text(text)
    assert statistics_on(tmp_path / "enabled") is expected


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    """Programs that do nothing, and a real table of counters, all 0."""
    size = len(snapshot.COUNTERS)
    fd = attach._bpf(0, struct.pack("<IIIII", PERCPU_ARRAY, 4, 8, size, 0))
    programs = {name: attach.load(attach.RAW_TRACEPOINT, name, attach.RETURN_0) for name in PROGRAMS}
    table = Table(fd, Layout(4, {}), Layout(8, {}))
    made = Loaded({"counters": table}, programs, (), probes.STATES["fprobe"], bcc="0.0.7")
    yield made
    made.close()


def add(loaded: Loaded, counter: str, number: int) -> None:
    values = struct.pack("=q", number).ljust(8 * snapshot.possible_cpus(), b"\0")
    index = struct.pack("=I", snapshot.COUNTERS.index(counter))
    libbpf.update(loaded.tables["counters"].fd, index, values)


def scraped(loaded: Loaded) -> Mapping[str, Metric]:
    state = State(
        series=17,
        series_limit=10007,
        series_folded=19,
        tracked_limit=1009,
        journal=Tally(),
        reload_ok=False,
        reload_timestamp=1789000001.5,
        scrape_seconds=lambda: 0.25,
    )
    text = generate_latest(registry(loaded, state)).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: Mapping[str, Metric], name: str, **labels: str) -> float:
    (found,) = [sample.value for sample in families[name].samples if sample.labels == labels]
    return float(found)


@needs_root
def test_a_fresh_one_has_every_stage_at_0(loaded: Loaded) -> None:
    samples = scraped(loaded)["tcpmon_lost_events"].samples
    assert {sample.labels["stage"]: sample.value for sample in samples} == dict.fromkeys(STAGES, 0)


@needs_root
def test_the_families(loaded: Loaded) -> None:
    families = scraped(loaded)
    when_statistics_are_on = set() if statistics_on() else {"tcpmon_bpf_run_seconds", "tcpmon_bpf_runs"}
    expected = set(selfmetrics.SELF) - when_statistics_are_on
    assert {name for name in families if name.startswith("tcpmon_")} == expected
    assert {name for name in families if not name.startswith("tcpmon_")} >= {
        "process_cpu_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    }
    for name in expected:
        own = selfmetrics.SELF[name]
        assert families[name].type == own.kind
        assert {tuple(sorted(sample.labels)) for sample in families[name].samples} == {
            tuple(sorted(own.labels))
        }


@needs_root
def test_the_values(loaded: Loaded) -> None:
    add(loaded, "overflow", 13)
    add(loaded, "tracked", 11)
    add(loaded, "lost_read", 3)
    families = scraped(loaded)
    build = {"version": __version__, "kernel": platform.release(), "bcc": "0.0.7"}
    assert value(families, "tcpmon_build_info", **build) == 1
    assert value(families, "tcpmon_series") == 17
    assert value(families, "tcpmon_series_limit") == 10007
    assert value(families, "tcpmon_series_overflow") == 13
    assert value(families, "tcpmon_series_folded") == 19
    assert value(families, "tcpmon_tracked_connections") == 11
    assert value(families, "tcpmon_tracked_connections_limit") == 1009
    assert value(families, "tcpmon_lost_events", stage="kernel_read") == 3
    assert value(families, "tcpmon_config_last_reload_successful") == 0
    assert value(families, "tcpmon_config_last_reload_success_timestamp_seconds") == 1789000001.5
    assert value(families, "tcpmon_scrape_duration_seconds") == 0.25


@needs_root
def test_namespaces_have_their_names(loaded: Loaded) -> None:
    own = os.stat("/proc/self/ns/net").st_ino
    samples = scraped(loaded)["tcpmon_netns_info"].samples
    assert {"netns": str(own), "name": netns.names()[own]} in [sample.labels for sample in samples]
    assert {sample.value for sample in samples} == {1}
