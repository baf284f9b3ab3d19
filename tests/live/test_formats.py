"""What /metrics answers: both formats, compressed or not, with every metric from the start."""

from __future__ import annotations

import gzip
import http.client
import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness.daemon import Daemon
from harness.metrics import parse
from harness.netns import Netns
from harness.require import require
from harness.traffic import connect_and_close
from harness.workload import run
from helpers.b_traffic import server
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.bench import world

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
COUNTERS = """
    tcpmon_connect_attempts_total tcpmon_connects_total tcpmon_connect_failures_total
    tcpmon_accepts_total tcpmon_closes_total tcpmon_sent_bytes_total tcpmon_received_bytes_total
    tcpmon_retransmitted_segments_total tcpmon_lost_events_total tcpmon_series_overflow_total
    tcpmon_journal_events_total process_cpu_seconds_total
"""
GAUGES = """
    tcpmon_open_connections tcpmon_build_info tcpmon_netns_info tcpmon_probe_info
    tcpmon_series tcpmon_series_limit tcpmon_tracked_connections tcpmon_tracked_connections_limit
    tcpmon_config_last_reload_successful tcpmon_config_last_reload_success_timestamp_seconds
    tcpmon_scrape_duration_seconds process_open_fds process_max_fds process_resident_memory_bytes
    process_virtual_memory_bytes process_start_time_seconds
"""
HISTOGRAMS = """
    tcpmon_connect_latency_seconds tcpmon_accept_wait_seconds tcpmon_connection_duration_seconds
"""
BPF_STATISTICS = ["tcpmon_bpf_run_seconds_total", "tcpmon_bpf_runs_total"]
TYPES = {
    **dict.fromkeys(COUNTERS.split(), "counter"),
    **dict.fromkeys(GAUGES.split(), "gauge"),
    **dict.fromkeys(HISTOGRAMS.split(), "histogram"),
}
LABELS = {"comm", "netns", "port"}
MORE_LABELS = {
    "tcpmon_connect_failures_total": {"reason"},
    "tcpmon_closes_total": {"role"},
    "tcpmon_open_connections": {"role"},
    "tcpmon_connection_duration_seconds_bucket": {"role", "le"},
    "tcpmon_connection_duration_seconds_sum": {"role"},
    "tcpmon_connect_latency_seconds_bucket": {"le"},
    "tcpmon_sent_bytes_total": {"role"},
    "tcpmon_received_bytes_total": {"role"},
    "tcpmon_retransmitted_segments_total": {"role"},
}
REASONS = {"refused", "timeout", "unreachable", "reset", "canceled", "no_port", "denied", "other"}
COUNT = 7


@pytest.fixture
def busy(daemon: Daemon, ns: Netns, comm: str) -> Daemon:
    """A daemon with something to tell."""
    with server(ns, comm + ".s") as (_, [port]):
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
    return daemon


class Answer:
    """One HTTP exchange, headers and undecoded body."""

    def __init__(self, daemon: Daemon, method: str = "GET", path: str = "/metrics", **headers: str) -> None:
        parts = urlsplit(daemon.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
        connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        answer = connection.getresponse()
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()
        connection.close()


def own(values: dict[str, float]) -> dict[str, float]:
    """Without what moves from scrape to scrape."""
    moving = ("process_", "python_", "tcpmon_scrape_", "tcpmon_bpf_", "tcpmon_tracked_connections[]")
    return {name: value for name, value in values.items() if not name.startswith(moving)}


def test_text_is_the_default(busy: Daemon) -> None:
    """Also for who wants a version of OpenMetrics that is not written here, or none."""
    others = ("*/*", "text/plain", "nonsense", "application/openmetrics-text;version=2.0.0")
    for accept in (None, *others, "application/openmetrics-text;version=1.0.0;q=0,text/plain;q=0.5"):
        answer = Answer(busy, **({"Accept": accept} if accept else {}))
        assert answer.status == 200
        assert answer.headers["Vary"] == "Accept, Accept-Encoding"
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert list(parse_text(answer.body.decode()))


@pytest.mark.parametrize("accept", [OPENMETRICS, f"{OPENMETRICS},text/plain;version=0.0.4;q=0.5,*/*;q=0.1"])
def test_openmetrics_if_asked(busy: Daemon, accept: str) -> None:
    answer = Answer(busy, Accept=accept)
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.body.endswith(b"# EOF\n")
    assert list(parse_openmetrics(answer.body.decode()))


def test_both_formats_say_the_same(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """Of a daemon that counts one namespace, where nothing happens any more."""
    daemon = start_daemon({"filters": {"netns": [ns.name]}})
    with server(ns, comm + ".s") as (_, [port]):
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
    text, other = Answer(daemon).body.decode(), Answer(daemon, Accept=OPENMETRICS).body.decode()
    found = own(values(parse_text(text)))
    assert found == own(values(parse_openmetrics(other)))
    assert "tcpmon_tracked_connections_limit[]" in found


def values(families: Iterable[Metric]) -> dict[str, float]:
    """Each sample's value by name and labels."""
    samples = [sample for family in families for sample in family.samples]
    return {
        f"{sample.name}{sorted((name, canonical(name, value)) for name, value in sample.labels.items())}": (
            sample.value
        )
        for sample in samples
        if not sample.name.endswith("_created")
    }


def canonical(label: str, value: str) -> str:
    """A bucket's bound as a number: 1 and 1.0 are the same."""
    return str(float(value)) if label == "le" else value


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS])
def test_gzip_if_asked(busy: Daemon, accept: str) -> None:
    answer = Answer(busy, Accept=accept, Accept_Encoding="gzip")
    assert answer.headers["Content-Encoding"] == "gzip"
    assert b"tcpmon_build_info" in gzip.decompress(answer.body)
    assert int(answer.headers.get("Content-Length", len(answer.body))) == len(answer.body)


@pytest.mark.parametrize("encoding", ["identity", "br", "gzip;q=0", ""])
def test_no_gzip_if_not_wanted(busy: Daemon, encoding: str) -> None:
    answer = Answer(busy, Accept_Encoding=encoding)
    assert answer.headers["Content-Encoding"] is None
    assert b"tcpmon_build_info" in answer.body


@pytest.mark.parametrize("path", ["/metrics", "/", "/status.json", "/-/healthy", "/-/ready"])
def test_head(daemon: Daemon, path: str) -> None:
    """As GET, without a body."""
    head, get = Answer(daemon, "HEAD", path), Answer(daemon, "GET", path)
    assert (head.status, get.status) == (200, 200)
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert not head.body
    assert get.body


def test_the_landing_page_leads_on(daemon: Daemon) -> None:
    page = Answer(daemon, path="/")
    assert page.headers["Content-Type"].startswith("text/html")
    assert b'href="/metrics"' in page.body or b'href="metrics"' in page.body


def test_other_methods_and_paths(daemon: Daemon) -> None:
    refused = Answer(daemon, "POST")
    assert refused.status == 405
    assert {word.strip() for word in refused.headers["Allow"].split(",")} == {"GET", "HEAD"}
    assert Answer(daemon, path="/nowhere").status == 404


@pytest.mark.parametrize("name", TYPES)
def test_every_metric_has_help_and_type_from_the_start(daemon: Daemon, name: str) -> None:
    text = Answer(daemon).body.decode()
    assert re.search(rf"^# HELP {name} \S.*[^\\]$", text, re.MULTILINE)
    assert re.search(rf"^# TYPE {name} {TYPES[name]}$", text, re.MULTILINE)


@pytest.fixture
def bpf_statistics() -> Iterator[None]:
    """The kernel measures BPF programs for the while."""
    with world.bpf_statistics():
        yield


def test_run_time_of_the_programs(bpf_statistics: None, busy: Daemon) -> None:
    for name in BPF_STATISTICS:
        rows = busy.scrape(name).series(name)
        assert all(set(labels) == {"program"} for labels, _ in rows)
        assert sum(value for _, value in rows) > 0, name


def test_each_family_is_written_once(busy: Daemon) -> None:
    text = Answer(busy).body.decode()
    types = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(types) == len(set(types))
    series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series))


@pytest.mark.parametrize("name", MORE_LABELS)
def test_labels(busy: Daemon, name: str, ns: Netns) -> None:
    for labels, _ in busy.scrape(name).series(name):
        assert set(labels) == LABELS | MORE_LABELS[name]
    failures = busy.scrape("tcpmon_connect_failures").series("tcpmon_connect_failures_total")
    assert {labels["reason"] for labels, _ in failures} <= REASONS


def test_every_loss_is_there_at_zero(start_daemon: Callable[..., Daemon]) -> None:
    rows = start_daemon().scrape().series("tcpmon_lost_events_total")
    assert rows
    assert all(set(labels) == {"stage"} and value == 0 for labels, value in rows)


def test_about_itself(start_daemon: Callable[..., Daemon], ns: Netns) -> None:
    before = time.time()
    scrape = start_daemon({"metrics": {"max_series": 4711}, "connections": {"max_tracked": 8513}}).scrape()
    [(build, one)] = scrape.series("tcpmon_build_info")
    assert (set(build), one) == ({"version", "kernel", "bcc"}, 1)
    assert build["kernel"] == Path("/proc/sys/kernel/osrelease").read_text().strip()
    assert build["bcc"]
    events = {labels["event"] for labels, _ in scrape.series("tcpmon_probe_info")}
    assert {"connect", "accept"} <= events
    assert all(
        set(labels) == {"event", "function", "mechanism"} for labels, _ in scrape.series("tcpmon_probe_info")
    )
    assert scrape.value("tcpmon_series_limit") == 4711
    assert scrape.value("tcpmon_tracked_connections_limit") == 8513
    assert scrape.value("tcpmon_config_last_reload_successful") == 1
    loaded = scrape.value("tcpmon_config_last_reload_success_timestamp_seconds")
    assert before - 1 <= loaded <= time.time() + 1
    assert scrape.value("tcpmon_journal_events_total") == 0
    assert 0 <= scrape.value("tcpmon_scrape_duration_seconds") < math.inf


def test_namespaces_have_names(busy: Daemon, ns: Netns) -> None:
    rows = busy.scrape("tcpmon_netns").series("tcpmon_netns_info", netns=ns.inum)
    assert [labels["name"] for labels, _ in rows] == [ns.name]


def test_promtool_finds_no_fault(busy: Daemon) -> None:
    require(shutil.which("promtool") is not None, "`promtool` (package prometheus) is not installed")
    text = Answer(busy).body
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    complaints = [line for line in done.stderr.decode().splitlines() if "tcpmon_" in line]
    assert not complaints
    assert parse(text.decode()).series("tcpmon_build_info")
