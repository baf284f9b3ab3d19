"""tcpmon about itself: is it well, is it exact, and what does it cost."""

from __future__ import annotations

from collections.abc import Sequence

from grafana.panels import Column, Key, Levels, Line, Panel, graph, listing
from grafana.queries import HOSTS, rate

# The alerts of deploy/prometheus/rules fire at the red ones
_SERIES = Levels(0.75, 0.9)
_TRACKED = Levels(0.6, 0.8)
# About 30 MB is usual; systemd ends it at 1 GiB
_MEMORY = Levels(128 * 2**20, 512 * 2**20)
# Prometheus gives up after 10 s, if not told otherwise
_SCRAPE = Levels(1, 5)
# Shares of one CPU
_CPU = Levels(0.1, 0.5)
_HOST = "job, instance"


def panels() -> Sequence[Panel]:
    return [_hosts(), *_exact(), *_cost(), _mechanisms()]


def _hosts() -> Panel:
    return listing(
        "Hosts",
        "A row for each tcpmon. Config faulty: its last reload found a fault, and the configuration before "
        "it is in force; journalctl -u tcpmon has the line. Of the label sets orange from 75 %, red from 90 "
        "%, where the alert fires: raise metrics.max_series or drop a label. Memory is about 30 MB, red "
        "from half of what systemd allows it.",
        [Key("instance"), Key("job"), Key("version"), Key("kernel"), Key("bcc")],
        [
            Column("Up for", _with_versions(f"time() - process_start_time_seconds{{{HOSTS}}}"), "s"),
            Column(
                "Config faulty",
                f"1 - min by ({_HOST}) (tcpmon_config_last_reload_successful{{{HOSTS}}})",
                "bool_yes_no",
                Levels(None, 1),
            ),
            Column("Label sets", _share("tcpmon_series", _HOST), "percentunit", _SERIES),
            Column(
                "Memory", f"max by ({_HOST}) (process_resident_memory_bytes{{{HOSTS}}})", "bytes", _MEMORY
            ),
            Column("CPU", rate("process_cpu_seconds_total", _HOST, HOSTS), "percentunit", _CPU),
            Column("Scrape", f"max by ({_HOST}) (tcpmon_scrape_duration_seconds{{{HOSTS}}})", "s", _SCRAPE),
        ],
        span=24,
        height=7,
        sort="Label sets",
    )


def _exact() -> Sequence[Panel]:
    return [
        graph(
            "Lost events",
            "A second, by stage; always 0 if all is well. connection_table: more connections than "
            "connections.max_tracked, not counted at all. connect_table, series_table, kernel_read, "
            "recursion: a count is short. rate_limit, event_ring, journal: counted, but missing in the "
            "journal: raise events.rate_limit or events.buffer.",
            "eps",
            Line(rate("tcpmon_lost_events_total", "stage", HOSTS), "{{stage}}"),
        ),
        graph(
            "Label sets in use",
            "Of metrics.max_series, and the fullest host counts. Orange from 75 %, red from 90 %: at 100 % "
            "what is new is counted under _other. Raise metrics.max_series, shorten metrics.series_ttl or "
            "drop a label.",
            "percentunit",
            Line(_share("tcpmon_series", "instance"), "{{instance}}"),
            levels=_SERIES,
            most=1,
        ),
        graph(
            "Into _other",
            "Connections a second that found no room for a label set of their own: always 0 if all is well, "
            "else raise metrics.max_series. And label sets a second that left after metrics.series_ttl "
            "without an event: with their counts the rates of _other jump. Sums stay right.",
            "cps",
            Line(rate("tcpmon_series_overflow_total", "instance", HOSTS), "connections, {{instance}}"),
            Line(rate("tcpmon_series_folded_total", "instance", HOSTS), "label sets, {{instance}}"),
        ),
        graph(
            "Connections followed",
            "Of connections.max_tracked, and the fullest host counts. Orange from 60 %, red from 80 %, "
            "where the alert fires: beyond 100 % connections are not counted at all (connection_table among "
            "Lost events).",
            "percentunit",
            Line(_share("tcpmon_tracked_connections", "instance"), "{{instance}}"),
            levels=_TRACKED,
            most=1,
        ),
        graph(
            "Journal entries",
            "Events that went to the journal, a second: 0 unless events.journal is on. Up to "
            "events.rate_limit.",
            "eps",
            Line(rate("tcpmon_journal_events_total", "instance", HOSTS), "{{instance}}"),
        ),
        graph(
            "Configuration in force",
            "1 where the last reload succeeded, 0 where it found a fault and the configuration before it is "
            "in force: journalctl -u tcpmon says where the fault is. Blue annotations are reloads, orange "
            "ones restarts.",
            "none",
            Line(f"min by (instance) (tcpmon_config_last_reload_successful{{{HOSTS}}})", "{{instance}}"),
            most=1,
        ),
    ]


def _cost() -> Sequence[Panel]:
    seconds = rate("tcpmon_bpf_run_seconds_total", "program", HOSTS)
    return [
        graph(
            "Scrape duration",
            "What a scrape took tcpmon, the slowest host's above. Orange from 1 s; red from 5 s, half of "
            "what Prometheus waits by default. It grows with label sets and buckets.",
            "s",
            Line(f"max by (instance) (tcpmon_scrape_duration_seconds{{{HOSTS}}})", "{{instance}}"),
            levels=_SCRAPE,
        ),
        graph(
            "CPU of the daemon",
            "Share of one CPU, in user space: next to nothing but at scrapes and with events.journal. "
            "Orange from 10 %, red from 50 %: scrape less often, or limit events.rate_limit.",
            "percentunit",
            Line(rate("process_cpu_seconds_total", "instance", HOSTS), "{{instance}}"),
            levels=_CPU,
        ),
        graph(
            "Memory of the daemon",
            "Resident, in user space: about 30 MB. Orange from 128 MiB, red from 512 MiB, half of what "
            "systemd allows. The kernel's tables come to this, allocated up front: connections.max_tracked "
            "by 184 bytes for the most part.",
            "bytes",
            Line(f"max by (instance) (process_resident_memory_bytes{{{HOSTS}}})", "{{instance}}"),
            levels=_MEMORY,
        ),
        graph(
            "CPU of the BPF programs",
            "Share of one CPU, by program, all hosts together: what tracing adds to connect, accept and "
            "close. Empty unless the kernel keeps statistics: sysctl kernel.bpf_stats_enabled=1, which "
            "itself costs a little.",
            "percentunit",
            Line(seconds, "{{program}}"),
            stacked=True,
            span=12,
        ),
        graph(
            "Time of a run",
            "Mean time of one run of each BPF program: some hundred nanoseconds, up to a few microseconds. "
            "Empty unless kernel.bpf_stats_enabled=1.",
            "s",
            Line(
                f"{seconds} / ({rate('tcpmon_bpf_runs_total', 'program', HOSTS)} > 0)",
                "{{program}}",
            ),
            span=12,
        ),
    ]


def _mechanisms() -> Panel:
    return listing(
        "Mechanisms",
        "How each event is traced, and on how many hosts: fprobe and fexit are the best, then kretprobe, "
        "then the tracepoints of system calls, as the kernel offers. An event that is missing here is not "
        "counted: tcpmon check-kernel tells why.",
        [Key("event"), Key("function"), Key("mechanism")],
        [Column("Hosts", f"count by (event, function, mechanism) (tcpmon_probe_info{{{HOSTS}}})", "none")],
        span=24,
        height=7,
    )


def _with_versions(expr: str) -> str:
    versions = "version, kernel, bcc"
    joined = f"({expr}) * on ({_HOST}) group_left ({versions}) tcpmon_build_info{{{HOSTS}}}"
    return f"max by ({_HOST}, {versions}) ({joined})"


def _share(gauge: str, by: str) -> str:
    """Used of the limit."""
    return f"max by ({by}) ({gauge}{{{HOSTS}}} / {gauge}_limit{{{HOSTS}}})"
