"""The HTTP server, whatever comes over a connection: replies that are replies, or its end; and the next
client is served."""

from __future__ import annotations

import array
import contextlib
import fcntl
import itertools
import re
import socket
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence

import pytest
from fuzzing import Errors, fuzz, tampered
from hypothesis import strategies as st
from needs import needs
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from waiting import DEADLINE_SECONDS, drain, eventually
from webpki import Pki, hashed, write_yaml

from tcpmon.config import Address
from tcpmon.metrics.scrape import acceptable
from tcpmon.web import webconfig
from tcpmon.web.server import Response, Server, listen
from tcpmon.web.webconfig.guard import Guard

PIECES = [b"a line of text\n" * 1009, b"another\n"] * 3
STATUSES = frozenset((200, 400, 401, 404, 405, 414, 431, 503, 505))
GOOD = b"GET /ok HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YTpi\r\nConnection: close\r\n\r\n"  # a:b
REQUESTS = [
    b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /ok HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YTpi\r\n\r\n",
    b"HEAD /text HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n",
    b"GET /text HTTP/1.1\r\nAccept-Encoding: br, gzip;q=0.5\r\n\r\n",
    b"GET /text HTTP/1.0\r\n\r\n",
    b"\r\n\nGET http://x/accept?q HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0,x/y\r\n\r\n",
    b"POST /ok HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /ok HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET /ok HTTP/1.1\r\nExpect: 100-continue\r\nX: a\r\n b\r\n\r\n",
    b"GET /none HTTP/1.1\r\nConnection: keep-alive, Close\r\n\r\n",
]
TOKENS = [
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b":",
        b"%00",
        b"//",
        b"?",
        b"#",
        b"[",
        b"\xa0",
        b"\x85",
    ),
    *(b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.", b"HTTP/1.1.1", b"HTTP/9999999999999.1", b"GET", b"CONNECT", b"*"),
    *(
        b"From x\r\n",
        b"Content-Type: ",
        b"multipart/x; boundary*=idna''xn--a",
        b"message/rfc822",
        b"\x16\x03\x01\x02",
    ),
    *(
        b"multipart/x; boundary*" + b"9" * 5000 + b"*=x",
        b"message/delivery-status",
        b"multipart/x; boundary*=a\0b''",
    ),
    *(
        b"Accept: application/openmetrics-text;version=abc",
        b";version=2.0.0\r\n\tX: y",
        b"Accept-Encoding: ",
        b"q=0.",
    ),
    *(
        b"Authorization: Basic ",
        b"Authorization: Basic \xe9",
        b"Og==",
        b"Transfer-Encoding: ",
        b"x" * 9000,
        b"\r\nX:" * 120,
    ),
]
STREAMS = st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=4).map(b"".join)
HEAD = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) [ -~]*\r\n((?:[A-Za-z-]+: [ -~]*\r\n)+)\r\n")
CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


class Site:
    """A running server, and what it logs as errors."""

    def __init__(self, guard: Guard | None = None) -> None:
        bound = listen(Address("127.0.0.1", 0))
        self.address: tuple[str, int] = bound.getsockname()
        plain = "text/plain; charset=utf-8"
        self.server = Server(
            [bound],
            {
                "/ok": lambda _: Response(200, plain, [b"ok\n"]),
                "/text": lambda _: Response(200, plain, iter(PIECES)),
                "/accept": lambda headers: Response(200, choose(headers), [b"chosen\n"]),
            },
            guard,
        )
        self.server.start()

    def exchange(self, sent: bytes) -> bytes:
        """What comes back; the client sends no more then."""
        with socket.create_connection(self.address, DEADLINE_SECONDS) as sock:
            try:
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)
                return drain(sock)
            except ConnectionError:  # it may be reset over megabytes that nobody reads
                return b""


def choose(headers: Mapping[str, str]) -> str:
    """As a scrape does it."""
    return choose_encoder(acceptable(headers.get("Accept") or ""))[1]


def statuses(replies: bytes) -> list[int]:
    """Of a connection's replies, each of which must be one; the last may end with the connection."""
    found: list[int] = []
    while replies:
        head = HEAD.match(replies)
        assert head, replies[:200]
        found.append(int(head[1]))
        replies = _behind_body(head[2], replies[head.end() :])
    return found


def _behind_body(headers: bytes, rest: bytes) -> bytes:
    if rest.startswith(b"HTTP/1."):  # no body of ours begins so: the reply to a HEAD
        return rest
    if length := re.search(rb"^Content-Length: ([0-9]+)\r$", headers, re.MULTILINE):
        assert not rest or len(rest) >= int(length[1])
        return rest[int(length[1]) :]
    if b"Transfer-Encoding: chunked" not in headers:
        return b""
    while rest:
        chunk = CHUNK.match(rest)
        assert chunk, rest[:200]
        size = int(chunk[1], 16)
        assert rest[chunk.end() + size :][:2] == b"\r\n"
        rest = rest[chunk.end() + size + 2 :]
        if not size:
            break
    return rest


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.server.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With users, of whom a has the password b."""
    path = tmp_path_factory.mktemp("web") / "web.yml"
    write_yaml(path, {"basic_auth_users": {"a": hashed("b")}, "http_server_config": {"headers": {}}})
    running = Site(Guard(webconfig.load(str(path))))
    yield running
    running.server.stop()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("tls")
    Pki(folder).for_all()
    write_yaml(
        folder / "web.yml", {"tls_server_config": {"cert_file": "server.crt", "key_file": "server.key"}}
    )
    running = Site(Guard(webconfig.load(str(folder / "web.yml"))))
    yield running
    running.server.stop()


def check(site: Site, sent: bytes) -> None:
    with Errors() as errors:
        found = statuses(site.exchange(sent))
        assert STATUSES.issuperset(found), found
        assert statuses(site.exchange(GOOD)) == [200]
        assert eventually(lambda: not clients())
    assert not errors.told


def clients() -> list[str]:
    """The threads that serve a connection."""
    return [each.name for each in threading.enumerate() if each.name.startswith("http-127.")]


@fuzz(200, sent=st.one_of(tampered(STREAMS, TOKENS), st.binary(max_size=64)))
def test_whatever_is_sent(site: Site, sent: bytes) -> None:
    check(site, sent)


@fuzz(100, sent=tampered(STREAMS, TOKENS))
def test_whatever_is_sent_to_who_asks_for_passwords(guarded: Site, sent: bytes) -> None:
    check(guarded, sent)


CLIENT_HELLO = bytes.fromhex(
    "160301007b0100007703030102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2000000ec02bc02fc02cc030"
    "cca9cca8130101000040000a00080006001d00170018000d00140012040308040401050308050501080606010201002b0003020304"
    "00330002000000230000001700000016000000"
)


@needs("openssl")
@fuzz(40, sent=st.one_of(tampered(st.just(CLIENT_HELLO), TOKENS), STREAMS, st.binary(max_size=64)))
def test_whatever_is_sent_in_place_of_tls(tls: Site, sent: bytes) -> None:
    """Alerts of TLS, or what Go's servers answer, and its end."""
    with Errors() as errors:
        reply = tls.exchange(sent)
        assert reply[:1] in (b"", b"\x15", b"\x16") or reply.startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert eventually(lambda: not clients())
    assert not errors.told


def unread(sock: socket.socket) -> int:
    """Bytes that the other end of a socketpair has not taken yet."""
    number = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, number)
    return number[0]


def in_pieces(site: Site, pieces: Sequence[bytes]) -> bytes:
    """The replies to these, each sent once the server has read what came before, or has gone."""
    with site.server.connect() as sock:
        sock.settimeout(DEADLINE_SECONDS)
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: _collect(sock, received))
        reader.start()
        with contextlib.suppress(OSError):  # it is over already
            for piece in pieces:
                sock.sendall(piece)
                assert eventually(lambda: not unread(sock) or not reader.is_alive())
            sock.shutdown(socket.SHUT_WR)
        reader.join(DEADLINE_SECONDS)
        return re.sub(rb"\r\nDate: [^\r]*", b"", b"".join(received))


def _collect(sock: socket.socket, received: list[bytes]) -> None:
    with contextlib.suppress(
        ConnectionError
    ):  # what the server had not read when it went; the replies are there
        received.extend(iter(lambda: sock.recv(65536), b""))


@fuzz(
    80, sent=st.one_of(STREAMS, tampered(STREAMS, TOKENS)), places=st.lists(st.integers(0, 600), max_size=5)
)
def test_in_pieces_as_whole(site: Site, sent: bytes, places: list[int]) -> None:
    """Pipelined requests, cut anywhere, have the same answers."""
    cuts = sorted({0, len(sent), *(place for place in places if place < len(sent))})
    pieces = [sent[first:last] for first, last in itertools.pairwise(cuts)]
    assert in_pieces(site, pieces) == in_pieces(site, [sent])


@fuzz(200, accept=st.text(st.sampled_from('aptexl/=;,.10v \t\r\n"*\xe9'), max_size=30) | st.text(max_size=20))
def test_whatever_is_acceptable(accept: str) -> None:
    for header in (accept, f"application/openmetrics-text;version={accept},text/plain;version={accept}"):
        encoder, content_type = choose_encoder(acceptable(header))
        assert content_type.isprintable()
        assert re.search(r"version=(0\.0\.4|1\.0\.0);", content_type)
        encoder(CollectorRegistry())


@pytest.mark.parametrize(
    "request_bytes, status",
    [
        (b"GET /ok HTTP/1.1\r\nContent-Type: multipart/x; boundary*=idna''xn--a\r\n\r\n", 200),
        (b"GET /ok HTTP/1.1\r\nContent-Type: multipart/x; boundary*" + b"9" * 5000 + b"*=x\r\n\r\n", 200),
        (b"GET /ok HTTP/1.1\r\nContent-Type: x/y; a*=a\0b''c\r\n\r\n", 200),
        (b"GET \xa0 HTTP/1.1\r\n\r\n", 400),
        (b"GET /ok HTTP/1.1\r\nFrom x\r\n\r\n", 400),
        (b"GET /accept HTTP/1.1\r\nAccept: application/openmetrics-text;version=abc\r\n\r\n", 200),
        (b"GET /accept HTTP/1.1\r\nAccept: text/plain;version=1.\xe9\r\n\r\n", 200),
    ],
)
def test_found_by_fuzzing(site: Site, request_bytes: bytes, status: int) -> None:
    with Errors() as errors:
        assert statuses(site.exchange(request_bytes)) == [status]
    assert not errors.told


def test_nothing_of_a_request_in_the_reply(site: Site) -> None:
    """Found by fuzzing: prometheus_client repeats a version, and a folded header has line ends."""
    reply = site.exchange(
        b"GET /accept HTTP/1.1\r\nAccept: application/openmetrics-text; version=2.0.0\r\n\tX: y\r\n\r\n"
    )
    assert b"X: y" not in reply
    assert b"Content-Type: text/plain; version=0.0.4" in reply
