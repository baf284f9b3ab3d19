"""Whoever is measured: tcpmon in its ways, the naive script, and the peers; each started, read and ended
alike."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tcpmon.events.journald import SOCKET
from tests.bench import exact, peers, subjects
from tests.bench.loops import EVENTS_PER_CONNECTION, LOOP_PORT
from tests.bench.peers import Peer, Tool
from tests.bench.scrape import every_second, until
from tests.bench.subjects import BenchError, Subject, ticks_of
from tests.bench.world import Namespace

DRAIN_SECONDS = 1.0  # the naive script reads its buffers every 0.2 s


@dataclass(frozen=True)
class Made:
    """Connections that the loops made in a namespace, and from how many listening sockets."""

    connections: int
    listeners: int


@dataclass(frozen=True)
class Loss:
    """Of so many events: what it said it lost, and what is missing besides."""

    events: int
    told: int
    silent: int


@dataclass(frozen=True)
class Tracer:
    """One at work. `ended` stops it and says what it lost of what was made."""

    pids: tuple[int, ...]
    scraped: Callable[[], AbstractContextManager[None]]  # while the loops run
    settle: Callable[[], None]
    ended: Callable[[Namespace, Made], Loss]

    def cpu_ticks(self) -> int:
        return sum(map(ticks_of, self.pids))

    def memory_mib(self) -> float:
        fields = (Path(f"/proc/{pid}/status").read_text() for pid in self.pids)
        return sum(int(subjects.status_field(text, "VmRSS")) for text in fields) / 1024


@dataclass(frozen=True)
class Contestant:
    """`again`: how many turns it has in a round."""

    name: str
    start: Callable[[Path], AbstractContextManager[Tracer]]
    again: int = 1


@contextlib.contextmanager
def _tcpmon(folder: Path, settings: str) -> Iterator[Tracer]:
    with subjects.tcpmon(folder, settings) as daemon:
        daemon.wait_ready()
        yield Tracer(
            (daemon.process.pid,),
            lambda: every_second(daemon.url),
            lambda: None,
            lambda ns, made: _counted(daemon, ns, made),
        )


def _counted(daemon: Subject, ns: Namespace, made: Made) -> Loss:
    told, missing = exact.losses(daemon, ns, made.connections)
    return Loss(EVENTS_PER_CONNECTION * made.connections, told, max(0, missing - told))


@contextlib.contextmanager
def _naive(folder: Path) -> Iterator[Tracer]:
    with subjects.naive(folder) as script:
        script.wait_ready()

        def ended(_ns: Namespace, made: Made) -> Loss:
            words = script.last_words()
            due = EVENTS_PER_CONNECTION * made.connections
            return _loss(due, words["events"].get(str(LOOP_PORT), 0), words["lost"])

        yield Tracer(
            (script.process.pid,),
            lambda: every_second(script.url),
            lambda: time.sleep(DRAIN_SECONDS),
            ended,
        )


def _loss(due: int, got: int, told: int) -> Loss:
    """What it says it lost may be of other connections, and never more than is missing counts."""
    missing = max(0, due - got)
    return Loss(due, min(told, missing), max(0, missing - told))


@contextlib.contextmanager
def _peer(folder: Path, peer: Peer) -> Iterator[Tracer]:
    with peers.running(peer, folder) as tools:

        def ended(_ns: Namespace, made: Made) -> Loss:
            for tool in tools:
                tool.stop()
            due = peer.lines * made.connections + peer.listener_lines * made.listeners
            return _loss(due, peers.lines_of(tools, LOOP_PORT), peers.lost(tools))

        yield Tracer(_pids(tools), contextlib.nullcontext, lambda: peers.settled(tools), ended)


def _pids(tools: list[Tool]) -> tuple[int, ...]:
    return tuple(tool.process.pid for tool in tools)


@contextlib.contextmanager
def journald(folder: Path) -> Iterator[None]:
    """Somebody who takes the journal's entries: the system's own, or one that throws them away."""
    path = Path(SOCKET)
    if path.exists():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (folder / "sink.log").open("wb") as said:
        command = [sys.executable, "-m", "tests.bench.sink", SOCKET]
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
    try:
        if not until(path.exists, subjects.START_SECONDS):
            raise BenchError(f"nobody takes entries at {path}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        path.unlink(missing_ok=True)


def ways(*settings: tuple[str, object]) -> str:
    """Settings as YAML."""
    return "\n".join(f"{name}: {json.dumps(value)}" for name, value in settings)


METRICS = Contestant("tcpmon, metrics", lambda folder: _tcpmon(folder, ""), again=2)
EVERYTHING = Contestant(
    "tcpmon, metrics and journal",
    lambda folder: _tcpmon(folder, ways(("events", {"journal": True}))),
    again=2,
)
UNLIMITED = Contestant(
    "tcpmon, metrics and journal, no rate limit",
    lambda folder: _tcpmon(folder, ways(("events", {"journal": True, "rate_limit": 0}))),
)
NAIVE = Contestant("naive bcc script", _naive)
OURS = (METRICS, EVERYTHING, UNLIMITED, NAIVE)


def others(wanted: tuple[Peer, ...]) -> list[Contestant]:
    return [Contestant(peer.name, lambda folder, peer=peer: _peer(folder, peer)) for peer in wanted]
