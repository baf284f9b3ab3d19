"""Child processes that make the traffic: forked, with a comm of their own, inside a namespace.

The child is forked at the call, so that any function or closure will do as its body; what it returns or
says must be picklable. A child that fails gives its traceback to the parent's next `hear` or `result`.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from .netns import Netns
from .polling import PATIENCE

CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
PATIENCE_S = 30.0 * PATIENCE

_libc = ctypes.CDLL(None, use_errno=True)
_fork = multiprocessing.get_context("fork")


def enter(ns: Netns) -> None:
    """Move the calling thread into `ns`."""
    fd = os.open(ns.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {ns.name}")
    finally:
        os.close(fd)


def rename(comm: str | bytes) -> None:
    """Set the calling thread's name (in the main thread: the process's comm)."""
    Path("/proc/thread-self/comm").write_bytes(comm.encode() if isinstance(comm, str) else comm)


class Link:
    """A child's way to talk with the test, step by step."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def say(self, what: Any = None) -> None:
        self._pipe.send(("said", what))

    def hear(self, patience_s: float = PATIENCE_S) -> Any:
        if not self._pipe.poll(patience_s):
            raise TimeoutError("the test said nothing")
        return self._pipe.recv()

    def fileno(self) -> int:
        """Readable when there is something to hear."""
        return self._pipe.fileno()


class Child:
    """A running child; leaving its `with` block kills and reaps it if it is still there."""

    def __init__(
        self, ns: Netns | None, comm: str | bytes, body: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self._pipe, theirs = _fork.Pipe()
        self._process = _fork.Process(target=_main, args=(theirs, ns, comm, body, args), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def say(self, what: Any = None) -> None:
        self._pipe.send(what)

    def hear(self, patience_s: float = PATIENCE_S) -> Any:
        """The next thing that the child says."""
        return self._receive("said", patience_s)

    def result(self, patience_s: float = PATIENCE_S) -> Any:
        """What the body returned, once it has ended and the process is gone."""
        value = self._receive("done", patience_s)
        self.join()
        return value

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """Send a signal, and wait for the end."""
        os.kill(self.pid, sig)
        self.join()

    def join(self) -> None:
        self._process.join(PATIENCE_S)
        assert self._process.exitcode is not None, f"pid {self.pid} did not end"

    def _receive(self, expected: str, patience_s: float) -> Any:
        assert self._pipe.poll(patience_s), f"pid {self.pid} neither spoke nor ended within {patience_s} s"
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            raise AssertionError(f"pid {self.pid} died without a word") from None
        assert kind == expected, f"child {kind}: {value}"
        return value

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._process.is_alive():
            self.kill()
        self._pipe.close()


def spawn(ns: Netns | None, comm: str | bytes, body: Callable[..., Any], *args: Any) -> Child:
    """Start `body(link, *args)` in a child named `comm` in `ns` (None: where the test is)."""
    return Child(ns, comm, body, args)


def run(
    ns: Netns | None, comm: str | bytes, body: Callable[..., Any], *args: Any, patience_s: float = PATIENCE_S
) -> Any:
    """`body(*args)` in a child named `comm` in `ns`, to its end; what it returned."""
    with spawn(ns, comm, lambda _link: body(*args)) as child:
        return child.result(patience_s)


def _main(
    pipe: Connection, ns: Netns | None, comm: str | bytes, body: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        if ns is not None:
            enter(ns)
        rename(comm)
        pipe.send(("done", body(Link(pipe), *args)))
    except BaseException:  # noqa: BLE001 - whatever it was, the parent must hear of it
        pipe.send(("failed", traceback.format_exc()))
