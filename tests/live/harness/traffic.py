"""The pieces that workloads are made of: listeners, both accepts, both ways to connect."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from .polling import PATIENCE
from .workload import Link

PATIENCE_MS = round(20_000 * PATIENCE)
_libc = ctypes.CDLL(None, use_errno=True)

Accept = Callable[[socket.socket], socket.socket]


@dataclass(frozen=True)
class Way:
    """How two ends meet over loopback."""

    client: socket.AddressFamily
    server: socket.AddressFamily
    target: str
    bind: str


IPV4 = Way(socket.AF_INET, socket.AF_INET, "127.0.0.1", "127.0.0.1")
IPV6 = Way(socket.AF_INET6, socket.AF_INET6, "::1", "::1")
MAPPED = Way(socket.AF_INET6, socket.AF_INET6, "::ffff:127.0.0.1", "::")
MAPPED_CLIENT = Way(socket.AF_INET6, socket.AF_INET, "::ffff:127.0.0.1", "127.0.0.1")
MAPPED_SERVER = Way(socket.AF_INET, socket.AF_INET6, "127.0.0.1", "::")
WAYS = {
    "ipv4": IPV4,
    "ipv6": IPV6,
    "mapped": MAPPED,
    "mapped-client": MAPPED_CLIENT,
    "mapped-server": MAPPED_SERVER,
}


def listen(way: Way = IPV4, port: int = 0, backlog: int = 4096, protocol: int = 0) -> socket.socket:
    """A listening socket; a `::` one takes IPv4 too."""
    sock = socket.socket(way.server, socket.SOCK_STREAM, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if way.server == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(way.bind != "::"))
    sock.bind((way.bind, port))
    sock.listen(backlog)
    return sock


def accept4(listener: socket.socket) -> socket.socket:
    """accept4(2), which is what Python calls."""
    return listener.accept()[0]


def plain_accept(listener: socket.socket) -> socket.socket:
    """accept(2), which Python never calls."""
    fd = _libc.accept(listener.fileno(), None, None)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "accept")
    return socket.socket(fileno=fd)


def finish_connect(sock: socket.socket) -> int:
    """Wait for a non-blocking connect's end; its errno (0 when established).

    POLLERR alone is not the end: an ICMP error is put on the error queue, which wakes poll(2), before
    the socket has the error (tcp_v4_err).
    """
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    while ready := poller.poll(PATIENCE_MS):
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code or ready[0][1] & (select.POLLOUT | select.POLLHUP):
            return code
    raise AssertionError("the connect did not end")


def connect_errno(sock: socket.socket, address: tuple[str, int], blocking: bool = True) -> int:
    """Connect, to the end; the errno."""
    sock.setblocking(blocking)
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        code = finish_connect(sock)
    sock.setblocking(True)
    return code


def connect(target: str, port: int, blocking: bool = True, protocol: int = 0) -> socket.socket:
    """A connected socket."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    code = connect_errno(sock, (target, port), blocking)
    if code:
        raise OSError(code, os.strerror(code))
    return sock


def connect_and_close(count: int, target: str, port: int, blocking: bool = True, protocol: int = 0) -> None:
    """`count` connections, one after the other, each closed by this end first."""
    for _ in range(count):
        connect(target, port, blocking, protocol).close()


def drain(sock: socket.socket) -> int:
    """Read to the end; how many bytes."""
    total = 0
    while chunk := sock.recv(1 << 16):
        total += len(chunk)
    return total


def serve(link: Link, count: int, way: Way = IPV4, accept: Accept = accept4, protocol: int = 0) -> None:
    """Listen, say the port, then accept `count` connections, each read to its end and closed."""
    listener = listen(way, protocol=protocol)
    link.say(listener.getsockname()[1])
    for _ in range(count):
        with accept(listener) as sock:
            drain(sock)


def linger0(sock: socket.socket) -> None:
    """Make close() send a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
