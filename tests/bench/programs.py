"""A host's worth of programs: `python -m tests.bench.programs`, in a network namespace, until its stdin ends.

Ten services (service-0 at port 8000, and so on) and twenty programs, each of which talks to one or two of
them: forty label sets. A connection carries a few hundred bytes, and lives for milliseconds or seconds.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

SERVICES, PROGRAMS = 10, 20
FIRST_PORT = 8000
PAUSE_SECONDS = 0.5  # between two connections of a program, on average


def be(name: str, work: Callable[[], None]) -> int:
    """A child of that name; its pid. Ends with its parent."""
    pid = os.fork()
    if pid:
        return pid
    Path("/proc/self/comm").write_text(name)
    work()
    os._exit(0)


def service(port: int) -> Callable[[], None]:
    listener = socket.create_server(("127.0.0.1", port), backlog=128)

    def answer(sock: socket.socket) -> None:
        with sock:
            while asked := sock.recv(4096):
                sock.sendall(asked * random.randint(1, 9))

    def work() -> None:
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    return work


def program(number: int, ports: list[int]) -> Callable[[], None]:
    def talk(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(b"x" * random.randint(40, 400))
            sock.recv(4096)
            time.sleep(random.expovariate(1 / 0.02) if random.random() < 0.9 else random.random())

    def work() -> None:
        random.seed(number)
        while True:
            talk(random.choice(ports))
            time.sleep(random.expovariate(1 / PAUSE_SECONDS))

    return work


def main() -> None:
    children = [be(f"service-{number}", service(FIRST_PORT + number)) for number in range(SERVICES)]
    for number in range(PROGRAMS):
        ports = [FIRST_PORT + number % SERVICES]
        if number < SERVICES:
            ports.append(FIRST_PORT + (number + 3) % SERVICES)
        children.append(be(f"program-{number}", program(number, ports)))
    print("running", flush=True)
    sys.stdin.read()  # until the bench lets go of it
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
