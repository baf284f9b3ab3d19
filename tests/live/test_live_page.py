"""The landing page of the real daemon in a real Chromium, while real connections come and go."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from browser import THEMES, WIDTHS, Browser, chromium, eventually, until
from harness.daemon import Daemon
from harness.netns import Netns
from harness.require import require
from harness.traffic import connect_and_close
from harness.workload import Link, run, spawn
from helpers.b_traffic import ask, client, fail, hold, server
from selenium.webdriver.common.keys import Keys

from tcpmon.metrics.overview import COLUMNS

OWN = {"filters": {"netns": {"exclude": ["self"]}}}  # the tests' namespaces, and nothing else of the machine
HELD = 17
BURST = 101
PAUSE_S = 0.01
# Also what is no UTF-8: as /metrics has it
HOSTILE = {b"<script>a()": "<script>a()", b"<b>\xff": "<b>\\xff", b"'\"&amp;": "'\"&amp;"}
CLOSED_PORT = 9
REFUSED = 111


@pytest.fixture(scope="module", autouse=True)
def a_browser() -> None:
    for path in ("/usr/bin/chromium", "/usr/bin/chromedriver"):
        require(Path(path).exists(), f"{path} is not installed")


@pytest.fixture(scope="module")
def shared_daemon(privileges: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Not the session's: that one has more label sets than the page shows."""
    with Daemon(tmp_path_factory.mktemp("page-daemon"), OWN, lossy=True) as running:
        yield running


@pytest.fixture(scope="module")
def page(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as window:
        window.look("light", 1440)
        window.open(url(shared_daemon))
        yield window
        assert window.complaints() == []


def url(daemon: Daemon) -> str:
    return daemon.url.removesuffix("metrics")


def keep_on(_link: Link, port: int) -> None:
    """Connections, one after the other, without end."""
    while True:
        connect_and_close(1, "127.0.0.1", port)
        time.sleep(PAUSE_S)


@contextmanager
def busy(ns: Netns, *names: str | bytes) -> Iterator[int]:
    """A process of each name connects all the time; the port."""
    with server(ns, "landed") as (_, [port]), ExitStack() as running:
        for name in names:
            running.enter_context(spawn(ns, name, keep_on, port))
        yield port


def rate(text: str) -> float:
    """A rate as the page writes it; 0 as long as there is none."""
    if text == "–":
        return 0.0
    number, _, unit = text.partition(" ")
    return float(number) * {"": 1, "k": 1e3}[unit]


def test_rates_while_connections_flow(daemon: Daemon, page: Browser, ns: Netns, comm: str) -> None:
    page.type("#filter", comm)
    with busy(ns, comm) as port:

        def flows() -> list[str]:
            row = page.row(comm)
            assert rate(row[3]) > 0
            return row

        row = eventually(flows)
        assert row[:3] == [comm, f"{ns.name} {ns.inum}", str(port)]
        assert row[4] == row[5] == "0"  # no accepts, no failures
        until(lambda: rate(page.row(comm)[6]) > 0)  # closes
        assert rate(page.sum()[1]) > 0
        until(lambda: bool(page.run("return document.querySelector('#rows .line').getAttribute('d')")))
        page.type("#filter", str(port))
        assert {row[0] for row in page.rows()} == {comm, "landed"}
    page.type("#filter", comm)
    until(lambda: page.row(comm)[3] == "0")


def test_numbers_are_those_of_metrics(daemon: Daemon, page: Browser, ns: Netns, comm: str) -> None:
    """To the last connection: opened, accepted, failed, closed, open."""
    page.type("#filter", comm)
    page.click("#totals")
    with server(ns, comm + ".s") as (_, [port]), client(ns, comm) as asking:
        ask(asking, hold, ("127.0.0.1", port), HELD)
        ask(asking, fail, ("127.0.0.1", CLOSED_PORT), 3, REFUSED)
        run(ns, comm, connect_and_close, BURST, "127.0.0.1", port)

        def counted() -> None:
            opened, closed = str(HELD + BURST), str(BURST)
            rows = {(row[0], row[2]): row[3:8] for row in page.rows()}
            assert rows == {
                (comm, str(port)): [opened, "0", "0", closed, str(HELD)],
                (comm, str(CLOSED_PORT)): ["0", "0", "3", "0", "0"],
                (comm + ".s", str(port)): ["0", opened, "0", closed, str(HELD)],
            }

        eventually(counted)
    page.click("#rates")


def test_names_of_processes_are_text(daemon: Daemon, page: Browser, ns: Netns) -> None:
    page.type("#filter", "")
    with busy(ns, *HOSTILE):
        page.type("#filter", ns.inum)
        until(lambda: {row[0] for row in page.rows()} >= set(HOSTILE.values()))
    assert page.run("return document.querySelectorAll('#rows :is(script, b)').length") == 0


def test_sorted_by_keyboard(daemon: Daemon, page: Browser, ns: Netns, comm: str) -> None:
    names = [comm + letter for letter in "bca"]
    with busy(ns, *names):
        page.type("#filter", comm)
        until(lambda: len(page.rows()) == len(names))
        page.run("document.querySelector('[data-column=comm] button').focus()")
        page.press(Keys.ENTER)
        until(lambda: [row[0] for row in page.rows()] == sorted(names))
        assert page.run("return document.querySelector('[aria-sort]').ariaSort") == "ascending"
        page.press(Keys.ENTER)
        assert [row[0] for row in page.rows()] == sorted(names, reverse=True)
        assert page.run("return document.querySelector('[aria-sort]').ariaSort") == "descending"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits(daemon: Daemon, page: Browser, ns: Netns, comm: str, theme: str, width: int) -> None:
    with busy(ns, comm):
        page.type("#filter", comm)
        until(lambda: len(page.rows()) == 1)
        page.look(theme, width)
        assert page.overflow() <= 0
        page.look("light", 1440)


def test_without_a_script(daemon: Daemon, ns: Netns, comm: str, tmp_path: Path) -> None:
    with server(ns, comm + ".s") as (_, [port]), chromium(tmp_path, scripts=False) as plain:
        run(ns, comm, connect_and_close, 1009, "127.0.0.1", port)

        def counted() -> None:
            plain.open(url(daemon))
            assert plain.row(comm)[:8] == [
                *(comm, f"{ns.name} {ns.inum}", str(port)),
                *("1,009", "0", "0", "1,009", "0"),
            ]

        eventually(counted)
        assert plain.text("#lost dd")
        assert plain.complaints() == []


def test_a_reload_shows(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The filters in force are the page's without it being read anew; then what was wrong with the file."""
    daemon = start_daemon(OWN)
    with chromium(tmp_path) as window:
        window.open(url(daemon))
        assert window.text("#filters dd").startswith("netns not")
        assert daemon.reload({"filters": {"port": ["8000-8099", 443]}})
        until(lambda: window.text("#filters dd") == "port 8000-8099, 443")
        daemon.write_config({"filters": {"port": [0]}})
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda: "the last reload failed" in window.text("#config dd"))
        assert window.text("#filters dd") == "port 8000-8099, 443"
        assert window.complaints() == []


def test_the_json(daemon: Daemon, ns: Netns, comm: str) -> None:
    """As docs/landing.md has it."""
    with server(ns, comm + ".s") as (_, [port]):
        run(ns, comm, connect_and_close, 7, "127.0.0.1", port)

        def counted() -> None:
            told = json.loads(daemon.get("/status.json"))
            (row,) = [row for row in told["rows"] if row[0] == comm]
            assert row[:3] == [comm, ns.inum, str(port)]
            assert dict(zip(told["columns"], row[3:], strict=True)) == dict.fromkeys(COLUMNS, 0) | {
                "connects": 7,
                "closes": 7,
            }
            assert told["netns"][ns.inum] == ns.name
            assert told["total"][0] >= 7

        eventually(counted)
