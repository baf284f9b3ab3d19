"""The HTTP server on real loopback sockets: what it answers, and what bad clients cannot do to it."""

from __future__ import annotations

import contextlib
import email.message
import gzip
import http.client
import itertools
import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from overviews import looked
from waiting import DEADLINE_SECONDS, drain, eventually

from tcpmon import __version__
from tcpmon.config import Address
from tcpmon.errors import ListenError
from tcpmon.web import connections, handler, wire
from tcpmon.web.landing import Landing
from tcpmon.web.server import Response, Server, listen, listen_all

LINES = [
    b'tcpmon_connects_total{comm="proc",netns="4026531840",port="%d"} 7.0\n' % port for port in range(9973)
]
TEXT = b"".join(LINES)


def fails() -> Iterator[bytes]:
    raise RuntimeError("a bug")
    yield b""


class Body:
    """An endless or counted body that tells whether it was read, and closed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.read, self.closed = pieces, 0, threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.read += 1
        return next(self.pieces)

    def close(self) -> None:
        self.closed.set()


class Site:
    """A running server, its routes, and raw connections to it."""

    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self.entered, self.release = threading.Event(), threading.Event()
        self.routes: dict[str, handler.Route] = {
            "/": Landing(lambda: looked([])).page,
            "/text": lambda _: Response(200, "text/plain; charset=utf-8", iter(LINES)),
            "/list": lambda _: Response(200, "text/plain; charset=utf-8", LINES),
            "/ok": lambda _: Response(200, "text/plain; charset=utf-8", [b"ok\n"], {"X-Own": "yes"}),
            "/empty": lambda _: Response(200, "text/plain; charset=utf-8", iter([])),
            "/host": lambda headers: Response(200, "text/plain", [headers["hOST"].encode()]),
            "/body": lambda _: self.tracked(iter(LINES)),
            "/endless": lambda _: self.tracked(itertools.repeat(b"x" * 1021)),
            "/raises": self.raises,
            "/raises-first": lambda _: self.tracked(fails()),
            "/raises-late": lambda _: self.tracked(itertools.chain(LINES, fails())),
            "/held": self.held,
        }
        self.socket = listen(Address("127.0.0.1", 0))
        self.address: tuple[str, int] = self.socket.getsockname()
        self.server = Server([self.socket], self.routes)
        self.server.start()

    def tracked(self, pieces: Iterator[bytes]) -> Response:
        self.bodies.append(Body(pieces))
        return Response(200, "text/plain; charset=utf-8", self.bodies[-1])

    def raises(self, _: Mapping[str, str]) -> Response:
        raise OSError("a route's own, not the client's")

    def held(self, _: Mapping[str, str]) -> Response:
        self.entered.set()
        assert self.release.wait(DEADLINE_SECONDS)
        return Response(200, "text/plain", [b"held\n"])

    def connect(self, sent: bytes = b"", receive_buffer: int = 0) -> socket.socket:
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(DEADLINE_SECONDS)
        sock.connect(self.address)
        sock.sendall(sent)
        return sock

    def raw(self, sent: bytes) -> bytes:
        """Everything that comes back until the server closes."""
        with self.connect(sent) as sock:
            return drain(sock)

    def request(self, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        client = http.client.HTTPConnection(*self.address, timeout=DEADLINE_SECONDS)
        try:
            fields = {name.replace("_", "-"): value for name, value in headers.items()}
            client.request(method, path, headers=fields)
            reply = client.getresponse()
            return reply, reply.read()
        finally:
            client.close()

    def get(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        return self.request("GET", path, **headers)


def is_closed(sock: socket.socket) -> bool:
    try:
        return drain(sock) == b""
    except ConnectionError:
        return True


def resources() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.fixture
def site() -> Iterator[Site]:
    before = resources()
    running = Site()
    yield running
    running.release.set()
    running.server.stop()
    assert eventually(lambda: resources() == before), (before, resources())


# --- what it answers


def test_reply_of_known_length(site: Site) -> None:
    reply, body = site.get("/ok")
    assert (reply.status, body, reply.version) == (200, b"ok\n", 11)
    assert reply.getheader("Content-Length") == "3"
    assert reply.getheader("Content-Type") == "text/plain; charset=utf-8"
    assert reply.getheader("X-Content-Type-Options") == "nosniff"
    assert reply.getheader("X-Own") == "yes"
    assert reply.getheader("Server") == f"tcpmon/{__version__}"


def test_streamed_reply_is_chunked(site: Site) -> None:
    reply, body = site.get("/text")
    assert reply.getheader("Transfer-Encoding") == "chunked"
    assert reply.getheader("Content-Length") is None
    assert body == TEXT


def test_empty_stream(site: Site) -> None:
    assert site.get("/empty")[1] == b""
    assert gzip.decompress(site.get("/empty", Accept_Encoding="gzip")[1]) == b""


def test_small_pieces_go_out_in_large_chunks(site: Site) -> None:
    reply = site.raw(b"GET /text HTTP/1.1\r\nConnection: close\r\n\r\n")
    sizes = [int(size, 16) for size in re.findall(rb"\r\n([0-9a-f]+)\r\n", reply)]
    assert min(sizes[:-2]) >= wire.CHUNK_BYTES
    assert sum(sizes) == len(TEXT)


def test_stream_is_sent_while_it_is_made(site: Site) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"a" * wire.CHUNK_BYTES
        assert site.release.wait(DEADLINE_SECONDS)
        yield b"b"

    site.routes["/slow"] = lambda _: Response(200, "text/plain", pieces())
    client = http.client.HTTPConnection(*site.address, timeout=DEADLINE_SECONDS)
    client.request("GET", "/slow")
    reply = client.getresponse()
    assert reply.read(wire.CHUNK_BYTES) == b"a" * wire.CHUNK_BYTES
    site.release.set()
    assert reply.read() == b"b"
    client.close()


def test_http_1_0_is_not_chunked_and_closed(site: Site) -> None:
    head, _, body = site.raw(b"GET /text HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Connection: close" in head
    assert body == TEXT


def test_keep_alive_serves_many_requests_on_one_connection(site: Site) -> None:
    client = http.client.HTTPConnection(*site.address, timeout=DEADLINE_SECONDS)
    bodies, ports = [], set()
    for path in ["/ok", "/text", "/nope", "/ok", "/raises", "/"] * 3:
        client.request("GET", path)
        ports.add(client.sock.getsockname())
        bodies.append(client.getresponse().read())
    assert bodies[:4] == [b"ok\n", TEXT, b"404 Not Found\n", b"ok\n"]
    assert len(ports) == 1
    client.close()


@pytest.mark.parametrize("connection", ["close", "Close", "TE, close", "keep-alive\r\nConnection: close"])
def test_connection_close_is_heeded(site: Site, connection: str) -> None:
    assert b"Connection: close" in site.raw(f"GET /ok HTTP/1.1\r\nConnection: {connection}\r\n\r\n".encode())


def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    last = b"GET /text HTTP/1.1\r\nConnection: close\r\n\r\n"
    reply = site.raw(
        b"GET /ok HTTP/1.1\r\n\r\n"
        + b"\r\nHEAD /text HTTP/1.1\r\n\r\n"
        + b"GET /nope HTTP/1.1\r\n\r\n"
        + last
    )
    assert re.findall(rb"HTTP/1.1 (\d+)", reply) == [b"200", b"200", b"404", b"200"]
    assert reply.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["/text", "/list"])
def test_gzip_round_trip(site: Site, path: str) -> None:
    reply, body = site.get(path, Accept_Encoding="gzip")
    assert reply.getheader("Content-Encoding") == "gzip"
    assert reply.getheader("Vary") == "Accept-Encoding"
    assert len(body) < len(TEXT) / 5
    assert gzip.decompress(body) == TEXT


def test_vary_without_gzip(site: Site) -> None:
    assert site.get("/text")[0].getheader("Vary") == "Accept-Encoding"


@pytest.mark.parametrize(
    "header, accepted",
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip ; q=0.000, *", False),
        ("identity, *;q=0.1", True),
        ("*;q=0", False),
        ("br", False),
        ("x-gzip-like", False),
        ("gzip;q=1.2.3", True),
        (",;q=0,,", False),
    ],
)
def test_accept_encoding(header: str, accepted: bool) -> None:
    headers = email.message.Message()
    headers["Accept-Encoding"] = header
    assert handler.accepts_gzip(headers) is accepted


@pytest.mark.parametrize("path", ["/ok", "/text", "/list", "/nope", "/raises"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_head_is_get_without_body(site: Site, path: str, coding: str) -> None:
    def facts(method: str) -> tuple[int, list[tuple[str, str]]]:
        reply, _ = site.request(method, path, Accept_Encoding=coding)
        return reply.status, [(name, value) for name, value in reply.getheaders() if name != "Date"]

    assert facts("HEAD") == facts("GET")
    raw = site.raw(f"HEAD {path} HTTP/1.1\r\nAccept-Encoding: {coding}\r\nConnection: close\r\n\r\n".encode())
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1


def test_head_closes_the_body_unread(site: Site) -> None:
    site.request("HEAD", "/body")
    assert site.bodies[0].closed.wait(DEADLINE_SECONDS)
    assert site.bodies[0].read == 0


def test_route_sees_headers_in_any_case(site: Site) -> None:
    assert site.get("/host", Host="here.example")[1] == b"here.example"


@pytest.mark.parametrize(
    "target",
    ["/ok?x=1", "/ok?", "/ok?/text", "http://host.example/ok", "http://host.example:80/ok?x=http://a/b"],
)
def test_targets_that_mean_the_same(site: Site, target: str) -> None:
    assert site.raw(f"GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()).endswith(b"\r\n\r\nok\n")


def test_absolute_target_without_a_path_is_the_landing_page(site: Site) -> None:
    assert b"<title>tcpmon" in site.raw(b"GET http://host.example HTTP/1.0\r\n\r\n")


# --- what it refuses

REFUSED = {
    "other path": (b"GET /nope HTTP/1.1\r\n\r\n", 404, True),
    "path below a route": (b"GET /ok/ HTTP/1.1\r\n\r\n", 404, True),
    "POST": (b"POST /ok HTTP/1.1\r\n\r\n", 405, True),
    "POST with a body": (b"POST /ok HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405, False),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\n\r\n", 405, True),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\n\r\n", 405, True),
    "method in small letters": (b"get /ok HTTP/1.1\r\n\r\n", 405, True),
    "bad absolute target": (b"GET http://[ HTTP/1.1\r\n\r\n", 400, True),
    "long path": (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n", 414, False),
    "endless line": (b"a" * 20_000, 414, False),
    "endless empty lines": (b"\r\n" * 10_000, 414, False),
    "long header": (b"GET /ok HTTP/1.1\r\nA: " + b"a" * 40_000 + b"\r\n\r\n", 431, False),
    "much in headers": (b"GET /ok HTTP/1.1\r\n" + (b"A: " + b"a" * 997 + b"\r\n") * 37 + b"\r\n", 431, False),
    "many headers": (b"GET /ok HTTP/1.1\r\n" + b"A: b\r\n" * 211 + b"\r\n", 431, False),
    "garbage": (b"garbage\r\n\r\n", 400, False),
    "four words": (b"GET /ok now HTTP/1.1\r\n\r\n", 400, False),
    "binary": (b"\xff\xfe\xfd", 400, False),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, False),
    "no version": (b"GET /ok HTTP/\r\n\r\n", 400, False),
    "HTTP/0.9": (b"GET /ok\r\n", 400, False),
    "HTTP/0.9 by name": (b"GET /ok HTTP/0.9\r\n\r\n", 505, False),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, False),
    "HTTP/1.2": (b"GET /ok HTTP/1.2\r\n\r\n", 505, False),
    "line that is no header": (b"GET /ok HTTP/1.1\r\nnonsense\r\n\r\n", 400, False),
    "continued before any": (b"GET /ok HTTP/1.1\r\n A: b\r\n\r\n", 400, False),
}


@pytest.mark.parametrize("sent, status, goes_on", REFUSED.values(), ids=REFUSED)
def test_refusals(site: Site, sent: bytes, status: int, goes_on: bool) -> None:
    """A status line and a line of text for each; only what is well understood leaves the connection open."""
    reply = site.raw(sent + b"GET /ok HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+) ", reply) == [b"%d" % status] + [b"200"] * goes_on
    body = reply.split(b"\r\n\r\n")[1]
    assert re.match(rb"%d [A-Z][A-Za-z -]+\n" % status, body)
    assert (b"Connection: close" in reply.split(b"\r\n\r\n")[0]) is not goes_on
    assert (b"Allow: GET, HEAD\r\n" in reply) is (status == 405)


SMUGGLED = b"GET /text HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize(
    "headers, status",
    [
        (b"Content-Length: 22", 200),
        (b"Content-Length: 0", 200),
        (b"Content-Length: 5\r\nContent-Length: 22", 200),
        (b"Content-Length: +22", 200),
        (b"Transfer-Encoding: chunked", 200),
        (b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 22", 200),
        (b"Content-Length: 22\r\nExpect: 100-continue", 200),
        (b"Content-Length : 22", 400),
        (b"X : y\r\nContent-Length: 22", 400),
        (b"X: y\r\rContent-Length: 22", 400),
        (b"\x00Content-Length: 22", 400),
    ],
)
def test_a_body_is_never_taken_for_a_request(site: Site, headers: bytes, status: int) -> None:
    reply = site.raw(b"GET /ok HTTP/1.1\r\n" + headers + b"\r\n\r\n" + SMUGGLED)
    assert re.findall(rb"HTTP/1.1 (\d+)", reply) == [b"%d" % status]


def test_errors_do_not_repeat_what_the_client_sent(site: Site) -> None:
    for sent in (b"GET /<script> HTTP/1.1\r\n\r\n", b"<script> x HTTP/9.9\r\n\r\n", b"<script>\r\n"):
        with site.connect(sent) as sock:
            assert b"script" not in sock.recv(65536)


# --- when a route fails


def test_exception_in_a_route(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    reply, body = site.get("/raises")
    assert (reply.status, body) == (500, b"500 Internal Server Error\n")
    assert caplog.records[0].exc_info
    assert site.get("/ok")[1] == b"ok\n"


def test_exception_in_the_first_piece(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    reply, body = site.get("/raises-first")
    assert (reply.status, body) == (500, b"500 Internal Server Error\n")
    assert caplog.records[0].exc_info
    assert site.bodies[0].closed.is_set()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("coding", ["identity", "gzip"])
def test_exception_in_mid_stream_cannot_pass_for_a_whole_reply(
    site: Site, caplog: pytest.LogCaptureFixture, version: str, coding: str
) -> None:
    site.routes["/raises-late"] = lambda _: site.tracked(
        itertools.chain((os.urandom(1021) for _ in range(503)), fails())
    )
    sock = site.connect(f"GET /raises-late HTTP/{version}\r\nAccept-Encoding: {coding}\r\n\r\n".encode())
    with sock, pytest.raises(ConnectionResetError):
        drain(sock)
    assert site.bodies[0].closed.wait(DEADLINE_SECONDS)
    assert eventually(lambda: any(record.exc_info for record in caplog.records))
    assert site.get("/ok")[1] == b"ok\n"


def test_endless_recursion_in_a_route_is_an_exception_too(site: Site) -> None:
    class Endless:
        def __getattr__(self, name: str) -> Response:
            return getattr(self, name + "x")  # type: ignore[no-any-return]

    site.routes["/recursion"] = lambda _: Endless().body
    assert site.get("/recursion")[0].status == 500


# --- clients that leave, stall or crowd


def test_body_is_closed_when_the_client_vanishes(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(7):
        with site.connect(b"GET /endless HTTP/1.1\r\n\r\n") as sock:
            assert sock.recv(1021)
    assert eventually(lambda: len(site.bodies) == 7 and all(body.closed.is_set() for body in site.bodies))
    assert not caplog.records


def test_clients_are_heard_of_at_debug_level_only_and_briefly(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.raw(b"GET /\x1b[31m" + b"a" * 5003 + b" HTTP/1.1\r\nConnection: close\r\n\r\n")
    site.raw(b"nonsense" * 503 + b"\r\n")
    with site.connect(b"GET /ok HT"):
        pass
    assert eventually(lambda: any("middle of a request" in record.getMessage() for record in caplog.records))
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert max(len(record.getMessage()) for record in caplog.records) < 500
    assert "\x1b" not in caplog.text


def slow_writer(site: Site) -> socket.socket:
    sock = site.connect()
    for byte in b"GET /ok HTTP/1.1\r\nX:":
        sock.send(bytes([byte]))
    return sock


CROWDS: dict[str, Callable[[Site], socket.socket]] = {
    "idle": lambda site: site.connect(),
    "half a request": lambda site: site.connect(b"GET /ok HTTP/1.1\r\nHos"),
    "byte by byte": slow_writer,
    "never reading": lambda site: site.connect(b"GET /endless HTTP/1.1\r\n\r\n" * 3, receive_buffer=4096),
    "idle after a reply": lambda site: site.connect(b"GET /ok HTTP/1.1\r\n\r\n"),
}


@pytest.mark.parametrize("kind", CROWDS)
def test_a_crowd_of_one_kind(site: Site, kind: str) -> None:
    crowd = [CROWDS[kind](site) for _ in range(211)]
    assert site.get("/text")[1] == TEXT
    assert threading.active_count() <= connections.MAX_CONNECTIONS + 3
    for sock in crowd:
        sock.close()


def test_all_crowds_at_once(site: Site) -> None:
    crowd = [make(site) for _ in range(53) for make in CROWDS.values()]
    for _ in range(7):
        assert site.get("/text", Accept_Encoding="gzip")[0].status == 200
        crowd += [make(site) for make in CROWDS.values()]
    assert threading.active_count() <= connections.MAX_CONNECTIONS + 3
    for sock in crowd:
        sock.close()
    assert eventually(lambda: all(body.closed.is_set() for body in site.bodies))


def test_longest_waited_for_makes_room(site: Site) -> None:
    first = site.connect()
    others = [site.connect() for _ in range(connections.MAX_CONNECTIONS - 1)]
    assert eventually(lambda: threading.active_count() > connections.MAX_CONNECTIONS)
    assert site.get("/ok")[1] == b"ok\n"
    assert is_closed(first)
    others[-1].sendall(b"GET /ok HTTP/1.0\r\n\r\n")
    assert drain(others[-1]).endswith(b"ok\n")
    for sock in (first, *others):
        sock.close()


def test_few_replies_are_made_at_a_time(site: Site) -> None:
    """Each holds a snapshot: who does not read makes room for the next, and far before the house is full."""
    stalled = [CROWDS["never reading"](site) for _ in range(3 * connections.MAX_STREAMS)]
    begun = connections.MAX_STREAMS
    assert eventually(lambda: sum(body.read > 0 for body in site.bodies) > begun)
    assert site.get("/text")[1] == TEXT
    assert sum(body.read > 0 and not body.closed.is_set() for body in site.bodies) <= begun
    for sock in stalled:
        sock.close()


def test_a_reply_in_the_making_is_not_given_up_for_a_crowd(site: Site) -> None:
    held = site.connect(b"GET /held HTTP/1.0\r\n\r\n")
    assert site.entered.wait(DEADLINE_SECONDS)
    crowd = [site.connect() for _ in range(211)]
    assert site.get("/ok")[1] == b"ok\n"
    site.release.set()
    assert drain(held).endswith(b"held\n")
    for sock in (held, *crowd):
        sock.close()


def test_as_many_replies_in_the_making_as_there_may_be(site: Site) -> None:
    """More have to wait for a thread, and none is given up."""
    sent = b"GET /held HTTP/1.0\r\n\r\n"
    crowd = [site.connect(sent) for _ in range(connections.MAX_CONNECTIONS + 7)]
    assert eventually(lambda: threading.active_count() > connections.MAX_CONNECTIONS)
    site.release.set()
    for sock in crowd:
        assert drain(sock).endswith(b"held\n")
        sock.close()


def test_clients_that_never_pause_do_not_starve_others(site: Site) -> None:
    crowd = [site.connect() for _ in range(connections.MAX_CONNECTIONS)]
    answered = threading.Event()

    def talk(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            while not answered.is_set():
                sock.sendall(b"GET /ok HTTP/1.1\r\n\r\n" * 31)
                sock.recv(65536)

    with ThreadPoolExecutor(len(crowd)) as talkers:
        for sock in crowd:
            talkers.submit(talk, sock)
        assert site.get("/ok")[1] == b"ok\n"
        answered.set()


def test_reply_cut_by_an_eviction_cannot_pass_for_a_whole_one(site: Site) -> None:
    cut = site.connect(b"GET /endless HTTP/1.0\r\n\r\n", receive_buffer=4096)
    crowd: list[socket.socket] = []

    def given_up() -> bool:
        crowd.append(site.connect())
        return bool(site.bodies) and site.bodies[0].closed.is_set()

    assert eventually(given_up)
    with cut, pytest.raises(ConnectionResetError):
        drain(cut)
    for sock in crowd:
        sock.close()


def test_burst_of_honest_clients(site: Site) -> None:
    burst = [site.connect(b"GET /ok HTTP/1.0\r\n\r\n") for _ in range(307)]
    assert all(drain(sock).endswith(b"ok\n") for sock in burst)
    for sock in burst:
        sock.close()


def test_idle_connection_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "IDLE_TIMEOUT_SECONDS", 0.1)
    with site.connect() as sock:
        assert is_closed(sock)
    with site.connect(b"GET /ok HTTP/1.1\r\n\r\n") as sock:
        assert drain(sock).endswith(b"ok\n")


def test_request_must_be_whole_in_time_even_if_bytes_keep_coming(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handler, "REQUEST_TIMEOUT_SECONDS", 0.3)
    with site.connect(b"GET /ok HTTP/1.1\r\nX:") as sock:

        def refused() -> bool:
            try:
                sock.sendall(b"x")
            except ConnectionError:
                return True
            return False

        assert eventually(refused)


def test_client_that_does_not_read_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "WRITE_TIMEOUT_SECONDS", 0.1)
    with site.connect(b"GET /endless HTTP/1.1\r\n\r\n", receive_buffer=4096) as sock:
        assert eventually(lambda: bool(site.bodies))
        assert site.bodies[0].closed.wait(DEADLINE_SECONDS)
        with pytest.raises(ConnectionResetError):
            drain(sock)


def test_stop_lets_replies_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is being made, and one whose request comes a moment later; an idle one is closed at once."""
    monkeypatch.setattr("tcpmon.web.server.GRACE_SECONDS", DEADLINE_SECONDS)
    site = Site()
    request = b"GET /%s HTTP/1.1\r\nHost: a\r\n\r\n"
    idle = site.connect(request % b"ok")
    reply = b""
    while not reply.endswith(b"ok\n"):
        reply += idle.recv(65536)
    asked, late = site.connect(request % b"held"), site.connect()
    assert site.entered.wait(DEADLINE_SECONDS)
    assert eventually(lambda: len(site.server._connections.threads()) == 3)
    stopping = threading.Thread(target=site.server.stop)
    stopping.start()
    assert is_closed(idle)
    late.sendall(request % b"ok")
    assert drain(late).endswith(b"ok\n")
    site.release.set()
    assert drain(asked).endswith(b"held\n")
    stopping.join(DEADLINE_SECONDS)
    assert not stopping.is_alive()
    for sock in (idle, asked, late):
        sock.close()


def test_stop_with_clients_hanging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = resources()
    site = Site()
    crowd = [make(site) for _ in range(11) for make in CROWDS.values()]
    assert site.get("/ok")[1] == b"ok\n"
    site.server.stop()
    for sock in crowd:
        sock.close()
    assert eventually(lambda: resources() == before)
    assert all(body.closed.is_set() for body in site.bodies)
    with pytest.raises(ConnectionRefusedError):
        site.connect()
    assert not caplog.records


def test_stop_does_not_wait_for_ever_for_a_route(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tcpmon.web.server.STOP_SECONDS", 0.1)
    site = Site()
    with site.connect(b"GET /held HTTP/1.1\r\n\r\n"):
        assert site.entered.wait(DEADLINE_SECONDS)
        threads = threading.active_count()
        site.server.stop()
    assert "1 HTTP replies were still in the making" in caplog.text
    site.release.set()
    assert eventually(lambda: threading.active_count() == threads - 2)


# --- a machine that has run out of something: a process of its own, whose limits are real

CHILD = """
import os, resource, sys, logging
from tcpmon.config import Address
from tcpmon.web.server import Response, Server, listen
logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s", stream=sys.stdout)
sock = listen(Address(host="127.0.0.1", port=0))
server = Server([sock], {"/ok": lambda _: Response(200, "text/plain", [b"ok"])})
server.start()
print(sock.getsockname()[1], flush=True)
"""
FEW_DESCRIPTORS = """
resource.setrlimit(resource.RLIMIT_NOFILE, (23, 23))
"""
# Root may have as many threads as it likes, so be nobody.
NO_THREADS = """
hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
if os.geteuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, hard))
print("limited", flush=True)
sys.stdin.readline()
resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
print("free", flush=True)
"""
UNTIL_END_OF_INPUT = """
sys.stdin.read()
server.stop()
"""


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    code = CHILD + request.param + UNTIL_END_OF_INPUT
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with process:
        assert process.stdout
        yield process, ("127.0.0.1", int(process.stdout.readline()))
        assert process.stdin
        process.stdin.close()
        assert process.wait(DEADLINE_SECONDS) == 0


def ask(address: tuple[str, int]) -> bytes:
    with socket.create_connection(address, timeout=DEADLINE_SECONDS) as sock:
        sock.sendall(b"GET /ok HTTP/1.0\r\n\r\n")
        return drain(sock)


@pytest.mark.parametrize("child", [FEW_DESCRIPTORS], indirect=True)
def test_out_of_descriptors(child: tuple[subprocess.Popen[str], tuple[str, int]]) -> None:
    process, address = child
    crowd = [socket.create_connection(address, timeout=DEADLINE_SECONDS) for _ in range(41)]
    assert ask(address).endswith(b"ok")
    for sock in crowd:
        sock.close()
    assert process.stdin
    process.stdin.close()
    assert process.stdout
    complaints = process.stdout.read().splitlines()
    assert complaints
    assert all("Too many open files" in line for line in complaints)
    assert len(complaints) <= 41  # one for each time it began, not one for each attempt


@pytest.mark.parametrize("child", [NO_THREADS], indirect=True)
def test_out_of_threads(child: tuple[subprocess.Popen[str], tuple[str, int]]) -> None:
    process, address = child
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == "limited\n"
    with socket.create_connection(address, timeout=DEADLINE_SECONDS) as sock:
        assert is_closed(sock)
    assert "can't start new thread" in process.stdout.readline()
    print(file=process.stdin, flush=True)
    assert process.stdout.readline() == "free\n"
    assert ask(address).endswith(b"ok")


# --- listening


def test_port_in_use() -> None:
    with listen(Address("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            ListenError, match=f"cannot listen on 127.0.0.1:{port}: address already"
        ) as caught:
            listen(Address("127.0.0.1", port))
    assert f"ss -ltnp 'sport = :{port}'" in caught.value.hint
    listen(Address("127.0.0.1", port)).close()


@pytest.mark.parametrize("host", ["203.0.113.1", "2001:db8::1"])
def test_address_of_another_host(host: str) -> None:
    with pytest.raises(ListenError, match="cannot assign requested address") as caught:
        listen(Address(host, 19317))
    assert "ip -brief address" in caught.value.hint


def test_name_that_does_not_resolve() -> None:
    with pytest.raises(ListenError, match="cannot listen on no such host:19317"):
        listen(Address("no such host", 19317))


def test_privileged_port() -> None:
    code = """
import os
from tcpmon.config import Address
from tcpmon.config import Address
from tcpmon.errors import ListenError
from tcpmon.web.server import listen
if os.geteuid() == 0:
    os.setuid(65534)
try:
    listen(Address(host="127.0.0.1", port=97))
except ListenError as error:
    print(error, error.hint)
"""
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 97:
        pytest.skip("net.ipv4.ip_unprivileged_port_start lets everyone have port 97")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert "cannot listen on 127.0.0.1:97: permission denied" in done.stdout
    assert "CAP_NET_BIND_SERVICE" in done.stdout


def free_port() -> int:
    with listen(Address("::", 0)) as sock:
        return int(sock.getsockname()[1])


def reachable(addresses: list[Address], hosts: list[str]) -> None:
    server = Server(listen_all(addresses), {"/ok": lambda _: Response(200, "text/plain", [b"ok"])})
    server.start()
    try:
        for host in hosts:
            assert ask((host, addresses[0].port)).endswith(b"ok")
    finally:
        server.stop()


def test_any_ipv6_address_takes_ipv4_clients() -> None:
    reachable([Address("::", free_port())], ["127.0.0.1", "::1"])


@pytest.mark.parametrize("first, second", [("0.0.0.0", "::"), ("::", "0.0.0.0"), ("127.0.0.1", "::1")])
def test_both_families_on_one_port(first: str, second: str) -> None:
    port = free_port()
    reachable([Address(first, port), Address(second, port)], ["127.0.0.1", "::1"])


def test_listening_on_all_or_nothing() -> None:
    before = resources()
    with listen(Address("127.0.0.1", 0)) as taken, pytest.raises(ListenError):
        listen_all([Address("::1", 0), Address("127.0.0.1", taken.getsockname()[1])])
    assert resources() == before
