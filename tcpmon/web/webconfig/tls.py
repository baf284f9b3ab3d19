"""TLS for a client's connection: the handshake, and the bytes within.

OpenSSL works on memory, and the socket stays what it is: who shuts it down or looks whether it is ready need
not know of TLS, and nothing can be sent past it.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tcpmon.web.connections import Connection, Connections, Phase
from tcpmon.web.webconfig.context import context_of
from tcpmon.web.webconfig.readtls import TlsSettings
from tcpmon.web.wire import LINGER_SECONDS, WRITE_TIMEOUT_SECONDS, Channel, Hangup, say_goodbye, send_all

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

T = TypeVar("T")

# From the first byte to the last of the handshake; Go's servers take as long as for a request.
HANDSHAKE_SECONDS = 10.0
# What may come at a stretch without anything of a request in it: a handshake with the longest chain of
# certificates that OpenSSL takes, and a quarter more.
MAX_SILENT_BYTES = 128 * 1024
_PIECE_BYTES = 16 * 1024
# OpenSSL keeps those of TLS 1.2, 20,000 for two hours, a dozen KB each, and Python cannot tell it not to.
MAX_SESSIONS = 64
# As Go's servers answer whoever does not speak TLS.
_NOT_TLS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


class Tls:
    """What a file's TLS settings come to. `admission` is equal where the same clients are let in. The
    constructor raises ConfigError."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._sans = settings.sans
        self._context = context_of(settings)
        ca = hashlib.sha256(settings.client_ca.data).digest() if settings.client_ca else None
        self.admission = (settings.client_auth, ca, settings.sans)
        self.demands = frozenset(
            demand
            for demand, made in (
                ("TLS", True),
                ("a client certificate", self._context.verify_mode == ssl.CERT_REQUIRED),
                ("client_allowed_sans", settings.sans is not None),
            )
            if made
        )

    def accept(self, connection: Connection, connections: Connections) -> Channel:
        """The handshake, on the connection's own thread; raises Hangup where it fails."""
        channel = _TlsChannel(connection, connections, self)
        try:
            channel.handshake(time.monotonic() + HANDSHAKE_SECONDS)
        except ssl.SSLError as error:
            channel.refuse(_NOT_TLS if error.reason == "HTTP_REQUEST" else b"")
            raise Hangup(f"no TLS: {error.reason}") from error
        if self._sans is not None and not self._sans & channel.names():
            channel.say_goodbye()
            raise Hangup("the client's certificate has none of client_allowed_sans")
        return channel

    def begin(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        """The server's end of a new connection."""
        if self._context.session_stats()["number"] >= MAX_SESSIONS:
            self._context = context_of(self._settings)
        return self._context.wrap_bio(incoming, outgoing, server_side=True)


class _TlsChannel(Channel):
    def __init__(self, connection: Connection, connections: Connections, tls: Tls) -> None:
        super().__init__(connection, connections, tls)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = tls.begin(self._incoming, self._outgoing)
        self._piece = bytearray(_PIECE_BYTES)

    def handshake(self, deadline: float) -> None:
        self._pump(self._object.do_handshake, deadline)

    def names(self) -> frozenset[str]:
        """The subject's alternative names in the client's certificate, as Go writes them."""
        certificate: Any = self._object.getpeercert() or {}
        found = certificate.get("subjectAltName", ())
        kinds = ("DNS", "email", "URI", "IP Address")
        return frozenset(_name(kind, name) for kind, name in found if kind in kinds)

    def receive_into(self, buffer: WriteableBuffer, deadline: float) -> int:
        view = memoryview(buffer).cast("B")
        try:
            read: Any = self._object.read  # bytes for typeshed; with a buffer, their number
            return int(self._pump(lambda: read(len(view), view), deadline))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0
        except ssl.SSLError as error:
            raise Hangup(f"reading: {error}") from error

    def send(self, data: ReadableBuffer) -> None:
        self._object.write(data)
        self._flush(WRITE_TIMEOUT_SECONDS)

    def say_goodbye(self) -> None:
        self._connections.enter(self.connection, Phase.LEAVING)
        with contextlib.suppress(ssl.SSLError):  # it need not say the same before we leave
            self._object.unwrap()
        with contextlib.suppress(OSError):
            self._flush(LINGER_SECONDS)
        say_goodbye(self.connection.sock)

    def refuse(self, answer: bytes) -> None:
        """After a handshake that failed: `answer` in plain. (TLS's own alert has been sent.)"""
        self._connections.enter(self.connection, Phase.LEAVING)
        with contextlib.suppress(OSError):
            send_all(self.connection.sock, answer, LINGER_SECONDS)
        say_goodbye(self.connection.sock)

    def _pump(self, step: Callable[[], T], deadline: float) -> T:
        """What `step` comes to once it has the bytes that it wants; what it has to send is sent."""
        silent = 0
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass
            finally:  # an alert too
                self._flush_before(deadline)
            silent += self._feed(deadline)
            if silent > MAX_SILENT_BYTES:
                raise Hangup("much TLS and nothing in it")

    def _feed(self, deadline: float) -> int:
        number = super().receive_into(self._piece, deadline)
        if number:
            self._incoming.write(memoryview(self._piece)[:number])
        else:
            self._incoming.write_eof()
        return number

    def _flush_before(self, deadline: float) -> None:
        """Its client waits for that, and may be evicted if it does not take it."""
        if self._outgoing.pending:
            self._connections.go_on(self.connection, Phase.WRITING)
            try:
                self._flush(max(0.001, deadline - time.monotonic()))
            except OSError as error:
                raise Hangup(f"writing: {error}") from error
            self._connections.go_on(self.connection, Phase.WORKING)

    def _flush(self, seconds: float) -> None:
        if self._outgoing.pending:
            send_all(self.connection.sock, self._outgoing.read(), seconds)


def _name(kind: str, name: str) -> str:
    """Python writes IPv6 addresses in full; Go in short, and mapped ones as IPv4."""
    if kind != "IP Address":
        return name
    try:
        address = ipaddress.ip_address(name.strip())
    except ValueError:  # of neither length
        return name
    return str(getattr(address, "ipv4_mapped", None) or address)
