"""One client's requests, answered one after the other: http.server reads them, routes answer them."""

from __future__ import annotations

import contextlib
import email.message
import http.client
import itertools
import logging
import socket
import urllib.parse
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import cast

from tcpmon import __version__
from tcpmon.web.connections import Connections, Phase
from tcpmon.web.headers import RequestHeaders, accepts_gzip, elements
from tcpmon.web.webconfig.guard import Guard
from tcpmon.web.wire import (
    CHUNK_BYTES,
    Channel,
    Hangup,
    ReplyWriter,
    RequestReader,
    raise_if_gone,
    reset_on_close,
)

log = logging.getLogger(__name__)

METHODS = ("GET", "HEAD")
MAX_REQUEST_LINE_BYTES = 8 * 1024
MAX_HEADER_BYTES = 32 * 1024
# From a request's first byte to its last.
REQUEST_TIMEOUT_SECONDS = 10.0
# From one request to the next: above every usual scrape interval, so that Prometheus keeps its connection.
IDLE_TIMEOUT_SECONDS = 120.0
# What is rendered, and held by the kernel, for a client that does not read: left alone it grows to megabytes.
SEND_BUFFER_BYTES = 128 * 1024
# Levels 1 to 3 take the same 6 ms for a MB of metrics; the default, 6, takes 16 ms to save another fifth.
GZIP_LEVEL = 3
# A reply of known length below this fits a packet or two as it is.
GZIP_FROM_BYTES = 2048


@dataclass(frozen=True)
class Response:
    """A reply. `body` is written as it is made; a list or tuple has a known length, all else is streamed.
    Its close(), if any, is called in the end, also when the client left or asked for headers only."""

    status: int
    content_type: str
    body: Iterable[bytes]
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def length(self) -> int | None:
        """Of the body in bytes; None where it is streamed."""
        return sum(map(len, self.body)) if isinstance(self.body, (list, tuple)) else None


# Makes the reply to a GET or HEAD with these request headers (names in any case).
Route = Callable[[Mapping[str, str]], Response]


def plain(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Response:
    """One line of text that names the status."""
    line = f"{status.value} {status.phrase}\n".encode()
    return Response(status.value, "text/plain; charset=utf-8", [line], headers or {})


class Handler(BaseHTTPRequestHandler):
    """Serves a connection until its end, in the constructor (socketserver's way); raises Hangup."""

    protocol_version = "HTTP/1.1"
    # http.server's own default, HTTP/0.9, makes it send errors without a status line.
    default_request_version = "HTTP/1.0"
    MessageClass = RequestHeaders
    rfile: RequestReader

    def __init__(
        self, channel: Channel, connections: Connections, routes: Mapping[str, Route], guard: Guard
    ) -> None:
        self._channel = channel
        self._connection = connection = channel.connection
        self._connections = connections
        self._routes = routes
        self._guard = guard
        super().__init__(connection.sock, connection.peer, None)  # type: ignore[arg-type]  # no socketserver here

    def setup(self) -> None:
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.rfile = RequestReader(self._channel)
        self.wfile = ReplyWriter(self._channel, self._connections)

    def handle(self) -> None:
        super().handle()
        self._channel.say_goodbye()

    def finish(self) -> None:
        """Nothing is buffered, and whoever made the socket closes it."""

    def handle_one_request(self) -> None:
        self._forget_last_request()
        self._connections.enter(self._connection, Phase.WORKING)
        if self._read_request():
            self._connections.enter(self._connection, Phase.WORKING)
            raise_if_gone(self._connection.sock)
            self._answer_or_fail()
        self._connection.answered = True

    # --- reading

    def _forget_last_request(self) -> None:
        self.close_connection = True
        self.command = self.requestline = ""
        self.raw_requestline = b""
        self.request_version = self.default_request_version
        self.headers = email.message.Message()
        self._replying = False
        self._configured_headers: Mapping[str, str] = {}

    def _read_request(self) -> bool:
        """Whether there is a request to answer; False if it has been answered with an error."""
        try:
            self.raw_requestline = self._read_request_line()
        except http.client.LineTooLong:
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
            return False
        # HTTP/0.9's two words included; as http.server splits them, at more than ASCII's blanks
        if len(self.raw_requestline.decode("iso-8859-1").split()) != 3:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return False
        self.rfile.allow(MAX_HEADER_BYTES)
        return self.parse_request() and self._check_request()

    def _read_request_line(self) -> bytes:
        self.rfile.expect(IDLE_TIMEOUT_SECONDS)
        first = self.rfile.peek(1)[:1]
        if not first:
            raise Hangup("closed")
        # Most likely TLS: do not wait for a line end in there
        if not (first.isspace() or b"!" <= first <= b"~"):
            return first
        self.rfile.expect(REQUEST_TIMEOUT_SECONDS)
        self.rfile.allow(MAX_REQUEST_LINE_BYTES)
        while (line := self.rfile.readline()) in (b"\r\n", b"\n"):  # RFC 9112 2.2: ignore empty lines ahead
            pass
        return line

    def _check_request(self) -> bool:
        """What http.server lets pass. Anything that another server could take for a request's end or body in
        another place than we do ends the connection with the reply."""
        if self.request_version not in ("HTTP/1.0", "HTTP/1.1"):
            self.send_error(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
            return False
        # Lines that are no headers, or hidden behind such
        if self.headers.defects or self.headers.get_payload() or self.headers.get_unixfrom():
            self.send_error(HTTPStatus.BAD_REQUEST)
            return False
        has_body = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        last = self.request_version == "HTTP/1.0" or "close" in elements(self.headers, "Connection")
        self.close_connection = has_body or last or self._connections.crowded
        return True

    def handle_expect_100(self) -> bool:
        """Invite no body: the reply itself is the answer to `Expect: 100-continue`."""
        return True

    # --- answering

    def _answer_or_fail(self) -> None:
        try:
            self._answer(self._response())
        except Hangup:
            raise
        except Exception as error:
            log.exception("no reply to %.200r: this is a bug in tcpmon", self.requestline)
            if self._replying:
                reset_on_close(self._connection.sock)
                raise Hangup("reply cut short") from error
            self._answer(plain(HTTPStatus.INTERNAL_SERVER_ERROR))

    def _response(self) -> Response:
        verdict = self._guard.judge(self._channel, self.headers.get("Authorization", ""))
        self._configured_headers = verdict.headers
        self.close_connection |= verdict.last
        if verdict.refusal:
            return plain(verdict.refusal, verdict.refusal_headers)
        if self.command not in METHODS:
            return plain(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(METHODS)})
        try:
            path = urllib.parse.urlsplit(self.path).path or "/"
        except ValueError:
            return plain(HTTPStatus.BAD_REQUEST)
        route = self._routes.get(path)
        return route(cast("Mapping[str, str]", self.headers)) if route else plain(HTTPStatus.NOT_FOUND)

    def _answer(self, response: Response) -> None:
        streamed = response.length is None
        with self._connections.stream(self._connection) if streamed else contextlib.nullcontext():
            try:
                transfer = self._transfer_headers(response.length)
                if self.command == "HEAD":
                    self._send_head(response, transfer)
                else:
                    self._stream(response, transfer)
            finally:
                if close := getattr(response.body, "close", None):
                    close()

    def _transfer_headers(self, length: int | None) -> dict[str, str]:
        gzip = (length is None or length >= GZIP_FROM_BYTES) and accepts_gzip(self.headers)
        headers = {"Content-Encoding": "gzip"} if gzip else {}
        if length is not None and not gzip:
            headers["Content-Length"] = str(length)
        elif self.request_version == "HTTP/1.1":
            headers["Transfer-Encoding"] = "chunked"
        return headers  # for HTTP/1.0 the end of the connection is the end of the body

    def _send_head(self, response: Response, transfer: Mapping[str, str]) -> None:
        self.send_response(response.status)
        fixed = {
            "Content-Type": response.content_type,
            "X-Content-Type-Options": "nosniff",
            "Vary": "Accept-Encoding",
        }
        closing = {"Connection": "close"} if self.close_connection else {}
        configured = self._configured_headers
        for name, value in {**fixed, **configured, **response.headers, **transfer, **closing}.items():
            self.send_header(name, value)
        self._replying = True
        self.end_headers()

    def _stream(self, response: Response, transfer: Mapping[str, str]) -> None:
        chunks = coalesced(response.body)
        if "Content-Encoding" in transfer:
            chunks = coalesced(_gzipped(chunks))
        # Made before the status line is sent, so that a body that fails at once is still answered with a 500.
        first = list(itertools.islice(chunks, 1))
        self._send_head(response, transfer)
        pieces = itertools.chain(first, chunks)
        for piece in _framed(pieces) if "Transfer-Encoding" in transfer else pieces:
            self.wfile.write(piece)

    # --- what http.server calls

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """A request that could not be read: nothing after it on this connection can be, either."""
        self.close_connection = True
        self.request_version = self.default_request_version  # http.server sends HTTP/0.9 no status line
        log.debug("%s: %.200r", self._connection.peer, message or self.raw_requestline)
        self._answer(plain(HTTPStatus(code)))

    def version_string(self) -> str:
        return f"tcpmon/{__version__}"

    def log_message(self, format: str, *args: object) -> None:
        log.debug("%s: %.300r", self._connection.peer, format % args)


def coalesced(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of at least CHUNK_BYTES, but for the last; never an empty one."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) >= CHUNK_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def _gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, wbits=31)  # 31: a gzip header and trailer
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()


def _framed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """HTTP's chunked coding. Without the last line a client knows that the reply is not whole."""
    for piece in pieces:
        yield b"%x\r\n%b\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"
