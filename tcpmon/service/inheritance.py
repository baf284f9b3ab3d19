"""What a start finds already there: listening sockets of tcpmon.socket, and the module that was kept."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from tcpmon.service import store
from tcpmon.service.manager import Manager

log = logging.getLogger(__name__)

_TCP = (6, 262)  # IPPROTO_TCP, IPPROTO_MPTCP


@dataclass(frozen=True)
class Inheritance:
    """`sockets` listen already, in place of `listen`; `kept` are the store's descriptors, by name."""

    sockets: tuple[socket.socket, ...]
    kept: Mapping[str, int]


def take(manager: Manager) -> Inheritance:
    """All that systemd hands over, sorted; what nobody here can use is closed."""
    sockets: list[socket.socket] = []
    kept: dict[str, int] = {}
    for name, fds in manager.inherited().items():
        if store.is_ours(name):
            kept[name], *surplus = fds
        else:
            listening = [fd for fd in fds if _listens(fd)]
            sockets += [_socket(fd) for fd in listening]
            surplus = [fd for fd in fds if fd not in listening]
        for fd in surplus:
            log.warning("systemd hands over a descriptor that tcpmon has no use for: %s", name)
            os.close(fd)
    return Inheritance(tuple(sockets), kept)


def _listens(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            tcp = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) in _TCP
            return tcp and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False


def _socket(fd: int) -> socket.socket:
    sock = socket.socket(fileno=fd)
    sock.setblocking(False)
    return sock
