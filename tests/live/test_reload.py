"""SIGHUP: what it changes, what it keeps, and that no count is lost and no counter goes back over it."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.expect import accepted, opened
from harness.metrics import Counts, Metrics
from harness.netns import Netns
from harness.polling import eventually, settled
from helpers.b_pinned import PinnedMap, bpffs
from helpers.b_reload import STAMP, reload
from helpers.b_traffic import ask, client, connect, hold, release, server

OPEN, BEFORE, DURING, AFTER = 3, 7, 1009, 5
SIGHUPS = 50
SUCCESSFUL = "tcpmon_config_last_reload_successful"
Labels = list[str]


@pytest.fixture(scope="module")
def reloaded(privileges: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose configuration each test changes."""
    with Daemon(tmp_path_factory.mktemp("reloaded")) as running:
        yield running


def sighup(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGHUP)


def refuse(daemon: Daemon, text: str) -> str:
    """Reload the file `text`, which must be refused; what stderr says of it."""
    reload(daemon, {})
    known = len(daemon.stderr())
    daemon.config_path.write_text(text)
    sighup(daemon)

    def told() -> str:
        assert daemon.scrape(SUCCESSFUL).value(SUCCESSFUL) == 0
        assert str(daemon.config_path) in daemon.stderr()[known:]
        return daemon.stderr()[known:]

    return eventually(told)


def counters(scrape: Metrics) -> Mapping[str, float]:
    """Each counter's sum over all its series; of a histogram, that of its buckets, count and sum."""
    suffixes = ("_total", "_bucket", "_count", "_sum")
    return {name: scrape.sum(name) for name in scrape.samples if name.endswith(suffixes)}


def assert_none_went_back(before: Mapping[str, float], now: Mapping[str, float]) -> None:
    dust = 1e-9  # of adding up seconds in another order
    gone_back = {
        name: (value, now.get(name)) for name, value in before.items() if now.get(name, 0) < value - dust
    }
    assert not gone_back


FILTERS: list[dict[str, Any]] = [
    {},
    {"comm": {"exclude": ["somebody"]}, "port": {"exclude": [1, "3-5"]}},
    {"remote": {"include": ["127.0.0.0/8", "::1/128"]}, "family": "ipv4"},
    {"uid": {"include": ["root"]}, "remote": {"exclude": ["192.0.2.0/24"]}},
]
LABELS: list[Labels] = [["comm", "netns", "port"], ["netns"], ["comm"], ["port", "netns"], []]


def test_filters_change_amid_traffic(reloaded: Daemon, ns: Netns, comm: str) -> None:
    """Every filter set lets this traffic pass, so all of it must be counted, whichever is in force."""
    reload(reloaded, {})
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        asking.say((connect, ("127.0.0.1", port), DURING))
        for filters in FILTERS * 5:
            reload(reloaded, {"filters": filters})
        asking.hear()
        reloaded.expect(opened(DURING), ns, comm)
        reloaded.expect(accepted(DURING), ns, comm + ".s")


def test_labels_change_amid_traffic(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """Whatever the labels are, the sums are what happened, and no counter's sum ever goes back."""
    alone = {"filters": {"netns": [ns.name]}}
    daemon = start_daemon(alone)
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        asking.say((connect, ("127.0.0.1", port), DURING))
        seen = counters(daemon.scrape())
        for labels in LABELS * 3:
            reload(daemon, {**alone, "metrics": {"labels": labels}})
            now = counters(daemon.scrape())
            assert_none_went_back(seen, now)
            seen = now
        asking.hear()

        def all_counted() -> None:
            scrape = daemon.scrape()
            assert scrape.counts() == total_of(DURING)
            scrape.identities()

        settled(all_counted)
        assert_none_went_back(seen, counters(daemon.scrape()))


def total_of(count: int, still_open: int = 0) -> Counts:
    """Both ends of `count` connections."""
    closed = count - still_open
    return Counts(count, count, count, {}, closed, closed, still_open, still_open)


@pytest.mark.parametrize("dropped", ["comm", "netns", "port"])
def test_dropping_a_label_merges_its_series(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str, dropped: str
) -> None:
    """The sums stay, over open connections too, which then close under the new labels; and back again."""
    alone = {"filters": {"netns": [ns.name]}}
    daemon = start_daemon(alone)
    addresses = [("127.0.0.1", 7001), ("127.0.0.1", 7002)]
    with server(ns, comm + ".s", *addresses), client(ns, comm) as asking:
        for address in addresses:
            ask(asking, connect, address, BEFORE)
            ask(asking, hold, address, OPEN)
        expect_sum(daemon, total_of(2 * (BEFORE + OPEN), still_open=2 * OPEN))
        kept = [label for label in LABELS[0] if label != dropped]
        reload(daemon, {**alone, "metrics": {"labels": kept}})
        scrape = expect_sum(daemon, total_of(2 * (BEFORE + OPEN), still_open=2 * OPEN))
        assert label_names(scrape) == set(kept)
        assert_no_duplicates(scrape)
        ask(asking, release)
        ask(asking, connect, addresses[0], AFTER)
        expect_sum(daemon, total_of(2 * (BEFORE + OPEN) + AFTER))
        reload(daemon, alone)
        scrape = expect_sum(daemon, total_of(2 * (BEFORE + OPEN) + AFTER))
        assert label_names(scrape) == set(LABELS[0])


def test_without_port_both_ports_are_one_series(
    start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    daemon = start_daemon({})
    addresses = [("127.0.0.1", 7001), ("127.0.0.1", 7002)]
    with server(ns, comm + ".s", *addresses), client(ns, comm) as asking:
        for address in addresses:
            ask(asking, connect, address, BEFORE)
        reload(daemon, {"metrics": {"labels": ["comm", "netns"]}})
        ask(asking, connect, addresses[0], AFTER)
        scrape = daemon.expect(opened(2 * BEFORE + AFTER), ns, comm)
        assert scrape.value("tcpmon_connects_total", comm=comm, netns=ns.inum) == 2 * BEFORE + AFTER


def expect_sum(daemon: Daemon, want: Counts) -> Metrics:
    def check() -> Metrics:
        scrape = daemon.scrape()
        assert scrape.counts() == want
        return scrape

    scrape = settled(check)
    scrape.identities()
    return scrape


def label_names(scrape: Metrics) -> set[str]:
    return {name for labels, _ in scrape.series("tcpmon_connects_total") for name in labels}


def assert_no_duplicates(scrape: Metrics) -> None:
    for name, rows in scrape.samples.items():
        keys = [tuple(sorted(labels.items())) for labels, _ in rows]
        assert len(keys) == len(set(keys)), name


def test_fifty_in_a_row(reloaded: Daemon, ns: Netns, comm: str) -> None:
    """Fifty signals as fast as they go, amid traffic: it is all counted, and the last file is in force."""
    reload(reloaded, {})
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        asking.say((connect, ("127.0.0.1", port), DURING))
        for _, filters in zip(range(SIGHUPS), itertools.cycle(FILTERS), strict=False):
            reloaded.write_config({"filters": filters})
            sighup(reloaded)
        asking.hear()
        reloaded.expect(opened(DURING), ns, comm)
        reload(reloaded, {"filters": {"comm": {"exclude": [comm]}}})
        ask(asking, connect, ("127.0.0.1", port), AFTER)
        reloaded.expect(accepted(DURING + AFTER), ns, comm + ".s")
        reloaded.expect(opened(DURING), ns, comm)
    assert reloaded.scrape(SUCCESSFUL).value(SUCCESSFUL) == 1


FAULTS = {
    "unknown key": ("prot: [80]", "prot"),
    "wrong type": ("family: [7]", "family"),
    "bad range": ("port: ['9000-8000']", "port"),
    "unknown user": ("uid: [no-such-user-here]", "uid"),
    "no such map": ("cgroup_map: /sys/fs/bpf/no/such/map", "cgroup_map"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_nothing(reloaded: Daemon, ns: Netns, comm: str, fault: str) -> None:
    """Nor does the part of the file that has none; the log says file, line, column and key."""
    line, key = FAULTS[fault]
    said = refuse(reloaded, f"filters:\n  comm: {{exclude: [{comm}]}}\n  {line}\n")
    where = rf"{re.escape(str(reloaded.config_path))}:3:\d+: filters\.{key}"
    assert re.search(where, said), said
    assert "Traceback" not in said
    expect_counting(reloaded, ns, comm)
    reload(reloaded, {})
    assert reloaded.scrape(SUCCESSFUL).value(SUCCESSFUL) == 1


@pytest.mark.parametrize("text", ["a: [1\n", "\t- :", "just words", "\x00"], ids=repr)
def test_what_is_no_configuration_changes_nothing(reloaded: Daemon, ns: Netns, comm: str, text: str) -> None:
    said = refuse(reloaded, text)
    assert "Traceback" not in said
    expect_counting(reloaded, ns, comm)


def test_a_vanished_file_changes_nothing(reloaded: Daemon, ns: Netns, comm: str) -> None:
    reload(reloaded, {"filters": {"comm": {"exclude": [comm + ".x"]}}})
    reloaded.config_path.unlink()
    sighup(reloaded)
    eventually(lambda: expect_value(reloaded, SUCCESSFUL, 0))
    with server(ns, comm + ".s") as (_, [port]):
        with client(ns, comm + ".x") as excluded:
            ask(excluded, connect, ("127.0.0.1", port), BEFORE)
        reloaded.expect(accepted(BEFORE), ns, comm + ".s")
        reloaded.expect(Counts(), ns, comm + ".x")


def test_the_timestamp_is_the_last_successs(reloaded: Daemon) -> None:
    reload(reloaded, {})
    before = reloaded.scrape(STAMP).value(STAMP)
    refuse(reloaded, "no_such_key: 1\n")
    scrape = reloaded.scrape()
    assert scrape.value(STAMP) > before  # `refuse` loads a good file first
    good = scrape.value(STAMP)
    sighup(reloaded)
    assert reloaded.scrape(STAMP).value(STAMP) == good


def expect_value(daemon: Daemon, name: str, want: float) -> None:
    assert daemon.scrape(name).value(name) == want


def expect_counting(daemon: Daemon, ns: Netns, comm: str) -> None:
    """Without a filter: connections of anyone are counted."""
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, connect, ("127.0.0.1", port), BEFORE)
        daemon.expect(opened(BEFORE), ns, comm)
        daemon.expect(accepted(BEFORE), ns, comm + ".s")


RESTART_ONLY: dict[str, tuple[dict[str, Any], str]] = {
    "connect_latency": ({"metrics": {"buckets": {"connect_latency": [1, 2]}}}, "metrics.buckets"),
    "accept_wait": ({"metrics": {"buckets": {"accept_wait": [1, 2]}}}, "metrics.buckets"),
    "connection_duration": ({"metrics": {"buckets": {"connection_duration": [1, 2]}}}, "metrics.buckets"),
    "max_series": ({"metrics": {"max_series": 77}}, "metrics.max_series"),
    "max_tracked": ({"connections": {"max_tracked": 7777}}, "connections.max_tracked"),
    "buffer": ({"events": {"buffer": "2MiB"}}, "events.buffer"),
    "listen": ({"listen": "127.0.0.1:1"}, "listen"),
}


@pytest.mark.parametrize("setting", RESTART_ONLY)
def test_restart_only_keys_keep_their_value(reloaded: Daemon, ns: Netns, comm: str, setting: str) -> None:
    """A warning names the key, and what else changed in the file is in force."""
    changed, key = RESTART_ONLY[setting]
    reload(reloaded, {})
    before = shape(reloaded.scrape())
    known = len(reloaded.stderr())
    reload(reloaded, {**changed, "filters": {"comm": {"exclude": [comm + ".x"]}}})
    warnings = [line for line in reloaded.stderr()[known:].splitlines() if key in line]
    assert len(warnings) == 1, reloaded.stderr()[known:]
    assert shape(reloaded.scrape()) == before
    expect_counting(reloaded, ns, comm)
    with server(ns, comm + ".x") as (_, [port]), client(ns, comm + ".y") as asking:
        ask(asking, connect, ("127.0.0.1", port), BEFORE)
        reloaded.expect(opened(BEFORE), ns, comm + ".y")
        reloaded.expect(Counts(), ns, comm + ".x")


def test_an_unchanged_file_warns_of_nothing(reloaded: Daemon) -> None:
    reload(reloaded, {"metrics": {"max_series": 10000}})
    known = len(reloaded.stderr())
    reload(reloaded, {"metrics": {"max_series": 10000}})
    assert "restart" not in reloaded.stderr()[known:]


def shape(scrape: Metrics) -> dict[str, Any]:
    """What restart-only settings show of themselves."""
    names = (
        "tcpmon_connect_latency_seconds",
        "tcpmon_accept_wait_seconds",
        "tcpmon_connection_duration_seconds",
    )
    bounds = {name: {row["le"] for row, _ in scrape.series(f"{name}_bucket")} for name in names}
    limits = ("tcpmon_series_limit", "tcpmon_tracked_connections_limit")
    return {**bounds, **{name: scrape.value(name) for name in limits}}


def test_map_paths_keep_their_value(reloaded: Daemon, ns: Netns, comm: str) -> None:
    reload(reloaded, {})
    known = len(reloaded.stderr())
    with bpffs() as folder, PinnedMap(folder / comm) as pinned:
        path = str(pinned.path)
        reload(reloaded, {"filters": {"cgroup_map": path, "mntns_map": path}})
        assert "filters.cgroup_map" in reloaded.stderr()[known:]
        assert "filters.mntns_map" in reloaded.stderr()[known:]
        expect_counting(reloaded, ns, comm)
