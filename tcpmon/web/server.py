"""The HTTP server: listeners, one thread that accepts, one thread for each connection.

All block in the kernel until something happens: an idle server uses no CPU. A client holds up its own thread
only; when there are too many connections, the one that keeps us waiting longest goes (connections.py).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tcpmon.errors import ListenError
from tcpmon.web.connections import Connection, Connections
from tcpmon.web.handler import Handler, Response, Route
from tcpmon.web.webconfig.guard import Guard
from tcpmon.web.wire import Hangup

if TYPE_CHECKING:
    from tcpmon.config import Address

__all__ = ["Response", "Route", "Server", "listen", "listen_all"]

log = logging.getLogger(__name__)

# Room in the kernel for a burst that comes faster than threads start.
BACKLOG = 512
# Between attempts to accept when descriptors or memory have run out.
BACKOFF_SECONDS = 1.0
STOP_SECONDS = 5.0
GRACE_SECONDS = 1.0
# Runaway recursion through C (getattr, repr, map) still ends in a RecursionError in this; in half of it, not
# always. Less than a huge page: where those are on for all memory, a stack of 8 MiB can cost 2 MiB of RSS.
STACK_BYTES = 1024 * 1024

_HINTS = {
    errno.EADDRINUSE: "something listens there already; see who: ss -ltnp 'sport = :{port}'",
    errno.EACCES: "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher one with `listen`",
    errno.EPERM: "a security policy forbids it; see the audit log",
    errno.EADDRNOTAVAIL: "no interface of this host has that address; see: ip -brief address",
    errno.EAFNOSUPPORT: "this kernel has IPv6 switched off; listen on 127.0.0.1 or 0.0.0.0 instead",
}


def listen(address: Address, *, ipv6_only: bool = False) -> socket.socket:
    """A listening TCP socket. `[::]` takes IPv4 clients as well, unless `ipv6_only`. Raises ListenError."""
    sock = None
    try:
        family, kind, protocol, _, where = _resolve(address)
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        if sock:
            sock.close()
        raise _listen_error(address, error) from error
    return sock


def listen_all(addresses: Sequence[Address]) -> list[socket.socket]:
    """A listening socket for each address, or ListenError and none. `[::]:P` leaves IPv4 clients to an IPv4
    address with the same port in the list, so that it and `0.0.0.0:P` go together."""
    ipv4_ports = {address.port for address in addresses if ":" not in address.host}
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            sockets.append(listen(address, ipv6_only=address.port in ipv4_ports))
    except ListenError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def name_of(sock: socket.socket) -> str:
    """address:port of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Server:
    """Serves `routes` (path to Route) on listening `sockets`, which it owns from now on, to whom `guard` lets
    pass.

    Routes are called on the connections' threads, several at a time. An exception in one is logged and
    answered with a 500; once the reply has begun it resets the connection, so no part passes for all.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], routes: Mapping[str, Route], guard: Guard | None = None
    ) -> None:
        self._listeners = {sock.fileno(): sock for sock in sockets}
        self._routes = routes
        self._guard = guard or Guard()
        self._connections = Connections()
        self._starved = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._own: deque[Connection] = deque()
        self._stopping = False
        self._acceptor = threading.Thread(target=self._accept_all, name="http-accept", daemon=True)

    def start(self) -> None:
        """Begin to serve, on threads of its own. Returns at once."""
        _start(self._acceptor)

    def connect(self) -> socket.socket:
        """A connection of the daemon's own: served as any other, by the same threads, but without TCP, and
        without TLS or a password."""
        ours, theirs = socket.socketpair()
        self._own.append(Connection(theirs, "tcpmon itself", own=True))
        os.eventfd_write(self._wake, 1)
        return ours

    def stop(self) -> None:
        """Close listeners and connections; waits at most STOP_SECONDS for the threads. Once, after start.

        Who has a request here, or on its way, gets its reply, if GRACE_SECONDS are enough.
        """
        deadline = time.monotonic() + STOP_SECONDS
        self._stopping = True
        os.eventfd_write(self._wake, 1)
        self._acceptor.join(GRACE_SECONDS)  # then none comes that was taken and is turned away
        self._connections.finish(GRACE_SECONDS)
        self._acceptor.join(STOP_SECONDS)
        for sock in self._listeners.values():
            sock.close()
        os.close(self._wake)
        for thread in self._connections.threads():
            thread.join(max(0.0, deadline - time.monotonic()))
        if still := self._connections.threads():
            log.warning("%d HTTP replies were still in the making after %g s", len(still), STOP_SECONDS)

    def _accept_all(self) -> None:
        poller = select.poll()
        for descriptor in (self._wake, *self._listeners):
            poller.register(descriptor, select.POLLIN)
        while not self._stopping:
            for descriptor, _ in poller.poll():
                if descriptor in self._listeners:
                    self._accept(self._listeners[descriptor])
                else:
                    self._accept_own()

    def _accept(self, listener: socket.socket) -> None:
        if self._stopping:  # whoever takes the listener over, or its end, answers
            return
        try:
            sock, peer = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # the client was faster in leaving
            return
        except (OSError, MemoryError) as error:
            self._starve(error)
            return
        self._starved = False
        # Otherwise a reply's last packet waits for the client's delayed acknowledgement, 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._take(Connection(sock, f"{peer[0]} port {peer[1]}"))

    def _accept_own(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        while self._own:
            self._take(self._own.popleft())

    def _take(self, connection: Connection) -> None:
        if self._connections.admit(connection):
            self._begin(connection)
        else:
            connection.sock.close()

    def _starve(self, error: Exception) -> None:
        """No descriptor (EMFILE, ENFILE) or memory: the listener stays readable, so poll would not wait."""
        if not self._starved:
            log.warning("cannot accept an HTTP connection: %s", error)
        self._starved = True
        self._connections.shed(BACKOFF_SECONDS)

    def _begin(self, connection: Connection) -> None:
        name = f"http-{connection.peer}"
        connection.thread = threading.Thread(target=self._serve, args=(connection,), name=name, daemon=True)
        try:
            _start(connection.thread)
        except (RuntimeError, MemoryError) as error:
            log.warning("cannot serve an HTTP connection: %s", error)
            self._connections.leave(connection)

    def _serve(self, connection: Connection) -> None:
        try:
            channel = self._guard.open(connection, self._connections)
            Handler(channel, self._connections, self._routes, self._guard)
        except Hangup as reason:
            log.debug("%s: %s", connection.peer, reason)
        except Exception:
            log.exception("%s: connection given up: this is a bug in tcpmon", connection.peer)
        finally:
            self._connections.leave(connection)


def _start(thread: threading.Thread) -> None:
    default = threading.stack_size(STACK_BYTES)  # of all threads started from now on, hence put back
    try:
        thread.start()
    finally:
        threading.stack_size(default)


def _resolve(address: Address) -> tuple[int, int, int, str, tuple[object, ...]]:
    flags = socket.AI_PASSIVE
    return socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)[0]


def _listen_error(address: Address, error: OSError) -> ListenError:
    host = f"[{address.host}]" if ":" in address.host else address.host
    hint = _HINTS.get(error.errno or 0, "see `listen` in the configuration file")
    reason = (error.strerror or str(error)).lower()
    return ListenError(f"cannot listen on {host}:{address.port}: {reason}", hint.format(port=address.port))
