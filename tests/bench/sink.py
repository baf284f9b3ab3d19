"""Stands for journald on machines without one: `python -m tests.bench.sink PATH` takes what comes, until
SIGTERM."""

from __future__ import annotations

import socket
import sys


def main() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(sys.argv[1])
        while True:
            sock.recv(1 << 16)


if __name__ == "__main__":
    main()
