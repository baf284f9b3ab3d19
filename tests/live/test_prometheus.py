"""Debian's Prometheus scrapes the real daemon while Debian's nginx and redis are at work: every rule, every
query of the docs and of the dashboards gives what that traffic implies."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.again import undisturbed
from harness.daemon import Daemon, free_port
from harness.netns import Netns
from harness.oracle import snmp
from harness.polling import eventually
from harness.prometheus import NAME, Prometheus, Series, require_prometheus
from harness.servers import HTTP, REDIS, asking_for, require_servers
from helpers.site import FAR, FEW, LOSSY, POSTGRES, SHIPPED, SLOW, Site, host, site
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from tests.bench import world

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / "docs").glob("*.md"))
DASHBOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
TEXT = "text/plain;version=0.0.4"
# What moves from one scrape to the next though no connection of the site's does
MOVING = "tcpmon_scrape_duration_seconds|tcpmon_bpf_run.+|tcpmon_tracked_connections"


def shipped(name: str, kind: str) -> dict[str, str]:
    """Expression by name of the shipped rules of a kind: `record` or `alert`."""
    groups = yaml.safe_load((SHIPPED / "rules" / name).read_text())["groups"]
    return {rule[kind]: rule["expr"] for group in groups for rule in group["rules"]}


RECORDS = shipped("tcpmon-recording.yml", "record")
ALERTS = shipped("tcpmon-alerts.yml", "alert")

WEB, DB = {"job": "tcpmon", "instance": "web-1"}, {"job": "tcpmon", "instance": "db-1"}
# What must fire, and nothing else
FIRING: Mapping[str, list[dict[str, str]]] = {
    "TcpmonConnectsFailing": [
        {**WEB, "comm": "psql", "port": str(POSTGRES), "reason": "refused"},
        {**WEB, "comm": "curl", "port": str(FAR), "reason": "timeout"},
        {**WEB, "comm": "wget", "port": str(FAR), "reason": "canceled"},
    ],
    "TcpmonAcceptQueueSlow": [{**WEB, "comm": "gunicorn", "port": str(SLOW)}],
    "TcpmonEphemeralPortsExhausted": [{**WEB, "comm": "envoy", "port": str(FAR), "reason": "no_port"}],
    "TcpmonRetransmitsHigh": [{**WEB, "comm": "rsync", "port": str(LOSSY), "role": "client"}],
    "TcpmonDown": [{"job": "tcpmon", "instance": "gone-1"}],
    "TcpmonAbsent": [],  # see test_no_target_at_all
    "TcpmonProbesMissing": [
        {"job": "tcpmon", "instance": "odd-1", "event": event} for event in ("connect", "accept", "close")
    ],
    "TcpmonCountsLost": [{**DB, "stage": "connection_table"}],
    "TcpmonJournalEventsLost": [{**DB, "stage": "rate_limit"}],
    "TcpmonSeriesBudgetNearlyFull": [DB],
    "TcpmonSeriesOverflow": [DB],
    "TcpmonTrackedConnectionsNearLimit": [DB],
    "TcpmonReloadFailed": [DB],
}


@pytest.fixture(scope="module")
def bpf_statistics() -> Iterator[None]:
    """The kernel measures BPF programs for the while."""
    with world.bpf_statistics():
        yield


@pytest.fixture(scope="module")
def watched(
    privileges: None, bpf_statistics: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The site after its traffic: nothing changes any more."""
    require_prometheus()
    require_servers()
    with undisturbed(lambda: site(tmp_path_factory.mktemp("site"))) as made:
        yield made


def total(watched: Site, metric: str, ns: Netns | None = None, **labels: str) -> int:
    """The sum over web-1's series that have these labels."""
    labels = {"instance": "web-1", **({"netns": ns.inum} if ns else {}), **labels}
    selector = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return int(watched.prometheus.value(f"sum({metric}{{{selector}}})"))


def test_redis_counts_the_same(watched: Site) -> None:
    """From beginning to end, and over the time since the first traffic."""
    accepts = total(watched, "tcpmon_accepts_total", watched.right, comm="redis-server", port=str(REDIS))
    assert accepts == watched.redis
    assert total(watched, "tcpmon_connects_total", watched.left, port=str(REDIS)) == watched.redis
    connects = f'sum(tcpmon_connects_total{{comm="redis-benchmark",port="{REDIS}"}})'
    increase = watched.prometheus.value(connects) - watched.prometheus.value(connects, watched.warm_at)
    assert increase == watched.redis - watched.warm_redis - 1  # by who asked redis for its count
    assert increase > FEW


def test_nginx_counts_the_same(watched: Site) -> None:
    assert total(watched, "tcpmon_accepts_total", watched.right, comm="nginx") == watched.nginx
    assert total(watched, "tcpmon_connects_total", comm="ab", port=str(HTTP)) == watched.nginx - 1


def test_the_kernel_counts_the_same(watched: Site) -> None:
    """Of these two namespaces every connection was seen, in either role, and all are over."""
    left, right = snmp(watched.left), snmp(watched.right)
    assert total(watched, "tcpmon_connect_attempts_total", watched.left) == left.active_opens
    assert total(watched, "tcpmon_accepts_total", watched.right) == right.passive_opens
    failures = total(watched, "tcpmon_connect_failures_total", watched.left)
    assert total(watched, "tcpmon_connects_total", watched.left) == left.active_opens - failures
    closes = total(watched, "tcpmon_closes_total", watched.right, role="server")
    assert closes == total(watched, "tcpmon_closes_total", watched.left, role="client") == right.passive_opens
    assert (left.curr_estab, right.curr_estab) == (0, 0)


def test_bytes_and_times_are_those_of_the_traffic(watched: Site) -> None:
    """Each of ab's connections got a page and a head; each of gunicorn's waited three tenths of a second."""
    pages = total(watched, "tcpmon_received_bytes_total", comm="ab")
    assert pages == total(watched, "tcpmon_sent_bytes_total", comm="nginx", port=str(HTTP))
    assert pages > 998 * (watched.nginx - 1)
    late = f'tcpmon_accept_wait_seconds_bucket{{port="{SLOW}",le="0.25"}}'
    assert watched.prometheus.value(f"sum({late})") == 0
    assert total(watched, "tcpmon_accept_wait_seconds_count", port=str(SLOW)) == 3 + FEW


@pytest.mark.parametrize("record", RECORDS)
def test_what_is_recorded_is_what_the_rule_says(watched: Site, record: str) -> None:
    """Of web-1 (or of all hosts), and at the time of the recording to the last digit."""
    (rule,) = (rule for rule in watched.prometheus.rules() if rule["name"] == record)
    assert (rule["health"], rule.get("lastError")) == ("ok", None)

    def check() -> dict[tuple[tuple[str, str], ...], float | str]:
        """A scrape that was under way at that time is stored after it, and the rule has not seen it."""
        at = watched.prometheus.value(f"max(timestamp({record}))")
        recorded = bag(watched.prometheus.query(record, at))
        assert recorded == bag(watched.prometheus.query(RECORDS[record], at))
        return recorded

    recorded = eventually(check)
    assert recorded
    labels = {name for series in recorded for name, _value in series}
    assert ("instance" in labels) == record.startswith("instance")
    assert "netns" not in labels


def bag(found: list[Series]) -> dict[tuple[tuple[str, str], ...], float | str]:
    """Values by labels, the name left out. Not a number equals itself here."""
    return {
        tuple(sorted((name, value) for name, value in one.labels.items() if name != NAME)): one.value
        if one.value == one.value
        else "NaN"
        for one in found
    }


@pytest.mark.parametrize("alert", ALERTS)
def test_what_fires_is_what_went_wrong(watched: Site, alert: str) -> None:
    """And nothing of what went well."""
    wanted = sorted(map(sorted_items, FIRING[alert]))

    def check() -> None:
        fires = sorted(map(sorted_items, watched.prometheus.firing(alert)))
        found = [one for one in fires if not may_fire(alert, dict(one))]
        assert found == [one for one in wanted if not may_fire(alert, dict(one))]
        assert all(one in fires for one in wanted)

    eventually(check)
    (rule,) = (rule for rule in watched.prometheus.rules() if rule["name"] == alert)
    assert rule["health"] == "ok"


def may_fire(alert: str, labels: Mapping[str, str]) -> bool:
    """Where there is no journald; and on a machine with too much to do every server is slow."""
    return labels.get("stage") == "journal" or alert == "TcpmonAcceptQueueSlow"


def sorted_items(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(labels.items())


def test_no_target_at_all(watched: Site) -> None:
    """As it was an hour ago, when there was no Prometheus."""
    assert watched.prometheus.query(ALERTS["TcpmonAbsent"], watched.warm_at - 3600) == [
        Series({"job": "tcpmon"}, 1)
    ]


def documented() -> Iterator[Any]:
    """Every query of the docs."""
    for path in DOCS:
        blocks = re.findall(r"^```promql\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
        for number, block in enumerate(blocks, 1):
            yield pytest.param(block, id=f"{path.stem}-{number}")


@pytest.mark.parametrize("query", list(documented()))
def test_a_documented_query_finds_something(watched: Site, query: str) -> None:
    assert watched.prometheus.query(query)


def shown() -> Iterator[Any]:
    """Every expression of every dashboard, its variables' and annotations' among them."""
    if not DASHBOARDS:
        return
    from grafana.expressions import expressions

    for path in DASHBOARDS:
        for number, one in enumerate(expressions(json.loads(path.read_text()))):
            yield pytest.param(one, id=f"{path.stem}-{one.where}-{number}")


@pytest.mark.parametrize("expression", list(shown()))
def test_a_panel_shows_something(watched: Site, expression: Any) -> None:
    """BPF statistics are on and alerts fire: nothing may be empty here."""
    assert watched.prometheus.query(expression.expr), expression


def test_prometheus_has_no_complaint(watched: Site) -> None:
    """No sample was out of order or double, no rule failed."""
    assert watched.prometheus.complaints() == []
    targets = {one["labels"]["instance"]: one for one in watched.prometheus.api("targets")["activeTargets"]}
    assert {name: one["health"] for name, one in targets.items()} == {
        "web-1": "up",
        "db-1": "up",
        "odd-1": "up",
        "gone-1": "down",
    }


def test_promtool_finds_no_fault_in_what_is_served(watched: Site) -> None:
    promtool_is_content(watched.web)


def promtool_is_content(daemon: Daemon) -> None:
    text = daemon.get().encode()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_openmetrics_by_its_own_parser(watched: Site) -> None:
    families = list(parse_openmetrics(watched.web.get(Accept=OPENMETRICS)))
    counted = sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == "tcpmon_accepts_total" and sample.labels["comm"] == "redis-server"
    )
    assert counted == watched.redis


def test_both_formats_come_to_the_same_in_prometheus(watched: Site, tmp_path: Path) -> None:
    """Each job's target is an nginx that asks the daemon for one format: a Prometheus before 2.49 always asks
    for OpenMetrics first."""
    ports = {"text": free_port(), "openmetrics": free_port()}
    accepts = [(ports["text"], TEXT), (ports["openmetrics"], OPENMETRICS)]
    with asking_for(f"http://{host(watched.web)}", accepts, tmp_path):
        assert [content_type(port).partition(";")[0] for port in ports.values()] == [
            "text/plain",
            "application/openmetrics-text",
        ]
        with Prometheus(tmp_path, two_jobs(ports)) as prometheus:
            prometheus.scraped(len(ports))
            text, openmetrics = (stored(prometheus, job) for job in ports)
    assert len(text) > 500
    assert text == openmetrics


def content_type(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.headers["Content-Type"]


def two_jobs(ports: Mapping[str, int]) -> dict[str, Any]:
    web = {"instance": "web-1"}
    targets = {job: {"targets": [f"127.0.0.1:{port}"], "labels": web} for job, port in ports.items()}
    jobs = [{"job_name": job, "static_configs": [target]} for job, target in targets.items()]
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}


def stored(prometheus: Prometheus, job: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Each series of the daemon's by its name and labels but job."""
    found = prometheus.query(f'{{job="{job}",{NAME}=~"tcpmon_.+",{NAME}!~"{MOVING}"}}')
    return {
        tuple(sorted((name, value) for name, value in one.labels.items() if name != "job")): one.value
        for one in found
    }


def shipped_config(name: str) -> dict[str, Any]:
    """An example as it is shipped, at the pace of the tests, and without the rules."""
    config: dict[str, Any] = yaml.safe_load((SHIPPED / name).read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    return {key: value for key, value in config.items() if key != "rule_files"}


def test_a_prometheus_above_takes_the_roll_ups(watched: Site, tmp_path: Path) -> None:
    """By the shipped example, and these only."""
    config = shipped_config("federation.yml")
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [watched.prometheus.address]}]
    with Prometheus(tmp_path, config) as above:
        eventually(lambda: nothing_else(above, {"up", "ALERTS"}))
        eventually(lambda: said_to_be_up(above, {"web-1": 1, "db-1": 1, "odd-1": 1, "gone-1": 0}))
        assert above.complaints() == []


def said_to_be_up(above: Prometheus, hosts: dict[str, float]) -> None:
    """A series has its name some moments before its first sample can be asked for."""
    ups = above.query('up{job="tcpmon"}')
    assert {one.labels["instance"]: one.value for one in ups} == hosts


def nothing_else(above: Prometheus, others: set[str]) -> None:
    """It has every roll-up, of the tcpmon series nothing else, and of all others only these."""
    names = set(above.api("label/__name__/values"))
    ours = {name for name in names if not name.startswith("scrape_")}
    assert ours == set(RECORDS) | others


def test_a_store_is_sent_the_roll_ups(watched: Site, tmp_path: Path) -> None:
    """By the shipped example, to a Prometheus in Mimir's place: these only, and with the site's name."""
    rules = watched.rules
    folders = [tmp_path / name for name in ("store", "sender")]
    for folder in folders:
        folder.mkdir()
    with Prometheus(folders[0], {}, "--web.enable-remote-write-receiver") as store:
        config = shipped_config("remote-write.yml") | {"rule_files": [str(rules)]}
        config["remote_write"][0]["url"] = f"http://{store.address}/api/v1/write"
        config["scrape_configs"][0]["static_configs"] = [{"targets": [host(watched.web)]}]
        with Prometheus(folders[1], config) as sender:
            eventually(lambda: nothing_else(store, {"up"}), 20)
            # What relabelling makes of 127.0.0.1:PORT
            eventually(lambda: said_to_be_up(store, {"127.0.0.1": 1}))
            assert {one.labels["site"] for one in store.query("up")} == {"north"}
            assert sender.complaints() == []


def test_promtool_finds_no_fault_before_the_first_connection(start_daemon: Any, ns: Netns) -> None:
    daemon: Daemon = start_daemon({"filters": {"netns": [ns.name]}})
    promtool_is_content(daemon)
