"""Waiting for what comes soon, and for a socket's end."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

DEADLINE_SECONDS = 20


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def drain(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))
