"""The watchdog's proof: a scrape through the server, to its end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace

import pytest

from tcpmon import daemon
from tcpmon.config import Address
from tcpmon.service.heartbeat import Pulse, scrape_works
from tcpmon.web.server import Response, Route, Server, listen

Serve = Callable[[Route], Server]
PATIENCE_S = 20.0


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(route): a running server with this for /metrics."""
    running: list[Server] = []

    def start(route: Route) -> Server:
        running.append(Server([listen(Address("127.0.0.1", 0))], {"/metrics": route}))
        running[-1].start()
        return running[-1]

    yield start
    for server in running:
        server.stop()


def text(body: Iterator[bytes] | list[bytes]) -> Route:
    def answer(_headers: Mapping[str, str]) -> Response:
        return Response(200, "text/plain", body)

    return answer


def test_a_scrape_that_works(serve: Serve) -> None:
    server = serve(text(iter([b"a 1\n" * 100_000, b"b 2\n"])))
    assert scrape_works(server.connect, PATIENCE_S)


def test_one_that_fails(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_headers: Mapping[str, str]) -> Response:
        raise RuntimeError("no map")

    assert not scrape_works(serve(fail).connect, PATIENCE_S)
    assert "answered with: 'HTTP/1.1 500" in caplog.text


def test_one_that_breaks_off(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a 1\n" * 100_000
        raise RuntimeError("no map")

    assert not scrape_works(serve(text(pieces())).connect, PATIENCE_S)
    assert "a scrape of our own broke off" in caplog.text or "a scrape of our own failed" in caplog.text


def test_one_that_hangs(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()

    def hang(_headers: Mapping[str, str]) -> Response:
        released.wait(PATIENCE_S)
        return Response(200, "text/plain", [b""])

    server = serve(hang)
    assert not scrape_works(server.connect, 0.1)
    assert "a scrape of our own failed: timed out" in caplog.text
    released.set()


def test_many_do_not_pile_up(serve: Serve) -> None:
    """Each is gone when it is answered: there is room for fewer than these."""
    server = serve(lambda _headers: Response(200, "text/plain", iter([b"a 1\n"])))
    assert all(scrape_works(server.connect, PATIENCE_S) for _ in range(101))


class Told:
    """A manager that notes what it is told."""

    present = True

    def __init__(self) -> None:
        self.lines: list[str] = []

    def alive(self) -> None:
        self.lines.append("alive")

    def status(self, text: str) -> None:
        self.lines.append(text)


def test_a_failure_is_tried_again_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One scrape that fails is no reason to be killed: the next comes while systemd still waits."""
    monkeypatch.setenv("WATCHDOG_USEC", "40000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    now, ends = 1000.0, signal.Signals.SIGTERM
    beats: list[float] = []

    def wait(_signals: object, seconds: float) -> object:
        nonlocal now
        now += seconds
        return SimpleNamespace(si_signo=ends) if now >= 1030 else None

    def works(_period_s: float) -> bool:
        beats.append(now - 1000)
        return len(beats) != 1

    monkeypatch.setattr("tcpmon.service.heartbeat.time.monotonic", lambda: now)
    monkeypatch.setattr("tcpmon.service.heartbeat.signal.sigtimedwait", wait)
    manager = Told()
    assert Pulse(manager, works, lambda: "well").wait({ends}) == ends  # type: ignore[arg-type]
    assert beats == [0, 5, 25]
    assert manager.lines == ["well", "alive", "well", "alive", "well"]


def test_only_a_scrape_of_this_beat_is_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one of our own is none for the next."""
    scraper = SimpleNamespace(answered=0)
    asked: list[float] = []

    def scrape(_connect: object, timeout_s: float) -> bool:
        asked.append(timeout_s)
        scraper.answered += 1
        return True

    monkeypatch.setattr(daemon, "scrape_works", scrape)
    beating = SimpleNamespace(_scraper=scraper, _proved=0, _own_scrapes=0)
    server = SimpleNamespace(connect=None)
    for somebody in (0, 0, 2, 0):
        scraper.answered += somebody
        assert daemon.Daemon._scrapes_work(beating, server, 6.0)  # type: ignore[arg-type]
    assert asked == [3.0] * 3
    assert beating._own_scrapes == 3
