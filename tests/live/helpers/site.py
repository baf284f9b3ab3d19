"""A small site that Prometheus watches: servers and their clients, failures of every kind, and two daemons.

`web-1` is well; `db-1` has next to no room, and all that can go wrong with a daemon goes wrong with it.
`gone-1` is no more, and `odd-1` is something else (Prometheus itself). The job's configuration is the shipped
example for files of targets, the rules are the shipped ones: only what would take minutes is made to take
seconds.
"""

from __future__ import annotations

import errno
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from harness.blackhole import SILENT4, reach, silence
from harness.daemon import Daemon, free_port
from harness.netns import RIGHT4, Netns, netns, veth_pair
from harness.oracle import sockets
from harness.polling import eventually
from harness.prometheus import Prometheus
from harness.servers import HTTP, REDIS, load, nginx, nginx_accepts, redis, redis_connections
from harness.workload import Child, Link, spawn
from helpers.b_traffic import SYN_SENT, ask, client, connect, fail, hold, release, server, start, states

SHIPPED = Path(__file__).parents[3] / "deploy" / "prometheus"
Enter = Callable[..., Any]  # ExitStack.enter_context
TARGETS = 4  # web-1, db-1, gone-1, odd-1
POSTGRES, NOBODY, SLOW, LOSSY, FAR = 5432, 5433, 8000, 9000, 443
PROGRAMS = 997  # connections of each of the load generators
FEW = 53
LATE_S = 0.3
PORTS = (POSTGRES, *range(7000, 7008))
HELD = 70


@dataclass(frozen=True)
class Site:
    """All of it, after the traffic: what the servers themselves counted; when the first traffic was over."""

    prometheus: Prometheus
    rules: Path  # of the roll-ups
    web: Daemon
    left: Netns  # the clients
    right: Netns  # the servers
    warm_at: float  # Unix time
    warm_redis: int
    redis: int
    nginx: int


def example(folder: Path, targets: dict[str, str]) -> dict[str, Any]:
    """The shipped example with its files put into `folder`, to scrape the host:port of each instance."""
    shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
    listed = [{"targets": [address], "labels": {"instance": name}} for name, address in targets.items()]
    (folder / "targets" / "tcpmon.yml").write_text(yaml.safe_dump(listed))
    for rules in folder.glob("rules/*.yml"):
        rules.write_text(re.sub(r"\bfor: \d+m", "for: 2s", rules.read_text()))
    config = yaml.safe_load((folder / "prometheus-file-sd.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    return dict(config)


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        enter: Enter = stack.enter_context
        left, right = enter(veth_pair())
        narrow, small = enter(netns()), enter(netns())
        web = enter(Daemon(made(folder / "web"), only(left, right, narrow)))
        db = enter(Daemon(made(folder / "db"), cramped(small), lossy=True))
        prometheus = watching(enter, made(folder / "prometheus"), web, db)
        servers = made(folder / "servers")
        enter(nginx(right, RIGHT4, servers))
        enter(redis(right, RIGHT4, servers))
        enter(server(small, "postgres", *(("127.0.0.1", port) for port in PORTS)))
        batch = enter(client(small, "batch"))
        prometheus.scraped(TARGETS)
        # Each label set must have been scraped once before it grows: a counter's first value is no increase
        ask(batch, connect, ("127.0.0.1", POSTGRES))
        traffic(left, right, 7, 3)
        warm_redis = redis_connections(left, "redis-cli", RIGHT4)
        warm_at = run_out_of_ports(narrow, prometheus)
        misfortunes(batch, db)
        traffic(left, right, PROGRAMS, FEW)
        counts = (redis_connections(left, "redis-cli", RIGHT4), nginx_accepts(left, "curl", RIGHT4))
        eventually(lambda: quiet(web))
        prometheus.scraped(TARGETS)
        rules = folder / "prometheus" / "rules" / "tcpmon-recording.yml"
        yield Site(prometheus, rules, web, left, right, warm_at, warm_redis, *counts)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def only(*namespaces: Netns) -> dict[str, Any]:
    return {"filters": {"netns": [each.name for each in namespaces]}}


def watching(enter: Enter, folder: Path, web: Daemon, db: Daemon) -> Prometheus:
    targets = {"web-1": host(web), "db-1": host(db), "gone-1": f"127.0.0.1:{free_port()}"}
    prometheus: Prometheus = enter(Prometheus(folder, example(folder, targets)))
    add_odd_one(folder, prometheus.address)
    return prometheus


def host(daemon: Daemon) -> str:
    return daemon.url.removeprefix("http://").removesuffix("/metrics")


def add_odd_one(folder: Path, address: str) -> None:
    """Target files are read again when they change."""
    path = folder / "targets" / "tcpmon.yml"
    listed = [*yaml.safe_load(path.read_text()), {"targets": [address], "labels": {"instance": "odd-1"}}]
    path.write_text(yaml.safe_dump(listed))


def cramped(ns: Netns) -> dict[str, Any]:
    """Where a journald runs, it gets an entry or two of this."""
    return {
        **only(ns),
        "metrics": {"max_series": 4},
        "connections": {"max_tracked": 64},
        "events": {"journal": True, "types": ["connect_failed"], "rate_limit": 1},
    }


def quiet(daemon: Daemon) -> None:
    scrape = daemon.scrape()
    assert scrape.sum("tcpmon_open_connections") == 0
    scrape.identities()


def traffic(left: Netns, right: Netns, programs: int, few: int) -> None:
    """Good and bad, from `left` to `right`."""
    load(left, "ab", "-q", "-n", str(programs), "-c", "7", f"http://{RIGHT4}:{HTTP}/")
    many = ["-n", str(programs), "-c", "7", "-k", "0", "-t", "ping_mbulk", "-q"]
    load(left, "redis-benchmark", "-h", RIGHT4, "-p", str(REDIS), *many)
    with client(left, "psql") as psql, client(left, "webapp") as webapp:
        ask(psql, fail, (RIGHT4, POSTGRES), few, errno.ECONNREFUSED)
        with server(right, "postgres", (RIGHT4, POSTGRES)):
            ask(psql, connect, (RIGHT4, POSTGRES), few)
            ask(webapp, connect, (RIGHT4, POSTGRES), 5 * few)
            eventually(lambda: served(right))
    give_up(left, few)
    late(left, right, few)
    lost_segments(left, right, 2 * few)


def served(ns: Netns) -> None:
    """A server that ends takes with it what it has not accepted yet."""
    assert not [*sockets(ns, "established"), *sockets(ns, "close-wait")]


def give_up(left: Netns, few: int) -> None:
    """Some wait for the end of their patience, which is short here; others do not."""
    left.sysctl("net.ipv4.tcp_syn_retries", 1)
    silence(left, SILENT4)
    with client(left, "curl") as curl, client(left, "wget") as wget:
        ask(curl, start, (SILENT4, FAR), few)
        ask(wget, start, (SILENT4, FAR), few)
        ask(wget, release)
        eventually(lambda: _over(ask(curl, states)))


def _over(states: list[int]) -> None:
    assert SYN_SENT not in states, "still connecting"


def late(left: Netns, right: Netns, few: int) -> None:
    """A server that lets each of its connections wait in the accept queue."""

    def serve(link: Link) -> None:
        with socket.create_server((RIGHT4, SLOW), backlog=few) as listener:
            link.say()
            link.hear()
            time.sleep(LATE_S)
            accepted = [listener.accept()[0] for _ in range(few)]
            del accepted

    with spawn(right, "gunicorn", serve) as gunicorn, client(left, "curl") as curl:
        gunicorn.hear()
        ask(curl, hold, (RIGHT4, SLOW), few)
        gunicorn.say()
        gunicorn.result()


def lost_segments(left: Netns, right: Netns, few: int) -> None:
    """A way that breaks while data is on it: each connection must send again."""

    def send(link: Link) -> None:
        socks = [socket.create_connection((RIGHT4, LOSSY)) for _ in range(few)]
        link.say()
        link.hear()
        for sock in socks:
            sock.sendall(b"x" * 1009)
        link.say()
        link.hear()
        for sock in socks:
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""
            sock.close()

    with server(right, "rsyncd", (RIGHT4, LOSSY)), spawn(left, "rsync", send) as rsync:
        rsync.hear()
        silence(left, RIGHT4)
        rsync.say()
        rsync.hear()
        time.sleep(2)  # in which TCP tries again, at 0.2, 0.6 and 1.4 s
        reach(left, RIGHT4, right)
        rsync.say()
        rsync.result()
        eventually(lambda: served(right))


def run_out_of_ports(ns: Netns, prometheus: Prometheus) -> float:
    """Four local ports, all in use for one destination. The time of a scrape after the first failure."""
    ns.sysctl("net.ipv4.ip_local_port_range", "40000 40003")
    with server(ns, "haproxy", ("127.0.0.1", FAR)), client(ns, "envoy") as envoy:
        ask(envoy, hold, ("127.0.0.1", FAR), 4)
        ask(envoy, fail, ("127.0.0.1", FAR), 1, errno.EADDRNOTAVAIL)
        scraped_at = prometheus.scraped(TARGETS)
        ask(envoy, fail, ("127.0.0.1", FAR), FEW, errno.EADDRNOTAVAIL)
        ask(envoy, release)
    return scraped_at


def misfortunes(batch: Child, daemon: Daemon) -> None:
    """More label sets and connections than there is room for, more events than wanted, a faulty reload."""
    for port in PORTS:
        ask(batch, connect, ("127.0.0.1", port))
    ask(batch, fail, ("127.0.0.1", NOBODY), FEW, errno.ECONNREFUSED)
    ask(batch, hold, ("127.0.0.1", POSTGRES), HELD)
    daemon.config_path.write_text("listen: nowhere\n")
    daemon.process.send_signal(signal.SIGHUP)
