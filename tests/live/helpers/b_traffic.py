"""Clients and servers under a test's command: children that do what they are told, step by step."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from harness.netns import Netns
from harness.traffic import linger0
from harness.workload import Child, Link, spawn

Address = tuple[str, int]

SYN_SENT = 2

_held: list[socket.socket] = []  # in a child: the sockets that it keeps open


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def dial(address: Address, source: str = "") -> socket.socket:
    """A connection to `address`, from the local address `source` if one is given."""
    sock = socket.socket(family(address[0]))
    if source:
        sock.bind((source, 0))
    sock.connect(address)
    return sock


def connect(address: Address, n: int = 1, source: str = "") -> None:
    """Open and close `n` connections, one after the other."""
    for _ in range(n):
        dial(address, source).close()


def fail(address: Address, n: int, *errors: int) -> None:
    """Try `n` connects, each of which must end with one of `errors`."""
    for _ in range(n):
        with socket.socket(family(address[0])) as sock:
            got = sock.connect_ex(address)
            assert got in errors, f"{address}: {os.strerror(got)}"


def hold(address: Address, n: int, source: str = "") -> None:
    """Open `n` connections and keep them."""
    _held.extend(dial(address, source) for _ in range(n))


def start(address: Address, n: int) -> None:
    """Start `n` non-blocking connects and keep them."""
    for _ in range(n):
        sock = socket.socket(family(address[0]))
        sock.setblocking(False)
        sock.connect_ex(address)
        _held.append(sock)


def states() -> list[int]:
    """The TCP state of each socket kept."""
    return [sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] for sock in _held]


def release() -> None:
    """Close all that is kept."""
    while _held:
        _held.pop().close()


def reset() -> None:
    """Close all that is kept, with a RST: each is over when its close() returns."""
    while _held:
        sock = _held.pop()
        linger0(sock)
        sock.close()


def become(uid: int) -> None:
    os.setresuid(uid, uid, uid)


def obey(link: Link) -> None:
    """Do each order (function, *args), and answer with what it returned."""
    while True:
        function, *args = link.hear()
        link.say(function(*args))


def ask(child: Child, function: Callable[..., Any], *args: Any) -> Any:
    """Have an obeying child call a function, to its end."""
    child.say((function, *args))
    return child.hear()


def client(ns: Netns | None, comm: str | bytes) -> Child:
    """A child for `ask`."""
    return spawn(ns, comm, obey)


def listener(address: Address) -> socket.socket:
    """A listening socket; "::" takes IPv4 as well."""
    both = address[0] == "::"
    return socket.create_server(address, family=family(address[0]), backlog=4096, dualstack_ipv6=both)


def serve(link: Link, addresses: list[Address], uid: int) -> None:
    """Say the ports, then accept for ever, and close what its peer has closed."""
    with selectors.DefaultSelector() as ready:
        for sock in map(listener, addresses):
            ready.register(sock, selectors.EVENT_READ, True)
        ports = [key.fileobj.getsockname()[1] for key in ready.get_map().values()]  # type: ignore[union-attr]
        become(uid)
        link.say(ports)
        while True:
            for key, _ in ready.select():
                _serve_one(ready, key.fileobj, key.data)  # type: ignore[arg-type]


def _serve_one(ready: selectors.BaseSelector, sock: socket.socket, listens: bool) -> None:
    if listens:
        ready.register(sock.accept()[0], selectors.EVENT_READ, False)
        return
    try:
        over = not sock.recv(65536)
    except ConnectionResetError:
        over = True
    if over:
        ready.unregister(sock)
        sock.close()


@contextmanager
def server(
    ns: Netns | None, comm: str | bytes, *addresses: Address, uid: int = 0
) -> Iterator[tuple[Child, list[int]]]:
    """A child that serves `addresses` (default: one port on 127.0.0.1): (child, its ports)."""
    with spawn(ns, comm, serve, list(addresses) or [("127.0.0.1", 0)], uid) as child:
        yield child, child.hear()
