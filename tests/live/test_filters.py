"""Every filter dimension, include and exclude, alone and together, on all that is counted."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness.blackhole import SILENT4, silence
from harness.daemon import Daemon
from harness.expect import accepted, opened
from harness.metrics import Counts, Metrics
from harness.netns import RIGHT4, Netns, netns, sh
from harness.polling import eventually, settled
from harness.traffic import listen
from harness.workload import Child
from helpers.b_pinned import PinnedMap, bpffs, cgroup
from helpers.b_reload import reload
from helpers.b_traffic import (
    SYN_SENT,
    ask,
    become,
    client,
    connect,
    fail,
    hold,
    release,
    server,
    start,
    states,
)

CONNECTS, REFUSED, UNREACHABLE = 7, 3, 2
CLONE_NEWNS = 0x20000
FAILURES = {"refused": REFUSED, "unreachable": UNREACHABLE}
ATTEMPTS = CONNECTS + REFUSED + UNREACHABLE
CLIENT = Counts(attempts=ATTEMPTS, connects=CONNECTS, failures=FAILURES, closes_client=CONNECTS)
SERVER = accepted(CONNECTS)
NOTHING = Counts()


@dataclass(frozen=True)
class Route:
    """Where an actor's connections go: what answers, what has no route, and the networks of both."""

    host: str
    bind: str
    unreachable: str
    networks: list[str]


V4 = Route("127.0.0.2", "127.0.0.2", "198.51.100.1", ["127.0.0.0/8", "198.51.100.0/24"])
V6 = Route("::1", "::1", "2001:db8::1", ["::1/128", "2001:db8::/32"])
MAPPED = Route("::ffff:127.0.0.2", "::", "::ffff:198.51.100.1", V4.networks)


@dataclass(frozen=True)
class Actor:
    """A client and its server, and all that a filter may tell them by."""

    ns: Netns
    comm: str
    uid: int
    port: int
    route: Route
    client: Child
    server: Child

    def act(self) -> None:
        """Make CLIENT and SERVER happen."""
        closed = self.port + 1
        ask(self.client, connect, (self.route.host, self.port), CONNECTS)
        ask(self.client, fail, (self.route.host, closed), REFUSED, errno.ECONNREFUSED)
        unreachable = (errno.ENETUNREACH, errno.EHOSTUNREACH)
        ask(self.client, fail, (self.route.unreachable, closed), UNREACHABLE, *unreachable)


LISTS: dict[str, Callable[[Actor], list[Any]]] = {
    "pid": lambda who: [who.client.pid, who.server.pid],
    "port": lambda who: [who.port, who.port + 1],
    "netns": lambda who: [int(who.ns.inum)],
    "comm": lambda who: [who.comm, who.comm + ".s"],
    "uid": lambda who: [who.uid],
    "remote": lambda who: who.route.networks,
}


@contextmanager
def acting(ns: Netns, comm: str, uid: int, port: int, route: Route) -> Iterator[Actor]:
    with server(ns, comm + ".s", (route.bind, port), uid=uid) as (serving, _), client(ns, comm) as asking:
        ask(asking, become, uid)
        yield Actor(ns, comm, uid, port, route, asking, serving)


@pytest.fixture
def actors(comm: str) -> Iterator[tuple[Actor, Actor]]:
    """Two that differ in everything."""
    with ExitStack() as stack:
        first, second = stack.enter_context(netns()), stack.enter_context(netns())
        yield (
            stack.enter_context(acting(first, comm + ".a", 1001, 7001, V4)),
            stack.enter_context(acting(second, comm + ".b", 1002, 7101, V6)),
        )


@pytest.fixture(scope="module")
def filtered(privileges: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose filters each test sets by reload."""
    with Daemon(tmp_path_factory.mktemp("filtered")) as running:
        yield running


def expect(daemon: Daemon, *stories: tuple[Actor, bool]) -> None:
    """Each actor is counted to the unit, or not at all, and it stays so."""

    shared = stories[0][0].comm.partition(".")[0]

    def check() -> Metrics:
        scrape = daemon.scrape(f'comm="{shared}')
        for who, counted in stories:
            for comm, story in ((who.comm, CLIENT), (who.comm + ".s", SERVER)):
                got = scrape.counts(netns=who.ns.inum, comm=comm)
                assert got == (story if counted else NOTHING), comm
        return scrape

    scrape = settled(check)
    for who, _ in stories:
        scrape.identities(netns=who.ns.inum)


def expect_only(
    daemon: Daemon, filters: dict[str, Any], actors: tuple[Actor, ...], *counted: Actor, live: bool = True
) -> None:
    """All act under `filters`: those `counted` are so to the unit, the others not at all."""
    if live:
        reload(daemon, {"filters": filters})
    for who in sorted(actors, key=lambda who: who in counted):
        who.act()
    expect(daemon, *((who, who in counted) for who in actors))


@pytest.mark.parametrize("dimension", LISTS)
def test_include(filtered: Daemon, actors: tuple[Actor, Actor], dimension: str) -> None:
    filters = {dimension: {"include": LISTS[dimension](actors[0])}}
    expect_only(filtered, filters, actors, actors[0])


@pytest.mark.parametrize("dimension", LISTS)
def test_exclude(filtered: Daemon, actors: tuple[Actor, Actor], dimension: str) -> None:
    filters = {dimension: {"exclude": LISTS[dimension](actors[0])}}
    expect_only(filtered, filters, actors, actors[1])


@pytest.mark.parametrize(("family", "index"), [("ipv4", 0), ("ipv6", 1)])
def test_family(filtered: Daemon, actors: tuple[Actor, Actor], family: str, index: int) -> None:
    expect_only(filtered, {"family": family}, actors, actors[index])


def test_bare_list_is_short_for_include(filtered: Daemon, actors: tuple[Actor, Actor]) -> None:
    expect_only(filtered, {"comm": LISTS["comm"](actors[1])}, actors, actors[1])


def test_nothing_stays_of_earlier_lists(filtered: Daemon, actors: tuple[Actor, Actor]) -> None:
    everything = {dimension: {"include": of(actors[0])} for dimension, of in LISTS.items()}
    reload(filtered, {"filters": everything})
    reload(
        filtered,
        {"filters": {dimension: {"exclude": rows["include"]} for dimension, rows in everything.items()}},
    )
    expect_only(filtered, {}, actors, *actors)


def test_all_dimensions_at_once(start_daemon: Callable[..., Daemon], actors: tuple[Actor, Actor]) -> None:
    filters: dict[str, Any] = {name: {"include": of(actors[0])} for name, of in LISTS.items()}
    daemon = start_daemon({"filters": {**filters, "family": "ipv4"}})
    expect_only(daemon, {}, actors, actors[0], live=False)


@pytest.mark.parametrize("odd", LISTS)
def test_dimensions_are_joined_by_and(filtered: Daemon, actors: tuple[Actor, Actor], odd: str) -> None:
    """Every dimension lists the first but `odd`, which lists the second: nobody passes."""
    filters = {name: {"include": of(actors[1 if name == odd else 0])} for name, of in LISTS.items()}
    expect_only(filtered, filters, actors)


@pytest.mark.parametrize("dimension", LISTS)
def test_exclude_wins(filtered: Daemon, actors: tuple[Actor, Actor], dimension: str) -> None:
    everybody = [*LISTS[dimension](actors[0]), *LISTS[dimension](actors[1])]
    filters = {dimension: {"include": everybody, "exclude": LISTS[dimension](actors[0])}}
    expect_only(filtered, filters, actors, actors[1])


def test_exclude_of_one_dimension_beats_include_of_another(
    filtered: Daemon, actors: tuple[Actor, Actor]
) -> None:
    filters = {"comm": {"include": LISTS["comm"](actors[0])}, "uid": {"exclude": [actors[0].uid]}}
    expect_only(filtered, filters, actors)


@pytest.mark.parametrize(
    ("ports", "index"),
    [
        (["7000-7050"], 0),
        (["7001-7002"], 0),
        (["7002-7100", 7001], 0),
        (["7099-7102", 65535], 1),
        (["1-65535"], None),
    ],
    ids=lambda value: "+".join(map(str, value)) if isinstance(value, list) else str(value),
)
def test_port_ranges(
    filtered: Daemon, actors: tuple[Actor, Actor], ports: list[int | str], index: int | None
) -> None:
    counted = actors if index is None else (actors[index],)
    expect_only(filtered, {"port": {"include": ports}}, actors, *counted)


def test_port_just_beside_a_range(filtered: Daemon, actors: tuple[Actor, Actor]) -> None:
    expect_only(filtered, {"port": {"include": ["1-7000", "7003-7100", "7103-65535"]}}, actors)


@pytest.mark.parametrize("how", ["inum", "name", "path"])
def test_netns_by(filtered: Daemon, actors: tuple[Actor, Actor], how: str) -> None:
    ns = actors[0].ns
    value = {"inum": int(ns.inum), "name": ns.name, "path": str(ns.path)}
    expect_only(filtered, {"netns": [value[how]]}, actors, actors[0])


def test_netns_by_pid(start_daemon: Callable[..., Daemon], actors: tuple[Actor, Actor]) -> None:
    daemon = start_daemon({"filters": {"netns": [f"pid:{actors[0].client.pid}"]}})
    expect_only(daemon, {}, actors, actors[0], live=False)


def test_netns_by_pid_is_for_the_start(filtered: Daemon, actors: tuple[Actor, Actor]) -> None:
    """Without privilege nobody may look at another's namespace: a reload says so, and changes nothing."""
    netns = f"pid:{actors[0].client.pid}"
    filtered.write_config({"filters": {"netns": [netns]}})
    os.kill(filtered.pid, signal.SIGHUP)
    successful = "tcpmon_config_last_reload_successful"

    def refused() -> None:
        assert filtered.scrape(successful).value(successful) == 0

    eventually(refused)
    assert f"{netns}" in filtered.stderr()
    reload(filtered, {})


def test_netns_self(filtered: Daemon, actors: tuple[Actor, Actor], comm: str) -> None:
    with server(None, comm + ".s") as (_, [port]), client(None, comm) as asking:
        reload(filtered, {"filters": {"netns": ["self"]}})
        ask(asking, connect, ("127.0.0.1", port), CONNECTS)

        def counted() -> None:
            scrape = filtered.scrape(comm)
            assert (scrape.counts(comm=comm), scrape.counts(comm=comm + ".s")) == (opened(CONNECTS), SERVER)

        expect_only(filtered, {}, actors, live=False)
        eventually(counted)


def test_uid_by_name(filtered: Daemon, comm: str, ns: Netns) -> None:
    with acting(ns, comm, 65534, 7001, V4) as nobody, acting(ns, comm + ".r", 1, 7101, V6) as other:
        expect_only(filtered, {"uid": ["nobody"]}, (nobody, other), nobody)


def test_comm_is_exact(filtered: Daemon, comm: str, ns: Netns) -> None:
    longer = (comm + "." * 15)[:13]
    with acting(ns, longer, 1, 7001, V4) as whole, acting(ns, longer[:-1], 1, 7101, V4) as prefix:
        names = [whole.comm, whole.comm + ".s"]
        expect_only(filtered, {"comm": names}, (whole, prefix), whole)


@pytest.mark.parametrize(
    ("filters", "counted"),
    [
        ({"remote": {"include": V4.networks}}, True),
        ({"remote": {"include": ["0.0.0.0/0"]}}, True),
        ({"remote": {"include": ["::1/128"]}}, False),
        ({"remote": {"exclude": V4.networks}}, False),
        ({"family": "ipv4"}, True),
        ({"family": "ipv6"}, False),
    ],
    ids=str,
)
def test_mapped_addresses_are_ipv4(
    filtered: Daemon, comm: str, ns: Netns, filters: dict[str, Any], counted: bool
) -> None:
    with acting(ns, comm, 1, 7001, MAPPED) as who:
        expect_only(filtered, filters, (who,), *([who] if counted else []))


def test_nested_networks(filtered: Daemon, comm: str, ns: Netns) -> None:
    """The excluded host lies within the included network; its neighbour does not suffer."""
    far = Route("127.0.0.3", "127.0.0.3", "198.51.100.1", V4.networks)
    with server(ns, comm + ".s", (far.host, 7001), (V4.host, 7001)) as _, client(ns, comm) as asking:
        reload(filtered, {"filters": {"remote": {"include": ["127.0.0.0/8"], "exclude": ["127.0.0.2/32"]}}})
        ask(asking, connect, (V4.host, 7001), 5, V4.host)
        ask(asking, connect, (far.host, 7001), CONNECTS, far.host)
        filtered.expect(opened(CONNECTS), ns, comm)
        filtered.expect(SERVER, ns, comm + ".s")


def test_decided_at_birth(filtered: Daemon, pair: tuple[Netns, Netns], comm: str) -> None:
    """What was born counted ends counted, and what was born uncounted is never heard of."""
    left, right = pair
    silence(left, SILENT4)
    yes, no = comm + ".y", comm + ".n"
    with (
        server(right, yes + ".s", (RIGHT4, 7001)),
        server(right, no + ".s", (RIGHT4, 7101)),
        client(left, yes) as counted,
        client(left, no) as uncounted,
    ):
        reload(filtered, {"filters": {"comm": {"exclude": [no, no + ".s"]}}})
        for who, port in ((uncounted, 7101), (counted, 7001)):
            ask(who, hold, (RIGHT4, port), CONNECTS)
            ask(who, start, (SILENT4, port), REFUSED)
            assert ask(who, states).count(SYN_SENT) == REFUSED
        filtered.expect(Counts(accepts=CONNECTS, open_server=CONNECTS), right, yes + ".s")
        reload(filtered, {"filters": {"comm": {"exclude": [yes, yes + ".s"]}}})
        ask(uncounted, release)
        ask(counted, release)
        attempts, canceled = CONNECTS + REFUSED, {"canceled": REFUSED}
        story = Counts(attempts=attempts, connects=CONNECTS, failures=canceled, closes_client=CONNECTS)
        filtered.expect(story, left, yes)
        filtered.expect(SERVER, right, yes + ".s")
        filtered.expect(NOTHING, left, no)
        filtered.expect(NOTHING, right, no + ".s")


_listening: list[socket.socket] = []  # in a child


def _listen() -> int:
    _listening.append(listen())
    return int(_listening[0].getsockname()[1])


def _accept(n: int) -> None:
    for _ in range(n):
        _listening[0].accept()[0].close()


def test_a_servers_birth_is_the_accept(filtered: Daemon, ns: Netns, comm: str) -> None:
    """Filters that change while connections wait in the accept queue: those of the accept hold."""
    with client(ns, comm + ".s") as accepting, client(ns, comm) as asking:
        reload(filtered, {"filters": {"comm": {"exclude": [comm + ".s"]}}})
        port = ask(accepting, _listen)
        ask(asking, hold, ("127.0.0.1", port), CONNECTS + REFUSED)
        ask(accepting, _accept, REFUSED)
        reload(filtered, {})
        ask(accepting, _accept, CONNECTS)
        ask(asking, release)
        filtered.expect(SERVER, ns, comm + ".s")


def _unshare_mounts() -> int:
    """Give the calling process a mount namespace of its own; its inum."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    return os.stat("/proc/self/ns/mnt").st_ino


def _move(pids: tuple[int, ...], group: Path) -> None:
    for pid in pids:
        (group / "cgroup.procs").write_text(str(pid))


@contextmanager
def two_servers_and_clients(ns: Netns, comm: str) -> Iterator[tuple[Actor, Actor]]:
    with acting(ns, comm + ".a", 0, 7001, V4) as first, acting(ns, comm + ".b", 0, 7101, V6) as second:
        yield first, second


@pytest.mark.parametrize("value_size", [4, 8])
def test_cgroup_map(start_daemon: Callable[..., Daemon], ns: Netns, comm: str, value_size: int) -> None:
    """Membership alone decides, whatever the values; ids come and go while the daemon runs."""
    with (
        bpffs() as folder,
        PinnedMap(folder / comm, value_size=value_size) as pinned,
        cgroup(comm) as group,
        two_servers_and_clients(ns, comm) as (inside, outside),
    ):
        daemon = start_daemon({"filters": {"cgroup_map": str(pinned.path)}})
        _move((inside.client.pid, inside.server.pid), group)
        inside.act()
        expect(daemon, (inside, False))
        pinned.add(group.stat().st_ino)
        expect_only(daemon, {}, (inside, outside), inside, live=False)
        pinned.remove(group.stat().st_ino)
        inside.act()
        expect(daemon, (inside, True))


@pytest.mark.parametrize("value_size", [4, 8])
def test_mntns_map(start_daemon: Callable[..., Daemon], ns: Netns, comm: str, value_size: int) -> None:
    with (
        bpffs() as folder,
        PinnedMap(folder / comm, value_size=value_size) as pinned,
        client(ns, comm) as inside,
        client(ns, comm + ".o") as outside,
        server(ns, comm + ".s") as (_, [port]),
    ):
        daemon = start_daemon({"filters": {"mntns_map": str(pinned.path)}})
        pinned.add(ask(inside, _unshare_mounts))
        ask(outside, connect, ("127.0.0.1", port), CONNECTS)
        ask(inside, connect, ("127.0.0.1", port), CONNECTS)
        daemon.expect(opened(CONNECTS), ns, comm)
        daemon.expect(NOTHING, ns, comm + ".o")
        daemon.expect(NOTHING, ns, comm + ".s")
        pinned.add(os.stat("/proc/self/ns/mnt").st_ino)
        ask(outside, connect, ("127.0.0.1", port), CONNECTS)
        daemon.expect(opened(CONNECTS), ns, comm + ".o")
        daemon.expect(SERVER, ns, comm + ".s")


def test_pinned_maps_and_lists_together(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """Only who is in the cgroup map, the mntns map and the port list counts."""
    with (
        bpffs() as folder,
        PinnedMap(folder / (comm + "c")) as cgroups,
        PinnedMap(folder / (comm + "m")) as mounts,
        cgroup(comm) as group,
        two_servers_and_clients(ns, comm) as (both, one),
    ):
        maps = {"cgroup_map": str(cgroups.path), "mntns_map": str(mounts.path)}
        daemon = start_daemon({"filters": {**maps, "port": ["7000-7999"]}})
        cgroups.add(group.stat().st_ino)
        _move((both.client.pid, both.server.pid), group)
        both.act()
        expect(daemon, (both, False))
        mounts.add(os.stat("/proc/self/ns/mnt").st_ino)
        expect_only(daemon, {}, (both, one), both, live=False)


def test_no_map_is_made_or_unmade(start_daemon: Callable[..., Daemon], comm: str) -> None:
    """The pinned map is its owner's: it is there, with its entries, when the daemon has gone."""
    with bpffs() as folder, PinnedMap(folder / comm) as pinned:
        pinned.add(4711)
        start_daemon({"filters": {"cgroup_map": str(pinned.path)}}).stop()
        assert pinned.path.exists()
        assert "key" in sh(f"bpftool map dump pinned {pinned.path}")
