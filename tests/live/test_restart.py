"""A restart loses nothing: the module counts on while no daemon runs, and the next one takes it back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.daemon import Daemon
from harness.expect import accepted, opened
from harness.helpers import Helpers
from harness.manager import Manager
from harness.metrics import Counts
from harness.netns import Netns
from harness.polling import eventually
from helpers import parties
from helpers.parties import close, dial, exchange, party, serve, take, take_and_close

COUNT = 7
PORT = 4242
TAKEN = "tcpmon: the BPF programs went on counting meanwhile: taken over"
AFRESH = "tcpmon: counting starts afresh; the counts that were kept cannot be taken over: "
Start = Callable[..., Daemon]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(tmp_path) as found:
        yield found


@pytest.fixture
def start(manager: Manager, tmp_path: Path) -> Iterator[Start]:
    """start(config={...}): the service, started again where it has run before. Killed in the end."""
    started: list[Daemon] = []

    def launch(config: dict[str, Any] | None = None) -> Daemon:
        filters = {"filters": {"netns": {"exclude": ["self"]}}}
        started.append(Daemon(tmp_path, {**filters, **(config or {})}, lossy=True, launch=manager.launch))
        eventually(lambda: expect_told(manager, "READY=1"))
        return started[-1]

    yield launch
    for daemon in started:
        kill(daemon)


def kill(daemon: Daemon) -> None:
    daemon.process.kill()
    daemon.process.wait()


def expect_told(manager: Manager, line: str) -> None:
    assert line in manager.heard


def programs() -> set[int]:
    """The BPF programs of the machine that are tcpmon's, by number."""
    shown = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, check=True).stdout
    return {each["id"] for each in json.loads(shown) if each.get("name", "").startswith("state_changed")}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_happens_meanwhile_is_counted(start: Start, ns: Netns, comm: str, end: signal.Signals) -> None:
    daemon = start()
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        for _ in range(3):
            server.tell(take_and_close, 2 * COUNT)
            client.ask(exchange, COUNT, "127.0.0.1", port)
            daemon.process.send_signal(end)
            daemon.process.wait()
            client.ask(exchange, COUNT, "127.0.0.1", port)
            server.child.hear()
            daemon = start()
            assert TAKEN in daemon.stderr()
        daemon.expect(opened(6 * COUNT), ns, comm, port=str(port))
        daemon.expect(accepted(6 * COUNT), ns, comm + ".s", port=str(port))
    assert not daemon.losses()


def test_open_connections_go_on(start: Start, ns: Netns, comm: str) -> None:
    """Made under one daemon, closed under none, told by the next."""
    kill_me = start()
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        server.ask(take, COUNT)
        kill_me.expect(Counts(attempts=COUNT, connects=COUNT, open_client=COUNT), ns, comm)
        kill(kill_me)
        client.ask(close)
        server.ask(parties.read_close)
    daemon = start()
    daemon.expect(opened(COUNT), ns, comm)
    daemon.expect(accepted(COUNT), ns, comm + ".s")


def test_under_load(start: Start, ns: Netns, helpers: Helpers, comm: str) -> None:
    """Killed again and again in the midst of it: every connection is counted once."""
    count, daemon = 40_009, start()
    with ns.exec(helpers.named("loop", comm), str(count), "127.0.0.1", str(PORT)) as loop:
        while loop.poll() is None:
            kill(daemon)
            daemon = start()
        assert loop.wait() == 0
    daemon.expect(Counts(count, count, count, closes_client=count, closes_server=count), ns, comm)


def test_the_file_in_force_is_the_new_one(start: Start, ns: Netns, comm: str) -> None:
    """A restart reads the configuration anew; filters and labels are no reason to start afresh."""
    kill(start())
    daemon = start({"filters": {"comm": [comm]}, "metrics": {"labels": ["comm", "netns"]}})
    assert TAKEN in daemon.stderr()
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        server.ask(take, COUNT)
    daemon.expect(opened(COUNT), ns, comm)
    daemon.expect(Counts(), ns, comm + ".s")


@pytest.mark.parametrize(
    "config, what",
    [
        ({"metrics": {"max_series": 77}}, "metrics.max_series"),
        ({"metrics": {"buckets": {"accept_wait": [1]}}}, "metrics.buckets"),
        (
            {"connections": {"max_tracked": 77}, "events": {"buffer": "4KiB"}},
            "connections.max_tracked and events.buffer",
        ),
    ],
)
def test_what_cannot_go_on_starts_afresh(
    start: Start, manager: Manager, config: dict[str, Any], what: str
) -> None:
    others = programs()
    kill(start())
    ours = programs() - others
    names = set(manager.store)
    daemon = start(config)
    assert f"{AFRESH}{what} changed\n" in daemon.stderr()
    assert set(manager.store) == names
    eventually(lambda: expect_gone(ours))
    kill(daemon)
    assert TAKEN in start(config).stderr()


@pytest.mark.parametrize("missing", ["manifest", "map.series", "link.0"])
def test_a_part_is_not_taken_for_the_whole(start: Start, manager: Manager, missing: str) -> None:
    """The one before was killed while it gave its descriptors away."""
    kill(start())
    os.close(manager.store.pop(missing))
    assert AFRESH + "they are not complete\n" in start().stderr()
    assert missing in manager.store


def test_stopped_it_leaves_nothing(start: Start, manager: Manager) -> None:
    before = programs()
    daemon = start()
    assert programs() - before
    daemon.stop()
    assert programs() - before, "for the next one to take back"
    assert "STOPPING=1" in manager.heard
    manager.drop()
    eventually(lambda: expect_none(before))


def expect_gone(old: set[int]) -> None:
    assert not old & programs()


def expect_none(before: set[int]) -> None:
    assert not programs() - before


def test_scrapes_wait_for_the_next_daemon(start: Start, manager: Manager) -> None:
    """With a socket that systemd holds, a scrape during a restart is answered, a little later."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        manager.sockets["http"] = listener.fileno()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
        first = start()
        assert first.url == url
        kill(first)
        answers: list[bytes] = []
        scrape = threading.Thread(
            target=lambda: answers.append(urllib.request.urlopen(url, timeout=20).read())
        )
        scrape.start()
        start()
        scrape.join()
        assert b"tcpmon_build_info" in answers[0]


def test_ready_means_that_it_can_be_scraped(start: Start, manager: Manager) -> None:
    daemon = start()
    told = [line for line in manager.heard if line.startswith(("STATUS=", "READY="))]
    assert told[:2] == [
        "STATUS=reading the configuration",
        "STATUS=compiling and attaching the BPF programs",
    ]
    assert told[2] == "READY=1"
    assert daemon.get("/-/ready")


def test_a_reload_is_told(start: Start, manager: Manager) -> None:
    daemon = start()
    del manager.heard[:]
    assert daemon.reload({"filters": {"port": [80]}})
    eventually(lambda: expect_told(manager, "READY=1"))
    assert [line for line in manager.heard if "=1" in line] == ["RELOADING=1", "READY=1"]


def test_the_watchdog_hears_of_scrapes_that_work(tmp_path: Path) -> None:
    with Manager(tmp_path, watchdog_s=1) as manager, Daemon(tmp_path, launch=manager.launch) as daemon:
        eventually(lambda: expect_heard(manager, "WATCHDOG=1", 3))
        assert manager.last("STATUS").endswith(", 0 scrapes answered"), "our own are no client's"
        daemon.scrape()
        eventually(lambda: expect_status(manager, ", 1 scrapes answered"))


def expect_status(manager: Manager, end: str) -> None:
    assert manager.last("STATUS").endswith(end)


def expect_heard(manager: Manager, line: str, times: int) -> None:
    assert manager.heard.count(line) >= times
