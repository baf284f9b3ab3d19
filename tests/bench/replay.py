"""Scrapes of one real daemon, recorded and served again as those of many hosts."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.bench import subjects
from tests.bench.scrape import AS_PROMETHEUS, TIMEOUT_SECONDS, plain, until
from tests.bench.subjects import BenchError, Subject
from tests.bench.world import namespace

RECORD_EVERY_SECONDS = 1.0
CALM_SECONDS = 8.0


@dataclass(frozen=True)
class Answer:
    """What the daemon sent, as it sent it: OpenMetrics, compressed."""

    content_type: str
    body: bytes


@contextlib.contextmanager
def busy_host(folder: Path, settings: str) -> Iterator[Subject]:
    """A daemon with these settings that counts the programs of tests/bench/programs.py and nothing else."""
    with namespace() as ns:
        filters = f"filters: {{netns: [{ns.name}]}}"
        with subjects.tcpmon(folder, f"{filters}\n{settings}") as daemon:
            daemon.wait_ready()
            command = ["ip", "netns", "exec", ns.name, sys.executable, "-m", "tests.bench.programs"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as programs:
                assert programs.stdout is not None
                if programs.stdout.readline() != b"running\n":
                    raise BenchError("the programs did not start")
                yield daemon
                programs.communicate()


def recorded(daemon: Subject, count: int) -> list[Answer]:
    """So many scrapes, one after the other."""
    answers = []
    for _ in range(count):
        request = urllib.request.Request(daemon.url, headers=AS_PROMETHEUS)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            answers.append(Answer(response.headers["Content-Type"], response.read()))
        time.sleep(RECORD_EVERY_SECONDS)
    return answers


def settled_size(daemon: Subject) -> tuple[int, int]:
    """`size`, once each program has shown all it does."""
    seen = [(0, 0)]

    def stays() -> bool:
        seen.append(size(daemon))
        return seen[-1][0] == seen[-2][0]

    if not until(stays, TIMEOUT_SECONDS, CALM_SECONDS):
        raise BenchError("a host's series grow and grow")
    return seen[-1]


def size(daemon: Subject) -> tuple[int, int]:
    """Of its label sets: how many samples a scrape has, and bytes, uncompressed."""
    lines = [line for line in plain(daemon.url).splitlines(keepends=True) if of_a_label_set(line)]
    return len(lines), len("".join(lines).encode())


def of_a_label_set(line: str) -> bool:
    return bool(re.match(r"tcpmon_(connect|accept|close|open|sent|received|retransmitted)", line))


@contextlib.contextmanager
def replayed(answers: list[Answer]) -> Iterator[int]:
    """Serves /host-N/metrics: each host is somewhere else in the recording, and goes on with each scrape. The
    port."""
    places: dict[str, int] = {}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            host = self.path.split("/")[1]
            with lock:
                place = places.setdefault(host, int(host.rpartition("-")[2]))
                places[host] += 1
            answer = answers[place % len(answers)]
            self.send_response(200)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True  # which wait for the next scrape

        def handle_error(self, *_client: object) -> None:
            pass  # Prometheus has hung up: the count of hosts that are up tells when it should not have

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
