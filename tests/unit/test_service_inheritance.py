"""What systemd hands over, sorted: sockets to listen on, descriptors kept, and what nobody can use."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tcpmon.service import inheritance


@dataclass(frozen=True)
class Handed:
    """A manager that hands these over."""

    found: Mapping[str, list[int]]

    def inherited(self) -> Mapping[str, list[int]]:
        return self.found


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_nothing() -> None:
    found = inheritance.take(Handed({}))  # type: ignore[arg-type]
    assert (found.sockets, found.kept) == ((), {})


def test_sockets_by_any_name(stack: ExitStack) -> None:
    made = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
    names = [sock.getsockname() for sock in made]
    fds = [sock.detach() for sock in made]
    found = inheritance.take(Handed({"http": fds[:2], "tcpmon.socket": fds[2:]}))  # type: ignore[arg-type]
    assert [stack.enter_context(sock).getsockname() for sock in found.sockets] == names
    assert not any(sock.getblocking() for sock in found.sockets)


def test_what_nobody_can_use(stack: ExitStack, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Closed, and told: a file, a socket that is no listener, one of no network."""
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(tmp_path / "socket"))
    local.listen()
    useless = [os.memfd_create("file"), socket.socket().detach(), local.detach()]
    found = inheritance.take(Handed({"http": useless}))  # type: ignore[arg-type]
    assert not found.sockets
    assert caplog.text.count("no use for: http") == 3
    for fd in useless:
        with pytest.raises(OSError):
            os.fstat(fd)


def test_what_was_kept() -> None:
    fds = [os.memfd_create(name) for name in ("manifest", "map.series", "map.series")]
    handed = {"manifest": fds[:1], "map.series": fds[1:]}
    found = inheritance.take(Handed(handed))  # type: ignore[arg-type]
    assert found.kept == {"manifest": fds[0], "map.series": fds[1]}
    for fd in fds[:2]:
        os.close(fd)
    with pytest.raises(OSError):
        os.fstat(fds[2])
