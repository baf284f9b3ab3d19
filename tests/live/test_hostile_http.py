"""Whatever a client does to the HTTP port, the next scrape answers within a second."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from http.client import HTTPResponse
from urllib.parse import urlsplit

import pytest
from harness.daemon import Daemon
from harness.polling import PATIENCE, eventually
from harness.traffic import linger0

# Far less than a client that holds up another would cost, and enough for a machine that is busy otherwise
WITHIN_S = 5.0 * PATIENCE
IDLE = 200
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def address(daemon: Daemon) -> tuple[str, int]:
    parts = urlsplit(daemon.url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def dial(daemon: Daemon) -> socket.socket:
    return socket.create_connection(address(daemon), timeout=10)


def answers(daemon: Daemon) -> None:
    """The promise itself: a whole scrape, from connect to its last byte, at once."""
    start, chunks = time.monotonic(), []
    with socket.create_connection(address(daemon), timeout=WITHIN_S) as sock:
        sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        while chunk := sock.recv(1 << 16):
            chunks.append(chunk)
            sock.settimeout(max(0.001, start + WITHIN_S - time.monotonic()))
    body = b"".join(chunks)
    assert body.startswith(b"HTTP/1.1 200 ")
    assert b"tcpmon_build_info{" in body


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


@pytest.fixture(autouse=True)
def all_is_well_after(daemon: Daemon) -> Iterator[None]:
    """After each test: it answers, and it kept no descriptor of a client that has gone."""
    before = descriptors(daemon)
    yield
    answers(daemon)

    def nothing_kept() -> None:
        assert descriptors(daemon) <= before

    eventually(nothing_kept)
    assert "Traceback" not in daemon.stderr()


GARBAGE = {
    "bytes": random.Random(1).randbytes(4096),
    "zeros": bytes(4096),
    "a line without end": b"A" * 100_000,
    "TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(100),
    "newlines": b"\r\n" * 5000,
    "no version": b"GET /metrics\r\n\r\n",
    "odd version": b"GET /metrics HTTP/9.9\r\n\r\n",
    "words": b"this is no request at all\r\n\r\n",
    "a header without colon": b"GET /metrics HTTP/1.1\r\nnonsense\r\n\r\n",
    "a huge header": b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    "bytes in headers": b"GET /metrics HTTP/1.1\r\n\xff\xfe: \xff\r\nAccept: \xff\r\n\r\n",
    "negative length": b"GET /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "a body": b"GET /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nbody",
    "chunks": b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a bad path": b"GET /%%%zz\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    "a bad host": b"GET http://[::1 HTTP/1.1\r\nHost: [\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage(daemon: Daemon, garbage: str) -> None:
    """Sent, and left there: whatever comes back, it is no scrape's business."""
    with dial(daemon) as sock:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may hang up before the end of it
            sock.sendall(GARBAGE[garbage])
        answers(daemon)


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 12, 20, len(GET) - 2, len(GET) - 1])
def test_half_a_request(daemon: Daemon, cut: int) -> None:
    with dial(daemon) as sock:
        sock.sendall(GET[:cut])
        answers(daemon)


@pytest.mark.parametrize(
    "path", ["/" + "a" * 10_000, "/metrics?" + "q" * 10_000, "/" + "%00" * 3333], ids=len
)
def test_long_paths(daemon: Daemon, path: str) -> None:
    """Refused, but for a query, which changes nothing."""
    with dial(daemon) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = sock.recv(10)
    assert got == b"HTTP/1.1 4" or (path.startswith("/metrics?") and got == b"HTTP/1.1 2")


def test_idle_connections(daemon: Daemon) -> None:
    with ExitStack() as idle:
        for _ in range(IDLE):
            idle.enter_context(dial(daemon))
        answers(daemon)


def test_idle_connections_with_half_a_request(daemon: Daemon) -> None:
    with ExitStack() as idle:
        for number in range(IDLE):
            idle.enter_context(dial(daemon)).sendall(GET[: number % len(GET)])
        answers(daemon)


def test_more_idle_connections_than_there_is_patience_for(daemon: Daemon) -> None:
    """They come faster than any scrape; the daemon may hang up on the oldest of them, not on the scrape."""
    with ExitStack() as idle:
        for _ in range(5):
            for _ in range(IDLE):
                idle.enter_context(dial(daemon))
            answers(daemon)


def test_a_client_that_never_reads(daemon: Daemon) -> None:
    """It asks and asks, until neither end's buffers take any more."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    with sock:
        sock.connect(address(daemon))
        sock.setblocking(False)
        with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                sock.send(GET)
        answers(daemon)


def test_many_clients_that_never_read(daemon: Daemon) -> None:
    with ExitStack() as clients:
        for _ in range(23):
            sock = clients.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            sock.connect(address(daemon))
            sock.sendall(GET * 20)
        answers(daemon)


def test_a_client_that_sends_byte_by_byte(daemon: Daemon) -> None:
    """And gets its answer in the end."""
    with dial(daemon) as slow:
        for byte in GET[:-1]:
            slow.sendall(bytes([byte]))
            if byte == ord("/"):
                answers(daemon)
        slow.sendall(GET[-1:])
        assert slow.recv(15) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/-/healthy", "/nowhere"])
def test_clients_that_hang_up(daemon: Daemon, path: str) -> None:
    """At once after the request, with a reset, before anything is read."""
    for _ in range(53):
        with dial(daemon) as sock:
            linger0(sock)
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answers(daemon)


def whole_body(sock: socket.socket) -> bytes:
    answer = HTTPResponse(sock)
    answer.begin()
    return answer.read()


def test_scrapes_side_by_side(daemon: Daemon) -> None:
    """Asked all at once, each gets a whole answer."""
    with ExitStack() as clients:
        socks = [clients.enter_context(dial(daemon)) for _ in range(29)]
        for sock in socks:
            sock.sendall(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        with ThreadPoolExecutor(len(socks)) as readers:
            for body in readers.map(whole_body, socks):
                assert b"\ntcpmon_build_info{" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"])
def test_other_methods(daemon: Daemon, method: str) -> None:
    with dial(daemon) as sock:
        sock.sendall(f"{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        assert sock.recv(12) == b"HTTP/1.1 405"


@pytest.mark.parametrize("path", ["/nowhere", "/metrics/", "/-/", "/..", "/etc/passwd", "/-/quit"])
def test_other_paths(daemon: Daemon, path: str) -> None:
    with dial(daemon) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert sock.recv(12) == b"HTTP/1.1 404"
