"""Programs under a test's command that tell what they did, in the words of harness.watched.

Each function here is for `Party.ask`: it runs in the party's process, on the sockets that it keeps.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.netns import Netns
from harness.traffic import IPV4, Accept, Way, accept4, connect, connect_errno, drain, linger0, listen
from harness.watched import Deed, Flow, flow_of, plain
from harness.workload import Child, rename, spawn

from .b_traffic import ask, obey

libc = ctypes.CDLL(None, use_errno=True)
held: list[socket.socket] = []
listeners: list[socket.socket] = []


@dataclass(frozen=True)
class Party:
    """A child that does what it is told."""

    child: Child
    comm: str

    @property
    def pid(self) -> int:
        return self.child.pid

    def ask(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returned, in the party's process."""
        return ask(self.child, function, *args)

    def tell(self, function: Callable[..., Any], *args: Any) -> None:
        """The same without waiting for it; `Child.hear` has the answer."""
        self.child.say((function, *args))

    def leave(self, function: Callable[..., Any]) -> None:
        """Has it do its last: something that it does not survive."""
        self.tell(function)
        self.child.join()

    def did(self, flows: Iterable[Flow], pid: int = 0, comm: str = "", uid: int = 0) -> list[Deed]:
        """That it was its deed; or that of a process or thread of its, by another pid or name."""
        return [Deed(pid or self.pid, comm or self.comm, flow, uid) for flow in flows]


@contextmanager
def party(ns: Netns | None, comm: str) -> Iterator[Party]:
    with spawn(ns, comm, obey) as child:
        yield Party(child, comm)


def serve(way: Way = IPV4, protocol: int = 0, port: int = 0) -> int:
    """Listen; the port."""
    listeners.append(listen(way, port, protocol=protocol))
    return int(listeners[-1].getsockname()[1])


def take(count: int, accept: Accept = accept4) -> None:
    """Accept, and keep."""
    held.extend(accept(listeners[-1]) for _ in range(count))


def dial(count: int, target: str, port: int, blocking: bool = True, protocol: int = 0) -> list[Flow]:
    """Connect, and keep."""
    socks = [connect(target, port, blocking, protocol) for _ in range(count)]
    held.extend(socks)
    return [flow_of(sock) for sock in socks]


def begin(count: int, target: str, port: int) -> list[Flow]:
    """Start non-blocking connects, and keep them."""
    flows = []
    for _ in range(count):
        sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET)
        sock.setblocking(False)
        assert sock.connect_ex((target, port)) == errno.EINPROGRESS
        held.append(sock)
        here = sock.getsockname()
        flows.append(Flow(plain(here[0]), here[1], plain(target), port))
    return flows


def fail(count: int, target: str, port: int, code: int, source: str, blocking: bool = True) -> list[Flow]:
    """Connects from a port of `source`'s that end with errno `code`, in threads of the program's name."""
    socks = [socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET) for _ in range(count)]
    flows = []
    for sock in socks:
        sock.bind((source, 0))
        flows.append(Flow(plain(source), sock.getsockname()[1], plain(target), port))
    codes: list[int] = []

    def one(sock: socket.socket) -> None:
        codes.append(connect_errno(sock, (target, port), blocking))

    in_threads([partial(one, sock) for sock in socks])
    assert codes == [code] * count, [os.strerror(code) for code in codes]
    for sock in socks:
        sock.close()
    return flows


def in_threads(works: Sequence[Callable[[], object]], names: Sequence[str] = ()) -> None:
    """All at once, each in a thread, which may have a name of its own."""

    def body(number: int) -> None:
        if names:
            rename(names[number])
        works[number]()

    crew = [threading.Thread(target=body, args=(number,)) for number in range(len(works))]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()


def close() -> None:
    while held:
        held.pop().close()


def reset() -> None:
    for sock in held:
        linger0(sock)
    close()


def shut(how: int = socket.SHUT_WR) -> None:
    for sock in held:
        sock.shutdown(how)


def shut_read_close() -> None:
    """The polite way: no more from us, the rest from them, goodbye."""
    shut()
    read_close()


def shut_both_close() -> None:
    shut(socket.SHUT_RDWR)
    close()


def read_to_the_end() -> None:
    """Until the other ends have gone, however they do."""
    for sock in held:
        with suppress(ConnectionResetError):
            drain(sock)


def read_close() -> None:
    read_to_the_end()
    close()


def send(payload: bytes) -> None:
    for sock in held:
        sock.sendall(payload)


def fork_heir(name: str) -> int:
    """The pid of a fork that keeps all sockets until it is killed."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        rename(name)
        os.write(theirs, b"x")
        signal.pause()
    os.read(ours, 1)
    return pid


def bury(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def exit_at_once() -> None:
    os._exit(0)


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop_listening() -> None:
    while listeners:
        listeners.pop().close()


def exchange(count: int, target: str, port: int, protocol: int = 0) -> list[Flow]:
    """Connect and close, one after the other."""
    flows = []
    for _ in range(count):
        flows += dial(1, target, port, True, protocol)
        close()
    return flows


def take_and_close(count: int, accept: Accept = accept4) -> None:
    """Accept, read to the end and close, one after the other."""
    for _ in range(count):
        take(1, accept)
        read_close()
